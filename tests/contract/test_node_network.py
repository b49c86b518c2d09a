"""A guest's NIC, wired by real netlink, nftables and DHCP; the guest is another namespace behind the tap."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import random
import resource
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from berth.effects import dhcp, namespaces, netlink, wiring
from berth.effects.berths import NodeBerths
from berth.effects.network import NodeNetwork
from berth.errors import HostFault
from tests.contract import lan as lans
from tests.contract import pods
from tests.contract.lan import GUEST_MAC, NICS, NODE_IP, POD_IP, VM, Bench, Lan, ask, serve


@pytest.fixture
def bench(start_pod: Callable[..., pods.FakePod], berths: NodeBerths) -> Iterator[Bench]:
    pod = start_pod()
    berth = berths.find(pod.uid)
    assert berth is not None
    made = Bench(Lan(pod), berth)
    made.lan.up()
    yield made
    made.down()


@pytest.fixture
def running(bench: Bench) -> Bench:
    """A guest that has its address."""
    bench.start()
    bench.lan.configure()
    return bench


def test_taps_are_made_once_and_taken_away(bench: Bench) -> None:
    taps = bench.network.create_taps(VM, 0, NICS)
    assert taps == bench.network.create_taps(VM, 0, NICS)
    assert len(taps["default"]) <= 15
    assert netlink.index_of(taps["default"]) is not None
    bench.network.detach(VM)
    bench.network.detach(VM)
    assert netlink.index_of(taps["default"]) is None


def test_the_second_time_changes_nothing(running: Bench) -> None:
    assert running.attach() == []
    assert netlink.index_of(wiring.tap_name(VM, "default")) is None


def test_what_is_missing_is_mended_and_nothing_else(running: Bench) -> None:
    for damage, mended in (
        ("ip link set vm0 mtu 1300", [wiring.SetLink, wiring.SetNeighbour]),
        ("ip link set vm0 down", [wiring.AddAddress, wiring.LinkUp, wiring.SetNeighbour]),
        ("ip addr add 10.9.9.9/24 dev vm0", [wiring.RemoveAddress]),
        ("nft delete chain netdev berth ingress", [wiring.LoadRules]),
        ("nft flush chain inet berth through", [wiring.LoadRules]),
        ("echo 0 > /proc/sys/net/ipv4/conf/vm0/arp_ignore", [wiring.WriteSysctl]),
        ("ip neigh del 10.0.2.2 dev vm0", [wiring.SetNeighbour]),
    ):
        lans.run(running.lan.netns, damage)
        made = [type(change) for change in running.attach()]
        assert made == [kind for kind in mended if kind in made], damage
        assert made, damage
        assert running.attach() == [], damage
    assert running.lan.in_guest(lambda: ping_gateway()) == b"\0"


def ping_gateway() -> bytes:
    """The type of the ICMP answer."""
    body = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
    total = sum(struct.unpack("!4H", body))
    total = (total >> 16) + (total & 0xFFFF)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as line:
        line.settimeout(2)
        line.sendto(body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:], ("10.0.2.1", 0))
        with contextlib.suppress(TimeoutError):
            return line.recv(100)[20:21]
    return b""


def test_the_pods_mtu_and_the_fixed_gateway_mac(running: Bench) -> None:
    link = lans.run(running.lan.netns, "ip -o link show vm0")
    assert "mtu 1400" in link
    assert wiring.GATEWAY_MAC in link


def test_a_second_attempt_takes_the_new_tap(running: Bench) -> None:
    """QEMU of the first attempt is gone; its tap is still in the berth's namespace."""
    before = namespaces.in_network(running.lan.netns, lambda: netlink.index_of("vm0"))
    running.network.create_taps(VM, 0, NICS)
    made = [type(change) for change in running.attach()]
    assert made[:2] == [wiring.RemoveLink, wiring.MoveTap]
    assert namespaces.in_network(running.lan.netns, lambda: netlink.index_of("vm0")) != before
    assert running.attach() == []


def test_no_tap_and_no_pod_network_are_named(bench: Bench) -> None:
    with pytest.raises(HostFault) as caught:
        bench.attach()
    assert caught.value.reason == "TapMissing"
    lans.run(bench.lan.netns, "ip link del eth0")
    with pytest.raises(HostFault) as caught:
        bench.attach()
    assert caught.value.reason == "PodNetworkMissing"


