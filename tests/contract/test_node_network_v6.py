"""IPv6 of a guest's NIC, on a real kernel: the guest's own kernel takes what the berth advertises and grants."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from berth.api.order import LimitOrder
from berth.effects import answers, dhcp, dhcpv6, namespaces, netlink, wiring
from berth.effects.berths import NodeBerths
from berth.effects.network import NodeNetwork
from tests.contract import lan as lans
from tests.contract import pods
from tests.contract.lan import GUEST_MAC, NODE_IP6, POD_IP, POD_IP6, VM, Bench, Lan, ask, serve

GUEST6 = "fd00:10:0:2::2"
DNS6 = ipaddress.IPv6Address("fd00:10:96::a")
CLIENT = b"\x00\x03\x00\x01" + bytes.fromhex(GUEST_MAC.replace(":", ""))


@pytest.fixture
def single(start_pod: Callable[..., pods.FakePod], berths: NodeBerths) -> Iterator[Bench]:
    """A pod with an IPv4 address only."""
    pod = start_pod()
    (pod.root / "etc/resolv.conf").write_text(
        f"search ns.svc.cluster.local\nnameserver 10.96.0.10\nnameserver {DNS6}\n"
    )
    berth = berths.find(pod.uid)
    assert berth is not None
    made = Bench(Lan(pod), berth)
    made.lan.up()
    yield made
    made.down()


@pytest.fixture
def dual(single: Bench) -> Bench:
    """A pod with both, whose guest is there and has no address yet."""
    single.lan.up6()
    single.start()
    return single


@pytest.fixture
def running(dual: Bench) -> Bench:
    dual.lan.configure()
    dual.lan.configure6()
    return dual


def exchange(lan: Lan, kind: dhcpv6.Kind, *options: bytes) -> dhcpv6.Message | None:
    """Through the guest's kernel: a checksum that is wrong is dropped there."""

    def work() -> bytes:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            line.bind(("::", 546))
            index = socket.if_nametoindex("enp0")
            line.sendto(bytes([kind]) + b"abc" + b"".join(options), ("ff02::1:2", 547, 0, index))
            line.settimeout(2)
            with contextlib.suppress(TimeoutError):
                data, peer = line.recvfrom(2000)
                assert peer[:2] == ("fe80::1", 547)
                return data
            return b""

    pods.until(lambda: "tentative" not in lans.run(lan.guest, "ip -6 addr show dev enp0"), what="the guest's address")
    return dhcpv6.parse(lan.in_guest(work))


def option(code: int, value: bytes) -> bytes:
    return struct.pack("!HH", code, len(value)) + value


ASKS = option(dhcpv6.Option.CLIENT, CLIENT), option(dhcpv6.Option.ADDRESSES, b"\0\0\0\7" + bytes(8))


