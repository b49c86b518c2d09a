"""A guest that pretends to be somebody else: another machine, the gateway, a router, a DHCP server."""

from __future__ import annotations

import ipaddress
import socket
import struct

from berth.effects import ra
from tests.contract import hostile
from tests.contract import lan as lans
from tests.contract.hostile import (
    EVERYBODY,
    GATEWAY,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST,
    GUEST6,
    LINK_LOCAL,
    MAC,
    OTHER_MAC,
    ROUTER6,
    Stage,
    arp,
    ethernet,
    icmp6,
    ip4,
    multicast6,
    udp,
)
from tests.contract.lan import GUEST_MAC, NODE_IP, NODE_IP6, POD_IP, POD_IP6


def everything_known(stage: Stage) -> str:
    """All that pod and node know of addresses, routes and neighbours of theirs; states and times left out."""
    looks = "ip -o addr; ip route; ip -6 route; ip neigh show dev {0}; ip -6 neigh show dev {0}"
    lan = stage.bench.lan
    texts = [lans.run(lan.netns, looks.format("eth0")), lans.run(lan.node, looks.format("veth0"))]
    words = ("REACHABLE", "STALE", "DELAY", "PROBE", "expires", "router")
    return "\n".join(" ".join(w for w in text.split(" ") if w.strip() not in words) for text in texts)


def test_only_its_own_addresses_leave(stage: Stage) -> None:
    heard = stage.play(
        *(hostile.to_node(b"spoof", source) for source in ("10.0.2.77", GATEWAY, POD_IP, NODE_IP, "8.8.8.8")),
        *(hostile.to_node(b"spoof", source) for source in ("127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255")),
        *(hostile.to_node6(b"spoof", s) for s in (POD_IP6, NODE_IP6, GATEWAY6, "fd00:10:0:2::77", "2001:db8::1")),
        *(hostile.to_node6(b"spoof", s) for s in ("::", "::1", LINK_LOCAL, ROUTER6, "ff02::1", "::ffff:10.0.2.2")),
        *(hostile.to_node(b"spoof", by=mac) for mac in (OTHER_MAC, GATEWAY_MAC, EVERYBODY, bytes(6))),
        *(hostile.to_node6(b"spoof", by=mac) for mac in (OTHER_MAC, GATEWAY_MAC, EVERYBODY, bytes(6))),
    )
    assert heard == []
    [four, six] = stage.play(hostile.to_node(b"own"), hostile.to_node6(b"own"))
    assert four[26:30] == socket.inet_aton(POD_IP)
    assert six[22:38] == ipaddress.IPv6Address(POD_IP6).packed
    stage.works()


def test_arp_changes_nobodys_mind(stage: Stage) -> None:
    before, known = stage.neighbours(), everything_known(stage)
    claims = [
        arp(operation, (lladdr, claimed), (EVERYBODY, asked), to)
        for operation in (1, 2)
        for lladdr in (MAC, OTHER_MAC, GATEWAY_MAC)
        for claimed in (GATEWAY, POD_IP, NODE_IP, "10.0.2.77", GUEST)
        for asked in (claimed, GATEWAY, POD_IP)
        for to in (EVERYBODY, GATEWAY_MAC)
        if (lladdr, claimed) != (MAC, GUEST)
    ]
    assert stage.play(*claims) == []
    assert (stage.neighbours(), everything_known(stage)) == (before, known)
    stage.works()


def test_arp_is_answered_for_the_gateway_only(stage: Stage) -> None:
    with stage.bench.lan.in_guest(lambda: lans.raw_socket("enp0")) as line:
        stage.send(*(arp(1, (MAC, GUEST), (bytes(6), a)) for a in (POD_IP, NODE_IP, "10.0.2.77", "127.0.0.1")))
        stage.send(arp(1, (MAC, GUEST), (bytes(6), GATEWAY)))
        while (frame := line.recv(2000))[12:14] != b"\x08\x06" or frame[20:22] != b"\0\2":
            pass
    assert frame[22:32] == GATEWAY_MAC + socket.inet_aton(GATEWAY)  # the first answer there is


def test_neighbour_advertisements_change_nobodys_mind(stage: Stage) -> None:
    known = everything_known(stage)
    claims = [
        multicast6(target, icmp6(source, target, hostile.advertisement(claimed, lladdr)), source)
        for source in (GUEST6, LINK_LOCAL, ROUTER6, GATEWAY6)
        for claimed in (ROUTER6, GATEWAY6, GUEST6, POD_IP6, NODE_IP6)
        for lladdr in (OTHER_MAC, GATEWAY_MAC)
        for target in ("ff02::1", "ff02::2")
    ]
    assert stage.play(*claims) == []
    assert everything_known(stage) == known
    permanent = f"{GUEST6} lladdr {GUEST_MAC} PERMANENT"
    assert permanent in stage.neighbours()
    assert not [line for line in stage.neighbours() if line.startswith((ROUTER6 + " ", GATEWAY6, POD_IP6, NODE_IP6))]
    stage.works()


def test_neighbours_are_told_of_the_gateway_only(stage: Stage) -> None:
    with stage.bench.lan.in_guest(lambda: lans.raw_socket("enp0")) as line:
        for asked in (POD_IP6, NODE_IP6, "fe80::2", "fe80::", GUEST6, ROUTER6):
            stage.send(multicast6("ff02::1", icmp6(GUEST6, "ff02::1", hostile.solicitation(asked, MAC)), GUEST6))
        own = ipaddress.IPv6Address(GUEST6).packed
        while (frame := line.recv(2000))[6:12] != GATEWAY_MAC or frame[38:55] != own + b"\x88":
            pass
    assert frame[62:78] == ipaddress.IPv6Address(ROUTER6).packed  # the first answer there is