class TestReach:
    """Who can talk to whom."""

    def test_the_pods_address_is_the_guests(self, running: Bench) -> None:
        lan = running.lan
        with lan.in_guest(lambda: serve("0.0.0.0", 8080)):
            assert lan.in_node(lambda: ask(POD_IP, 8080)) == NODE_IP.encode()  # and the client's address is kept

    def test_the_guest_goes_out_as_the_pod(self, running: Bench) -> None:
        lan = running.lan
        with lan.in_node(lambda: serve(NODE_IP, 8081)):
            assert lan.in_guest(lambda: ask(NODE_IP, 8081)) == POD_IP.encode()

    def test_the_guest_reaches_itself_through_its_pods_address(self, running: Bench) -> None:
        lan = running.lan
        with lan.in_guest(lambda: serve("0.0.0.0", 8080, b"itself")):
            assert lan.in_guest(lambda: ask(POD_IP, 8080)) == b"itself"

    def test_the_guest_reaches_a_service_that_it_is_behind_itself(self, running: Bench) -> None:
        lan = running.lan
        lans.run(
            lan.node,
            f"""nft -f - <<N
table ip proxy {{
  chain services {{ type nat hook prerouting priority dstnat; ip daddr 10.96.0.99 tcp dport 80 dnat to {POD_IP}:8080; }}
  chain hairpin {{ type nat hook postrouting priority srcnat; ip saddr {POD_IP} ip daddr {POD_IP} masquerade; }}
}}
N""",
        )
        with lan.in_guest(lambda: serve("0.0.0.0", 8080, b"service")):
            assert lan.in_guest(lambda: ask("10.96.0.99", 80)) == b"service"

    def test_a_running_connection_survives_the_agent_starting_over(self, running: Bench) -> None:
        lan = running.lan
        with lan.in_guest(lambda: socket.create_server(("0.0.0.0", 8080))) as server:
            line = lan.in_node(lambda: socket.create_connection((POD_IP, 8080), timeout=3))
            inner, _ = server.accept()
            running.network = NodeNetwork()
            assert running.attach() == []
            line.sendall(b"still")
            assert inner.recv(10) == b"still"

    def test_what_connects_to_the_pods_loopback_reaches_the_guest(self, running: Bench) -> None:
        """`kubectl port-forward` does: the runtime connects from inside the pod."""
        lan = running.lan
        with lan.in_guest(lambda: serve("0.0.0.0", 8080)):
            assert namespaces.in_network(lan.netns, lambda: ask("127.0.0.1", 8080)) == b"10.0.2.1"

    def test_the_berths_own_sockets_are_out_of_reach(self, running: Bench) -> None:
        lan = running.lan
        own = [
            namespaces.in_network(lan.netns, functools.partial(serve, a, 9000))
            for a in ("127.0.0.1", "10.0.2.1", POD_IP)
        ]
        try:
            for address in ("127.0.0.1", "10.0.2.1", POD_IP):
                assert lan.in_guest(functools.partial(ask, address, 9000, 0.5)) == b""
            lans.run(
                lan.guest,
                "ip route add 127.0.0.0/8 via 10.0.2.1 table 9; ip rule add to 127.0.0.0/8 lookup 9 pref 0 || true",
            )
            assert lan.in_guest(lambda: ask("127.0.0.1", 9000, 0.5)) == b""
        finally:
            for server in own:
                server.close()

    def test_the_guests_inner_address_is_no_way_around_network_policies(self, running: Bench) -> None:
        lan = running.lan
        lans.run(lan.node, f"ip route add 10.0.2.0/24 via {POD_IP}")
        with lan.in_guest(lambda: serve("0.0.0.0", 8080)):
            assert lan.in_node(lambda: ask("10.0.2.2", 8080, 0.5)) == b""


