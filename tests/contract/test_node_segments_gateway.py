"""A guest on a segment is given its addresses in its own berth, which is its gateway where the network says so."""

from __future__ import annotations

import functools
import ipaddress
import socket
import struct
import threading
import time

import pytest

from berth.api.order import LimitOrder, NicOrder
from berth.effects import dhcp, frames, namespaces, wiring
from tests.contract import pods
from tests.contract.lan import ask, run, serve
from tests.contract.segment_lab import OVERLAY, Guest, Lab, Node, mac

NAT = OVERLAY.model_copy(update={"nat": True})
GATEWAYS = ("10.9.0.1", "fd00:9::1")
BROADCAST = b"\xff" * 6
Frame = bytes


def behind_its_berth(lab: Lab, node: Node, **words: object) -> Guest:
    guest = lab.guest(node, NAT, gateways=GATEWAYS, **words).wire_pod().start()
    guest.configure()
    guest.run("ip route add default via 10.9.0.1")
    pods.until(lambda: "default via fe80::1" in guest.run("ip -6 route"), what="the router's advertisement")
    return guest


def discover(guest: Guest) -> Frame:
    fixed = struct.pack(
        "!BBBBIHH16s16s64s128s4s", 1, 1, 6, 0, 77, 0, 0, b"", mac(guest.nic.mac), b"", b"", b"\x63\x82\x53\x63"
    )
    nobody, everybody = ipaddress.IPv4Address("0.0.0.0"), ipaddress.IPv4Address("255.255.255.255")
    said = fixed + bytes([53, 1, dhcp.Kind.DISCOVER, 255])
    return frames.udp4((mac(guest.nic.mac), BROADCAST), (nobody, everybody), (68, 67), said)


def solicit_router(guest: Guest) -> Frame:
    own, routers = ipaddress.IPv6Address("fe80::1234"), ipaddress.IPv6Address("ff02::2")
    macs = mac(guest.nic.mac), frames.multicast_mac(routers)
    return frames.icmpv6(macs, (own, routers), bytes([133]) + bytes(7))


def offer(frame: Frame) -> dict[int, bytes] | None:
    """The options of a DHCP offer."""
    packet = frames.parse(frame)
    if packet is None or (packet.source_port, packet.destination_port) != (67, 68):
        return None
    return {**dhcp._parse_options(packet.payload[240:]), 0: packet.payload[16:20]}


def advertisement(frame: Frame) -> bytes | None:
    packet = frames.parse(frame)
    return packet.payload if packet is not None and packet.protocol == 58 and packet.payload[0] == 134 else None


class TestAddresses:
    """Given out by the berth, heard by nobody else."""

    def test_dhcp_with_somebody_elses_gateway(self, lab: Lab) -> None:
        node = lab.node()
        more = {"gateways": ("10.9.0.254",), "dns": ("10.9.0.53", "fd00:9::53"), "search": ("lab.test",)}
        guest, other = lab.guest(node, **more).start(), lab.guest(node).start()
        assert other.hears(lambda f: f == discover(guest), lambda: guest.send(discover(guest))) == []
        [frame] = guest.hears(offer, lambda: guest.send(discover(guest)))
        options = offer(frame)
        assert options is not None
        assert (frame[:6], frame[6:12]) == (mac(guest.nic.mac), mac(wiring.GATEWAY_MAC))
        assert options[0] == socket.inet_aton(guest.address())
        assert options[1] == socket.inet_aton("255.255.255.0")
        assert options[3] == socket.inet_aton("10.9.0.254")
        assert options[6] == socket.inet_aton("10.9.0.53")
        assert options[26] == (1450).to_bytes(2, "big")
        assert options[119] == dhcp.encode_search(("lab.test",))
        assert guest.attach() == []

    def test_a_router_advertisement_that_makes_no_router(self, lab: Lab) -> None:
        node = lab.node()
        guest, other = lab.guest(node).start(), lab.guest(node).start()
        assert other.hears(lambda f: f == solicit_router(guest), lambda: guest.send(solicit_router(guest))) == []
        said = advertisement(guest.hears(advertisement, lambda: guest.send(solicit_router(guest)))[0])
        assert said is not None
        assert said[5] & 0xC0 == 0xC0  # addresses and more by DHCPv6
        assert said[6:8] == b"\0\0"
        assert ipaddress.IPv6Address("fd00:9::").packed in said

    def test_without_addresses_of_ours_the_guests_own_dhcp_goes_through(self, lab: Lab) -> None:
        node = lab.node()
        guest, other = lab.guest(node, addresses=()).start(), lab.guest(node, addresses=()).start()
        for frame in (discover(guest), solicit_of_its_own(guest)):
            assert other.hears(lambda f, sent=frame: f == sent, lambda sent=frame: guest.send(sent)) == [frame]
        assert guest.hears(offer, lambda: guest.send(discover(guest))) == []

    def test_a_flood_is_held_off(self, lab: Lab) -> None:
        guest = lab.guest(lab.node()).start()
        answers = guest.hears(offer, lambda: guest.send(*[discover(guest)] * 500))
        assert 1 <= len(answers) < 100