class TestGuestIsTold:
    def test_it_learns_its_router_from_its_own_kernel_s_solicitation(self, dual: Bench) -> None:
        guest = dual.lan.guest
        lans.run(guest, "ip link set enp0 down; ip link set enp0 up")  # now its kernel looks for routers
        pods.until(lambda: "fe80::1" in lans.run(guest, "ip -6 route show default"), what="the guest's route")
        route = lans.run(guest, "ip -6 route show default")
        assert "dev enp0 proto ra" in route
        assert "pref medium" in route
        assert f"fe80::1 lladdr {wiring.GATEWAY_MAC} router" in lans.run(guest, "ip -6 neigh show dev enp0")
        assert "inet6 fd" not in lans.run(guest, "ip -6 addr show dev enp0")  # it makes up no address of its own
        assert lans.run(guest, "cat /proc/sys/net/ipv6/conf/enp0/mtu").strip() == "1400"

    def test_solicit_advertise_request_reply(self, dual: Bench) -> None:
        offer = exchange(dual.lan, dhcpv6.Kind.SOLICIT, *ASKS)
        assert offer is not None
        assert offer.kind == dhcpv6.Kind.ADVERTISE
        server = offer.first(dhcpv6.Option.SERVER)
        assert server is not None
        fqdn = option(dhcpv6.Option.FQDN, b"\0")
        reply = exchange(dual.lan, dhcpv6.Kind.REQUEST, *ASKS, option(dhcpv6.Option.SERVER, server), fqdn)
        assert reply is not None
        assert (reply.kind, reply.transaction) == (dhcpv6.Kind.REPLY, b"abc")
        granted = reply.first(dhcpv6.Option.ADDRESSES)
        assert granted is not None
        assert ipaddress.IPv6Address(granted[16:32]) == ipaddress.IPv6Address(GUEST6)
        assert reply.first(dhcpv6.Option.DNS) == DNS6.packed
        assert reply.first(dhcpv6.Option.SEARCH) == dhcp.encode_search(("ns.svc.cluster.local",))
        assert reply.first(dhcpv6.Option.FQDN) == b"\x04\x03web"

    def test_a_pod_without_ipv6_says_nothing_of_it(self, single: Bench) -> None:
        single.start()
        guest = single.lan.guest
        assert exchange(single.lan, dhcpv6.Kind.SOLICIT, *ASKS) is None
        assert lans.run(guest, "ip -6 route show default") == ""
        assert lans.run(single.lan.netns, "ip -6 addr show dev vm0") == ""

    def test_a_family_that_comes_late_and_goes_again(self, single: Bench) -> None:
        single.start()
        assert single.attach() == []
        single.lan.up6()
        made = single.attach()
        assert wiring.AddAddress("vm0", "fe80::1/64") in made
        assert single.attach() == []
        single.lan.configure6()
        assert exchange(single.lan, dhcpv6.Kind.SOLICIT, *ASKS) is not None
        lans.run(single.lan.netns, f"ip -6 addr del {POD_IP6}/64 dev eth0")
        assert wiring.WriteSysctl("net/ipv6/conf/vm0/disable_ipv6", "1") in single.attach()
        pods.until(lambda: lans.run(single.lan.guest, "ip -6 route show default") == "", what="the end of the route")
        assert single.attach() == []

    def test_a_pod_with_ipv6_only(self, single: Bench) -> None:
        lan = single.lan
        lan.up6()
        lans.run(lan.netns, f"ip addr del {POD_IP}/24 dev eth0")
        single.start()
        assert single.attach() == []
        assert "inet " not in lans.run(lan.netns, "ip addr show dev vm0")
        lan.configure6()
        with lan.in_node(lambda: serve(NODE_IP6, 8081)):
            assert lan.in_guest(lambda: ask(NODE_IP6, 8081)) == POD_IP6.encode()

    def test_an_agent_that_starts_over_answers_again(self, dual: Bench) -> None:
        dual.network.dhcp.keep(VM, ())
        dual.network = NodeNetwork()
        assert dual.attach() == []
        assert exchange(dual.lan, dhcpv6.Kind.SOLICIT, *ASKS) is not None