class TestHostileGuest:
    """Frames that a guest's kernel would not send."""

    def send(self, lan: Lan, frame: bytes) -> None:
        def work() -> None:
            with lans.raw_socket("enp0") as line:
                line.send(frame)

        lan.in_guest(work)

    @staticmethod
    def udp(source: str, mac: str = GUEST_MAC, target: str = NODE_IP) -> bytes:
        data = struct.pack("!HHHH", 5000, 5001, 8 + 5, 0) + b"spoof"
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), 0, 0, 64, 17, 0,
                           socket.inet_aton(source), socket.inet_aton(target))  # fmt: skip
        total = sum(struct.unpack("!10H", head))
        total = (total >> 16) + (total & 0xFFFF)
        head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
        to, by = bytes.fromhex(wiring.GATEWAY_MAC.replace(":", "")), bytes.fromhex(mac.replace(":", ""))
        return to + by + b"\x08\x00" + head + data

    def test_only_its_own_addresses_leave(self, running: Bench) -> None:
        lan = running.lan

        def listen() -> socket.socket:
            line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            line.bind((NODE_IP, 5001))
            line.settimeout(0.3)
            return line

        with lan.in_node(listen) as line:
            for frame in (
                self.udp("10.0.2.77"),
                self.udp("10.0.2.1"),
                self.udp(POD_IP),
                self.udp("8.8.8.8"),
                self.udp("127.0.0.1"),
                self.udp("10.0.2.2", mac="52:54:00:99:99:99"),
                self.udp("10.0.2.2", mac=wiring.GATEWAY_MAC),
            ):
                self.send(lan, frame)
                with pytest.raises(TimeoutError):
                    line.recv(100)
            self.send(lan, self.udp("10.0.2.2"))
            assert line.recvfrom(100) == (b"spoof", (POD_IP, 5000))

    def test_the_gateways_address_cannot_be_claimed(self, running: Bench) -> None:
        lan = running.lan
        mac = bytes.fromhex(GUEST_MAC.replace(":", ""))
        for claimed in ("10.0.2.1", POD_IP, NODE_IP, "10.0.2.2"):
            for operation in (1, 2):
                body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
                own = bytes.fromhex("5254009999aa") if claimed == "10.0.2.2" else mac
                arp = body + own + socket.inet_aton(claimed) + b"\xff" * 6 + socket.inet_aton(claimed)
                self.send(lan, b"\xff" * 6 + mac + b"\x08\x06" + arp)
        neighbours = lans.run(lan.netns, "ip neigh show dev vm0").splitlines()
        assert [line.split()[:3] for line in neighbours] == [["10.0.2.2", "lladdr", GUEST_MAC]]
        with lan.in_guest(lambda: serve("0.0.0.0", 8080)):
            assert lan.in_node(lambda: ask(POD_IP, 8080)) == NODE_IP.encode()

    def test_nothing_but_ip_and_arp_gets_in(self, running: Bench) -> None:
        lan = running.lan
        lans.run(lan.guest, "echo 0 > /proc/sys/net/ipv6/conf/enp0/disable_ipv6")
        assert "inet6" not in lans.run(lan.netns, "ip addr show dev vm0")
        lans.run(lan.guest, "ip link set enp0 down; ip link set enp0 up")  # its kernel now looks for IPv6 neighbours
        lans.run(lan.netns, "nft insert rule netdev berth ingress ether type ip6 counter drop")
        pods.until(lambda: "packets 0 " not in lans.run(lan.netns, "nft list table netdev berth"), what="an IPv6 frame")
        assert lans.run(lan.netns, "ip -6 neigh show dev vm0") == ""