def solicit_of_its_own(guest: Guest) -> Frame:
    routers = ipaddress.IPv6Address("ff02::2")
    macs = mac(guest.nic.mac), frames.multicast_mac(routers)
    return frames.icmpv6(macs, (ipaddress.IPv6Address(0), routers), bytes([133]) + bytes(7))


class TestGateway:
    def test_out_through_the_pod(self, lab: Lab) -> None:
        node = lab.node()
        guest = behind_its_berth(lab, node)
        at = guest.number
        for server, seen in (((f"10.77.{at}.1"), f"10.77.{at}.5"), (f"fd77:{at}::1", f"fd77:{at}::5")):
            with node.call(lambda server=server: listen(server)):
                assert guest.inside(functools.partial(ask, server, 8081)) == seen.encode()
        assert guest.attach() == []
        assert guest.pings("10.9.0.1")
        assert guest.pings("fd00:9::1")
        assert wiring.GATEWAY_MAC in guest.run("ip neigh show 10.9.0.1 dev enp0")
        [said, *_] = guest.hears(advertisement, lambda: guest.send(solicit_router(guest)))
        assert (advertisement(said) or b"")[6:8] != b"\0\0"
        [offered, *_] = guest.hears(offer, lambda: guest.send(discover(guest)))
        options = offer(offered) or {}
        assert options[3] == socket.inet_aton("10.9.0.1")
        assert options[6] == socket.inet_aton("10.96.0.10")  # the pod's

    def test_neighbours_are_reached_directly_and_each_has_the_gateway_to_itself(self, lab: Lab) -> None:
        a, b = lab.node(), lab.node()
        one, other = behind_its_berth(lab, a), behind_its_berth(lab, b)
        for node in (a, b):
            node.tell(one, other, order=NAT)
        assert one.pings(other.address())
        assert one.pings(other.address(6))

        def ask_for_gateway() -> None:
            one.run("ip neigh flush dev enp0")
            assert one.pings("10.9.0.1")
            assert one.pings("fd00:9::1")

        assert other.hears(lambda f: f[6:12] == mac(one.nic.mac) and b"\x0a\x09\x00\x01" in f, ask_for_gateway) == []
        answers = (b"\x08\x06", b"\x08\x00")  # its own berth advertises itself now and then, by IPv6
        assert other.hears(lambda f: f[6:12] == mac(wiring.GATEWAY_MAC) and f[12:14] in answers, ask_for_gateway) == []

    def test_what_goes_out_is_limited_too(self, lab: Lab) -> None:
        node = lab.node()
        limit = LimitOrder(bits_per_second=8_000_000, burst_bytes=10_000)
        guest = behind_its_berth(lab, node, outbound=limit)
        assert guest.attach() == []
        at, size = guest.number, 4 << 20
        with node.call(lambda: socket.create_server((f"10.77.{at}.1", 8081))) as server:
            line = guest.inside(lambda: socket.create_connection((f"10.77.{at}.1", 8081), timeout=10))
            inner, _ = server.accept()
            began, got = time.monotonic(), 0
            threading.Thread(target=lambda: line.sendall(bytes(size)), daemon=True).start()
            while got < size:
                got += len(inner.recv(1 << 16))
            seconds = time.monotonic() - began
            inner.close()
            line.close()
        at_once = 1_000_000 + 65536  # nftables lets what a second amounts to go before it counts, and the burst
        assert seconds > (size - at_once) / 1_000_000 * 0.95

    def test_nobody_gets_in_and_the_berths_own_sockets_are_out_of_reach(self, lab: Lab) -> None:
        node = lab.node()
        guest = behind_its_berth(lab, node)
        at = guest.number
        node.run(f"ip route add 10.9.0.0/24 via 10.77.{at}.5; ip -6 route add fd00:9::/64 via fd77:{at}::5")
        with guest.inside(lambda: serve("0.0.0.0", 8080)):
            assert node.call(lambda: ask(guest.address(), 8080, 0.5)) == b""
        addresses = ("127.0.0.1", "10.9.0.1", f"10.77.{at}.5")
        own = [namespaces.in_network(guest.netns, functools.partial(serve, one, 9000)) for one in addresses]
        try:
            for one in addresses:
                assert guest.inside(functools.partial(ask, one, 9000, 0.4)) == b""
        finally:
            for server in own:
                server.close()

    def test_beside_a_nic_on_the_pod_network(self, lab: Lab) -> None:
        """Both ways out work, and what comes in comes to the pod's NIC."""
        node = lab.node()
        guest = lab.guest(node, NAT, gateways=GATEWAYS).wire_pod()
        guest.others = (NicOrder(name="default", mac="52:54:00:09:01:01"),)
        guest.start().configure()
        guest.run("ip addr add 10.0.2.2/24 dev enp1; ip route add 10.77.0.0/16 via 10.0.2.1")
        at = guest.number
        with node.call(lambda: serve(f"10.77.{at}.1", 8081)):
            assert guest.inside(lambda: ask(f"10.77.{at}.1", 8081)) == f"10.77.{at}.5".encode()
            guest.run("ip route del 10.77.0.0/16; ip route add 10.77.0.0/16 via 10.9.0.1")
            assert guest.inside(lambda: ask(f"10.77.{at}.1", 8081)) == f"10.77.{at}.5".encode()
        guest.run("ip route del 10.77.0.0/16; ip route add 10.77.0.0/16 via 10.0.2.1")
        with guest.inside(lambda: serve("0.0.0.0", 8080)):
            assert node.call(lambda: ask(f"10.77.{at}.5", 8080)) == f"10.77.{at}.1".encode()
        assert guest.attach() == []

    def test_a_range_that_overlaps_with_the_pods_network(self, lab: Lab) -> None:
        node = lab.node()
        words = {"addresses": ("10.77.1.77/24",), "gateways": ("10.77.1.254",)}
        guest = lab.guest(node, NAT, number=1, **words).wire_pod().start()
        guest.configure()
        guest.run("ip route add 10.77.1.1/32 via 10.77.1.254")
        with node.call(lambda: serve("10.77.1.1", 8081)):
            assert guest.inside(lambda: ask("10.77.1.1", 8081)) == b"10.77.1.5"

    def test_a_pod_without_a_network_is_named(self, lab: Lab) -> None:
        guest = lab.guest(lab.node(), NAT, gateways=GATEWAYS)
        with pytest.raises(Exception, match="eth0") as caught:
            guest.start()
        assert getattr(caught.value, "reason", "") == "PodNetworkMissing"

    def test_what_is_missing_is_mended(self, lab: Lab) -> None:
        node = lab.node()
        guest = behind_its_berth(lab, node)
        at = guest.number
        with node.call(lambda: serve(f"10.77.{at}.1", 8081)):
            for damage in (
                "ip addr del 10.9.0.1/32 dev vm-lan",
                "ip addr del fe80::1/64 dev vm-lan",
                f"ip route del {guest.address()}",
                f"ip -6 route del {guest.address(6)}",
                f"ip neigh del {guest.address()} dev vm-lan",
                "ip addr add 10.9.0.7/24 dev vm-lan",
                "echo 0 >/proc/sys/net/ipv4/ip_forward",
                "echo 1 >/proc/sys/net/ipv6/conf/vm-lan/disable_ipv6",
                "nft flush chain inet nic-lan outbound",
            ):
                run(guest.netns, damage)
                assert guest.attach() != [], damage
                assert guest.attach() == [], damage
                assert guest.inside(lambda: ask(f"10.77.{at}.1", 8081)), damage


def listen(address: str) -> socket.socket:
    """serve() for either family."""
    if ":" not in address:
        return serve(address, 8081)
    server = socket.create_server((address, 8081), family=socket.AF_INET6)

    def loop() -> None:
        line, peer = server.accept()
        line.sendall(peer[0].encode())
        line.close()

    threading.Thread(target=loop, daemon=True).start()
    return server