class TestReach:
    """Who can talk to whom, over IPv6; and IPv4 beside it."""

    def test_the_pods_address_is_the_guests(self, running: Bench) -> None:
        lan = running.lan
        with lan.in_guest(lambda: serve("::", 8080)):
            assert lan.in_node(lambda: ask(POD_IP6, 8080)) == NODE_IP6.encode()  # and the client's address is kept
        with lan.in_guest(lambda: serve("0.0.0.0", 8080)):
            assert lan.in_node(lambda: ask(POD_IP, 8080)) == lans.NODE_IP.encode()

    def test_the_guest_goes_out_as_the_pod(self, running: Bench) -> None:
        lan = running.lan
        with lan.in_node(lambda: serve(NODE_IP6, 8081)):
            assert lan.in_guest(lambda: ask(NODE_IP6, 8081)) == POD_IP6.encode()

    def test_the_guest_reaches_itself_through_its_pods_address(self, running: Bench) -> None:
        lan = running.lan
        with lan.in_guest(lambda: serve("::", 8080)):
            assert lan.in_guest(lambda: ask(POD_IP6, 8080)) == b"fd00:10:0:2::1"

    def test_the_guest_reaches_a_service_that_it_is_behind_itself(self, running: Bench) -> None:
        lan = running.lan
        lans.run(
            lan.node,
            f"""nft -f - <<N
table ip6 proxy {{
  chain services {{ type nat hook prerouting priority dstnat;
    ip6 daddr fd96::99 tcp dport 80 dnat to [{POD_IP6}]:8080; }}
  chain hairpin {{ type nat hook postrouting priority srcnat; ip6 saddr {POD_IP6} ip6 daddr {POD_IP6} masquerade; }}
}}
N""",
        )
        with lan.in_guest(lambda: serve("::", 8080, b"service")):
            assert lan.in_guest(lambda: ask("fd96::99", 80)) == b"service"

    def test_the_berths_own_sockets_are_out_of_reach(self, running: Bench) -> None:
        lan = running.lan
        own = [
            namespaces.in_network(lan.netns, functools.partial(serve, a, 9000))
            for a in ("::1", "fd00:10:0:2::1", POD_IP6)
        ]
        try:
            for address in ("::1", "fd00:10:0:2::1", POD_IP6, "fe80::1%enp0"):
                assert lan.in_guest(functools.partial(ask, address, 9000, 0.5)) == b""
        finally:
            for server in own:
                server.close()

    def test_the_guests_inner_address_is_no_way_around_network_policies(self, running: Bench) -> None:
        lan = running.lan
        lans.run(lan.node, f"ip -6 route add fd00:10:0:2::/64 via {POD_IP6}")
        with lan.in_guest(lambda: serve("::", 8080)):
            assert lan.in_node(lambda: ask(GUEST6, 8080, 0.5)) == b""

    def test_the_gateway_answers_pings_and_the_pod_is_the_guest(self, running: Bench) -> None:
        for netns, address in ((running.lan.guest, "fe80::1%enp0"), (running.lan.node, POD_IP6)):
            assert namespaces.in_network(netns, functools.partial(ping6, address)) == b"\x81"
        lans.run(running.lan.guest, "ip link set enp0 down")
        assert running.lan.in_node(functools.partial(ping6, POD_IP6, 0.5)) == b""

    def test_a_running_connection_survives_the_agent_starting_over(self, running: Bench) -> None:
        lan = running.lan
        with lan.in_guest(lambda: socket.create_server(("::", 8080), family=socket.AF_INET6)) as server:
            line = lan.in_node(lambda: socket.create_connection((POD_IP6, 8080), timeout=3))
            inner, _ = server.accept()
            running.network = NodeNetwork()
            assert running.attach() == []
            line.sendall(b"still")
            assert inner.recv(10) == b"still"