class TestDhcp:
    """A client on raw frames, as boot firmware and real clients use them."""

    @staticmethod
    def frame(kind: dhcp.Kind, xid: int, options: dict[int, bytes], flags: int = 0) -> bytes:
        mac = bytes.fromhex(GUEST_MAC.replace(":", ""))
        fixed = struct.pack(
            "!BBBBIHH16s16s64s128s4s", 1, 1, 6, 0, xid, 0, flags, b"", mac, b"", b"", b"\x63\x82\x53\x63"
        )
        body = b"".join(bytes([code, len(value)]) + value for code, value in {53: bytes([kind]), **options}.items())
        data = fixed + body + b"\xff"
        udp = struct.pack("!HHHH", 68, 67, 8 + len(data), 0) + data
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), b"\xff" * 4)
        total = sum(struct.unpack("!10H", head))
        while total >> 16:
            total = (total >> 16) + (total & 0xFFFF)
        return b"\xff" * 6 + mac + b"\x08\x00" + head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + udp

    def ask(self, line: socket.socket, frame: bytes, xid: int) -> tuple[str, bytes, dict[int, bytes]]:
        """Destination MAC, offered address and options of the answer."""
        line.send(frame)
        while True:
            got = line.recv(2000)
            if got[12:14] == b"\x08\x00" and got[23] == 17 and got[34:36] == b"\0\x43":
                assert got[40:42] == b"\0\0"  # no checksum, rather than one that is left to hardware
                data = got[42:]
                if struct.unpack_from("!I", data, 4)[0] == xid:
                    return got[:6].hex(":"), data[16:20], dhcp._parse_options(data[240:])

    @pytest.mark.parametrize("flags", [0, 0x8000])
    def test_discover_offer_request_ack(self, bench: Bench, flags: int) -> None:
        taps = bench.network.create_taps(VM, 0, NICS)
        bench.lan.plug(taps["default"])
        bench.attach()
        xid = random.getrandbits(32)
        with bench.lan.in_guest(lambda: lans.raw_socket("enp0")) as line:
            to, offered, options = self.ask(line, self.frame(dhcp.Kind.DISCOVER, xid, {}, flags), xid)
            assert to == ("ff:ff:ff:ff:ff:ff" if flags else GUEST_MAC)
            assert (offered, options[53]) == (socket.inet_aton("10.0.2.2"), b"\x02")
            chosen = {50: offered, 54: options[54]}
            _, granted, options = self.ask(line, self.frame(dhcp.Kind.REQUEST, xid, chosen, flags), xid)
        assert (granted, options[53]) == (offered, b"\x05")
        assert options[51] == b"\xff" * 4
        assert options[1] == socket.inet_aton("255.255.255.0")
        assert options[3] == options[54] == socket.inet_aton("10.0.2.1")
        assert options[6] == socket.inet_aton("10.96.0.10")
        assert options[26] == (1400).to_bytes(2, "big")
        assert options[12] == b"web"
        assert options[119] == dhcp.encode_search(("ns.svc.cluster.local", "cluster.local"))

    def test_an_agent_that_starts_over_answers_again(self, running: Bench) -> None:
        running.network.dhcp.keep(VM, ())
        running.network = NodeNetwork()
        running.network.serve(VM, running.berth, NICS, "web")
        with running.lan.in_guest(lambda: lans.raw_socket("enp0")) as line:
            assert self.ask(line, self.frame(dhcp.Kind.DISCOVER, 7, {}), 7)[1] == socket.inet_aton("10.0.2.2")
        running.network.detach(VM)

    def test_a_flood_is_held_off(self, running: Bench) -> None:
        lan, frame = running.lan, self.frame(dhcp.Kind.DISCOVER, 9, {})
        answers = 0
        with lan.in_guest(lambda: lans.raw_socket("enp0")) as line:
            for _ in range(500):
                line.send(frame)
            line.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                while True:
                    got = line.recv(2000)
                    answers += got[:6].hex(":") == GUEST_MAC and got[34:36] == b"\0\x43"
        assert 1 <= answers < 100


def test_attaching_takes_less_than_half_a_second_of_cpu_time(bench: Bench) -> None:
    """Not by the clock: what else the machine does is none of its business."""

    def spent() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    taps = bench.network.create_taps(VM, 0, NICS)
    bench.lan.plug(taps["default"])
    start = spent()
    bench.attach()
    first = spent() - start
    bench.attach()
    assert first < 0.5
    print(f"attach: {first * 1000:.0f} ms, again: {(spent() - start - first) * 1000:.0f} ms")


def test_descriptors_are_given_back(running: Bench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        running.attach()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_fifty_lives_leave_nothing_behind(bench: Bench) -> None:
    def count() -> tuple[int, int, int, str, str]:
        links = len(netlink.names())
        rules = lans.run(bench.lan.netns, "ip rule; ip route; nft list tables; ip neigh show nud permanent")
        return (
            links,
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            rules,
            lans.run(own, "nft list tables; ip route; ip rule"),
        )

    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    counts = []
    for _ in range(51):
        bench.network.create_taps(VM, 0, NICS)
        bench.attach()
        bench.network.detach(VM)
        lans.run(bench.lan.netns, "ip link del vm0")  # as QEMU's end and the pod's take it
        gc.collect()  # what earlier tests left to be found
        counts.append(count())
    os.close(own)
    assert counts[-1] == counts[0]


def test_no_thread_stays_in_the_berths_namespace(bench: Bench) -> None:
    own, before = os.readlink("/proc/self/ns/net"), set(os.listdir("/proc/self/task"))
    bench.lan.plug(bench.network.create_taps(VM, 0, NICS)["default"])
    bench.attach()
    for task in set(os.listdir("/proc/self/task")) - before:
        with contextlib.suppress(FileNotFoundError):  # one that just ended
            assert os.readlink(f"/proc/self/task/{task}/ns/net") == own
