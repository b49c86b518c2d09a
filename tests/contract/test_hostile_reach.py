"""Where a guest can get to: what a pod in its place could reach, and nothing of the berth it is in."""

from __future__ import annotations

import functools
import ipaddress
import itertools
import socket
from contextlib import ExitStack

import pytest

from berth.effects import namespaces
from tests.contract import hostile
from tests.contract import lan as lans
from tests.contract.hostile import (
    EVERYBODY,
    GATEWAY,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST6,
    LINK_LOCAL,
    ROUTER6,
    Stage,
    ethernet,
    ip4,
    ip6,
    multicast6,
    udp,
    udp6,
)
from tests.contract.lan import POD_IP, POD_IP6, ask, serve

METADATA, DNS_CACHE = "169.254.169.254", "169.254.20.10"


def open_everything() -> list[socket.socket]:
    """In the berth: sockets that hear whatever reaches it, on every address, and on groups that they joined."""
    four, six = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    tap = socket.if_nametoindex("vm0")
    for group in ("ff02::fb", "ff05::2"):
        member = ipaddress.IPv6Address(group).packed + tap.to_bytes(4, "little")
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
    for group in ("224.0.0.251", "239.1.1.1"):
        own = socket.inet_aton(group) + socket.inet_aton(GATEWAY)
        four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, own)
    raw = [socket.socket(socket.AF_INET, socket.SOCK_RAW, number) for number in (2, 50, 132, 253)]
    raw += [socket.socket(socket.AF_INET6, socket.SOCK_RAW, number) for number in (50, 132, 253)]
    for line, address in ((four, "0.0.0.0"), (six, "::")):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.bind((address, 5001))
    for line in (four, six, *raw):
        line.setblocking(False)
    return [four, six, *raw]


def test_the_berths_own_sockets_hear_nothing(stage: Stage) -> None:
    netns = stage.bench.lan.netns
    fours = (GATEWAY, "127.0.0.1", "127.255.0.9", "0.0.0.0", "10.0.2.255", "10.0.2.0", "255.255.255.255",
             "224.0.0.1", "224.0.0.251", "239.1.1.1")  # fmt: skip
    sixes = (ROUTER6, GATEWAY6, "::1", "::", "fe80::", "fd00:10:0:2::", "::ffff:127.0.0.1", "::ffff:10.0.2.1")
    groups = ("ff01::1", "ff02::1", "ff02::2", "ff02::fb", "ff05::2", "ff02::1:ff00:1")
    own_eth0 = lans.run(netns, "ip -6 -o addr show dev eth0 scope link").split()[3].split("/")[0]
    with ExitStack() as stack:
        lines = [stack.enter_context(line) for line in namespaces.in_network(netns, open_everything)]
        heard = stage.play(
            *(ethernet(0x0800, ip4(to, udp(b"x")), to=mac) for to in fours for mac in (GATEWAY_MAC, EVERYBODY)),
            *(ethernet(0x0800, ip4(to, bytes(32), protocol=n)) for to in fours for n in (2, 50, 132, 253)),
            *(ethernet(0x86DD, ip6(to, udp6(GUEST6, to, b"x"))) for to in (*sixes, own_eth0)),
            *(ethernet(0x86DD, ip6(to, bytes(32), protocol=n)) for to in sixes for n in (50, 132, 253)),
            *(
                multicast6(to, udp6(source, to, b"x"), source, 17, 64)
                for to in groups
                for source in (GUEST6, LINK_LOCAL)
            ),
        )
        assert heard == []
        for line in lines:
            with pytest.raises(BlockingIOError):
                line.recv(2000)
        four = lines[0]
        namespaces.in_network(netns, functools.partial(greet, (GATEWAY, 5001)))
        assert four.recv(10) == b"hello"  # and they do hear what is there
    stage.works()


def greet(to: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.sendto(b"hello", to)


@pytest.mark.parametrize("address", [METADATA, DNS_CACHE, "fd00:ec2::254"])
def test_metadata_and_caches_are_reached_as_the_pod_would(stage: Stage, address: str) -> None:
    """Whether a pod may is NetworkPolicy's business; the guest is under the same one, for it has the pod's address."""
    lan = stage.bench.lan
    six = ":" in address
    lans.run(lan.node, f"ip addr add {address}/{128 if six else 32} dev lo {'nodad' if six else ''}")
    pod = POD_IP6 if six else POD_IP
    with lan.in_node(functools.partial(serve, address, 80)):
        as_pod = namespaces.in_network(lan.netns, functools.partial(ask, address, 80))
        assert as_pod == lan.in_guest(functools.partial(ask, address, 80)) == pod.encode()
        rule = f"{'ip6' if six else 'ip'} saddr {pod} {'ip6' if six else 'ip'} daddr {address} drop"
        chain = f"type filter hook input priority 0\n {rule}\n"
        lans.run(lan.node, f"nft -f - <<N\ntable inet policies {{\n chain deny {{\n {chain} }}\n}}\nN\n")
        assert namespaces.in_network(lan.netns, functools.partial(ask, address, 80, 0.5)) == b""
        assert lan.in_guest(functools.partial(ask, address, 80, 0.5)) == b""


def test_the_link_local_neighbours_of_the_pod_are_out_of_reach(stage: Stage) -> None:
    """The node's end of the pod's cable: a pod could, a guest cannot, for its link ends at the berth."""
    lan = stage.bench.lan
    node = lans.run(lan.node, "ip -6 -o addr show dev veth0 scope link").split()[3].split("/")[0]
    heard = stage.play(
        *(
            ethernet(0x86DD, ip6(node, udp6(source, node, b"x"), source), to=to)
            for source in (GUEST6, LINK_LOCAL)
            for to in (GATEWAY_MAC, EVERYBODY)
        )
    )
    assert heard == []
    stage.works()


def test_multicast_is_heard_by_nobody(stage: Stage) -> None:
    fours, sixes = ("224.0.0.1", "224.0.0.251", "239.255.255.250"), ("ff02::1", "ff02::fb", "ff05::c", "ff0e::1")
    join = b"\x16\x00\x00\x00" + socket.inet_aton("239.1.1.1")
    report = b"\x8f\0\0\0\0\0\0\1\4\0\0\0" + ipaddress.IPv6Address("ff05::c").packed
    heard = stage.play(
        *(
            ethernet(0x0800, ip4(to, udp(b"x", (5353, 5353))), to=mac)
            for to in fours
            for mac in (EVERYBODY, GATEWAY_MAC)
        ),
        ethernet(0x0800, ip4("224.0.0.22", join, protocol=2, options=b"\x94\x04\0\0"), to=EVERYBODY),
        *(multicast6(to, udp6(by, to, b"x"), by, 17, 64) for to, by in itertools.product(sixes, (GUEST6, LINK_LOCAL))),
        *(multicast6("ff02::16", hostile.icmp6(by, "ff02::16", report), by, hops=1) for by in (GUEST6, LINK_LOCAL)),
        ethernet(0x0800, ip4("10.77.0.255", udp(b"x")), to=GATEWAY_MAC),  # the pod network's own broadcast address
    )
    assert heard == []
    groups = lans.run(stage.bench.lan.netns, "ip maddr show dev eth0")
    assert "239.1.1.1" not in groups
    assert "ff05::c" not in groups
    stage.works()