def test_a_rogue_router_is_heard_by_nobody(stage: Stage) -> None:
    known = everything_known(stage)
    prefix = ipaddress.IPv6Network("fd66::/64")
    rogue = ra.message(ra.Advertisement(MAC, 1280, dns=(ipaddress.IPv6Address(GUEST6),), prefixes=(prefix,)))
    packed = ipaddress.IPv6Address(NODE_IP6).packed
    redirect = struct.pack("!BBHI16s16s", 137, 0, 0, 0, ipaddress.IPv6Address(LINK_LOCAL).packed, packed)
    for name in ("vm0", "eth0"):
        lans.run(stage.bench.lan.netns, f"echo 2 > /proc/sys/net/ipv6/conf/{name}/accept_ra")  # were it to listen
    heard = stage.play(
        *(
            multicast6(target, icmp6(source, target, message), source)
            for message in (rogue, redirect)
            for source in (LINK_LOCAL, ROUTER6, GUEST6)
            for target in ("ff02::1", "ff02::2", "ff05::1")
        ),
        *(
            ethernet(0x86DD, hostile.ip6(to, icmp6(LINK_LOCAL, to, rogue), LINK_LOCAL, 58, 255))
            for to in (ROUTER6, GATEWAY6, NODE_IP6)
        ),
        ethernet(0x0800, ip4(GATEWAY, b"\x05\x01" + bytes(6) + ip4(NODE_IP, udp(b"x")), protocol=1)),  # ICMP redirect
    )
    assert heard == []
    assert everything_known(stage) == known
    assert "fd66" not in lans.run(stage.bench.lan.netns, "ip -6 route; ip -6 addr")
    stage.works()


def test_a_rogue_dhcp_server_is_heard_by_nobody(stage: Stage) -> None:
    offer = struct.pack("!BBBBIHH4s4s4s4s16s192s", 2, 1, 6, 0, 7, 0, 0x8000, b"", socket.inet_aton("10.66.0.2"),
                        socket.inet_aton(GUEST), b"", OTHER_MAC, b"") + b"\x63\x82\x53\x63\x35\x01\x02\xff"  # fmt: skip
    advertise = b"\x02xid\0\1\0\4duid\0\2\0\4evil"
    heard = stage.play(
        ethernet(0x0800, ip4("255.255.255.255", udp(offer, (67, 68))), to=EVERYBODY),
        ethernet(0x0800, ip4("10.0.2.255", udp(offer, (67, 68))), to=EVERYBODY),
        ethernet(0x0800, ip4("255.255.255.255", udp(offer, (67, 68)), source=GATEWAY), to=EVERYBODY),
        *(
            multicast6(to, hostile.udp6(source, to, advertise, (547, 546)), source, 17, 64)
            for to in ("ff02::1", "ff02::1:2", "ff05::1:3")
            for source in (LINK_LOCAL, GUEST6)
        ),
    )
    assert heard == []
    stage.works()


def test_dhcp_in_another_name_is_not_answered(stage: Stage) -> None:
    """Neither a frame of another MAC nor a request for another client gets anything."""
    discover = struct.pack("!BBBBIHH16s16s192s", 1, 1, 6, 0, 7, 0, 0x8000, b"", OTHER_MAC, b"")
    discover += b"\x63\x82\x53\x63\x35\x01\x01\xff"
    ours = discover.replace(OTHER_MAC, MAC)
    solicit = hostile.udp6("fe80::9", "ff02::1:2", b"\x01xid\0\1\0\4duid\0\3\0\x0c" + bytes(12), (546, 547))
    with stage.bench.lan.in_guest(lambda: lans.raw_socket("enp0")) as line:
        stage.send(
            ethernet(0x0800, ip4("255.255.255.255", udp(discover, (68, 67)), "0.0.0.0"), to=EVERYBODY),
            ethernet(0x0800, ip4("255.255.255.255", udp(ours, (68, 67)), "0.0.0.0"), to=EVERYBODY, by=OTHER_MAC),
            ethernet(0x86DD, hostile.ip6("ff02::1:2", solicit, "fe80::9"), by=OTHER_MAC),
            ethernet(0x0800, ip4("255.255.255.255", udp(ours, (68, 67)), "0.0.0.0"), to=EVERYBODY),
        )
        answers = [next_answer(line, 3), next_answer(line, 0.3)]
    assert [answer[70:76] for answer in answers] == [MAC, b""]  # one, to the last of them


def next_answer(line: socket.socket, seconds: float) -> bytes:
    """The next DHCP reply of either family that the guest hears."""
    line.settimeout(seconds)
    try:
        while True:
            frame = line.recv(2000)
            if frame[6:12] == GATEWAY_MAC and (frame[34:36] == b"\0\x43" or frame[54:56] == b"\x02\x23"):
                return frame
    except TimeoutError:
        return b""


def test_the_nodes_list_of_neighbours_cannot_be_filled(stage: Stage) -> None:
    """It is one for all pods: a thousand addresses of one guest would drive the others' out."""
    for number in range(2000):
        source = f"fe80::{number >> 8:x}:{number & 255:x}:1"
        stage.send(
            multicast6("ff02::1:ff00:1", icmp6(source, "ff02::1:ff00:1", hostile.solicitation(ROUTER6, MAC)), source)
        )
    assert stage.play() == []
    assert len(stage.neighbours()) <= 20
    stage.works()