def ping6(address: str, seconds: float = 3.0) -> bytes:
    """The type of the ICMPv6 answer."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as line:
        line.setsockopt(socket.IPPROTO_ICMPV6, 1, struct.pack("=8I", *[0xFFFFFFFF] * 4, 0xFFFFFFFD, *[0xFFFFFFFF] * 3))
        line.settimeout(seconds)
        target = socket.getaddrinfo(address, 0, socket.AF_INET6)[0][4]
        line.sendto(struct.pack("!BBHHH", 128, 0, 0, 77, 1), target)
        with contextlib.suppress(TimeoutError):
            return line.recv(100)[:1]
    return b""


class TestErrorsPass:
    """ICMP errors, both ways, both families: without them paths with smaller packets are black holes."""

    @pytest.fixture
    def narrow(self, running: Bench) -> Iterator[Bench]:
        """Behind the node a network that carries 1280 bytes."""
        node, far = running.lan.node, lans.new_namespace()
        lans.run(node, "ip link add far type veth peer name near")
        namespaces.in_network(node, lambda: netlink.move(socket.if_nametoindex("near"), far, "near"))
        lans.run(
            node, "ip link set far mtu 1280 up; ip addr add 10.78.0.1/24 dev far; ip addr add fd78::1/64 dev far nodad"
        )
        lans.run(far, "ip link set near mtu 1280 up; ip addr add 10.78.0.2/24 dev near")
        lans.run(far, "ip addr add fd78::2/64 dev near nodad; ip route add default via 10.78.0.1")
        lans.run(far, "ip -6 route add default via fd78::1")
        yield running
        os.close(far)

    @pytest.mark.parametrize("target", ["10.78.0.2", "fd78::2"])
    def test_the_guest_learns_of_a_narrow_path(self, narrow: Bench, target: str) -> None:
        def send() -> int:
            family = socket.AF_INET6 if ":" in target else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as line:
                if family == socket.AF_INET:
                    line.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: do
                    line.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
                line.connect((target, 9))
                line.send(bytes(1340))
                poller = select.poll()
                poller.register(line, select.POLLERR)
                poller.poll(2000)
                level, mtu = (socket.IPPROTO_IPV6, 24) if family == socket.AF_INET6 else (socket.IPPROTO_IP, 14)
                if family == socket.AF_INET6:
                    pods.until(lambda: line.getsockopt(level, mtu) < 1400, 2, "the path's MTU")
                return line.getsockopt(level, mtu)

        assert narrow.lan.in_guest(send) == 1280

    @pytest.mark.parametrize("pod", [POD_IP, POD_IP6])
    def test_a_client_learns_that_nobody_listens(self, running: Bench, pod: str) -> None:
        with pytest.raises(ConnectionRefusedError):
            running.lan.in_node(functools.partial(poke, pod))

    @pytest.mark.parametrize("node", [lans.NODE_IP, NODE_IP6])
    def test_the_guest_learns_that_nobody_listens(self, running: Bench, node: str) -> None:
        with pytest.raises(ConnectionRefusedError):
            running.lan.in_guest(functools.partial(poke, node))


def poke(address: str) -> None:
    """Some times: kernels limit how many errors they send."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as line:
        line.connect((address, 9999))
        line.settimeout(1.2)
        for _ in range(4):
            with contextlib.suppress(TimeoutError):
                line.send(b"?")
                line.recv(10)


def test_what_is_missing_is_mended_and_nothing_else(running: Bench) -> None:
    for damage, mended in (
        ("ip -6 addr del fe80::1/64 dev vm0", [wiring.AddAddress]),
        ("ip -6 addr add fd99::1/64 dev vm0", [wiring.RemoveAddress]),
        ("ip link set vm0 down", [wiring.LinkUp, wiring.AddAddress, wiring.SetNeighbour]),
        ("ip neigh del fd00:10:0:2::2 dev vm0", [wiring.SetNeighbour]),
        ("echo 0 > /proc/sys/net/ipv6/conf/all/forwarding", [wiring.WriteSysctl]),
        (
            "echo 1 > /proc/sys/net/ipv6/conf/vm0/disable_ipv6",
            [wiring.WriteSysctl, wiring.AddAddress, wiring.SetNeighbour],
        ),
        ("echo 1 > /proc/sys/net/ipv6/conf/vm0/accept_ra", [wiring.WriteSysctl]),
        ("nft flush chain netdev berth ingress", [wiring.LoadRules]),
        ("nft delete set netdev berth callers || nft flush table netdev berth", [wiring.LoadRules]),
    ):
        lans.run(running.lan.netns, damage)
        made = [type(change) for change in running.attach()]
        assert set(made) == set(mended), damage
        assert running.attach() == [], damage
    with running.lan.in_guest(lambda: serve("::", 8080)):
        assert running.lan.in_node(lambda: ask(POD_IP6, 8080)) == NODE_IP6.encode()


@pytest.mark.parametrize(("before", "after"), [("1", "2"), ("0", "0"), ("2", "2")])
def test_advertisements_that_the_pod_relies_on_are_still_heeded(single: Bench, before: str, after: str) -> None:
    name = "/proc/sys/net/ipv6/conf/eth0/accept_ra"
    single.lan.up6()
    lans.run(single.lan.netns, f"echo {before} > {name}")
    single.start()
    assert lans.run(single.lan.netns, f"cat {name}").strip() == after


def test_limits_come_change_and_go_on_a_running_guest(running: Bench) -> None:
    [nic] = running.nics
    fast, slow = (
        LimitOrder(bits_per_second=10**9, burst_bytes=10**6),
        LimitOrder(bits_per_second=10**6, burst_bytes=10**4),
    )
    for inbound, outbound, made in (
        (fast, None, ["vm0"]),
        (fast, slow, ["eth0"]),
        (slow, slow, ["vm0"]),
        (None, slow, ["vm0"]),
        (None, None, ["eth0"]),
    ):
        running.nics = [nic.model_copy(update={"inbound": inbound, "outbound": outbound})]
        assert [change.name for change in running.attach() if isinstance(change, wiring.SetLimit)] == made
        assert running.attach() == []
    assert "tbf" not in lans.run(running.lan.netns, "tc qdisc show")


def test_nobody_but_the_gateway_answers_for_an_address(running: Bench) -> None:
    """The guest asks who has them; its own kernel would send neighbour solicitations."""
    lan = running.lan
    lans.run(lan.guest, "ip -6 route add fd77::/64 dev enp0; ip -6 route add fe80::/10 dev enp0 || true")
    for address in (POD_IP6, NODE_IP6, "fe80::2", "fd00:10:0:2::77"):
        assert lan.in_guest(functools.partial(ping6, f"{address}%enp0" if "fe80" in address else address, 1.0)) == b""
        seen = lans.run(lan.guest, f"ip -6 neigh show {address} dev enp0")
        assert "lladdr" not in seen, seen
    assert lan.in_guest(functools.partial(ping6, "fe80::1%enp0")) == b"\x81"


def test_a_cni_whose_gateway_has_the_same_link_local_address(single: Bench) -> None:
    """fe80::1 is a common choice; the pod's default route leads to it on eth0, the guest's on its tap."""
    lan = single.lan
    lans.run(lan.node, "ip addr add fe80::1/64 dev veth0 nodad; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
    lans.run(lan.node, f"ip -6 route add {POD_IP6}/128 dev veth0; ip addr add fd79::1/128 dev lo")
    lans.run(lan.netns, f"ip addr add {POD_IP6}/128 dev eth0 nodad; ip -6 route add default via fe80::1 dev eth0")
    single.start()
    lan.configure6()
    with lan.in_node(lambda: serve("fd79::1", 8082)):
        assert lan.in_guest(lambda: ask("fd79::1", 8082)) == POD_IP6.encode()
    with lan.in_guest(lambda: serve("::", 8083, b"guest")):
        assert lan.in_node(lambda: ask(POD_IP6, 8083)) == b"guest"
    lans.run(lan.netns, "ip -6 route flush dev eth0 default; ip -6 route add default via fe80::1 dev eth0")  # once more
    with lan.in_node(lambda: serve("fd79::1", 8084)):
        assert lan.in_guest(lambda: ask("fd79::1", 8084)) == POD_IP6.encode()


def test_an_interface_too_narrow_for_ipv6_has_ipv4(single: Bench) -> None:
    [nic] = single.nics
    single.lan.up6()
    single.nics = [nic.model_copy(update={"mtu": 576})]
    single.start()
    assert single.attach() == []
    assert "mtu 576" in lans.run(single.lan.netns, "ip -o link show vm0")
    assert lans.run(single.lan.netns, "ip -6 addr show dev vm0") == ""
    single.lan.configure()
    with single.lan.in_node(lambda: serve(lans.NODE_IP, 8081)):
        assert single.lan.in_guest(lambda: ask(lans.NODE_IP, 8081)) == POD_IP.encode()


def test_a_fault_of_ours_ends_no_service(dual: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise ValueError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(answers, "answer", fail)
        assert exchange(dual.lan, dhcpv6.Kind.SOLICIT, *ASKS) is None
    assert exchange(dual.lan, dhcpv6.Kind.SOLICIT, *ASKS) is not None
