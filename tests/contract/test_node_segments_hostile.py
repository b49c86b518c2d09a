"""Frames that a guest's kernel would not send, and packets that are no frames of a guest's at all."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

from berth.api.order import NicKind
from berth.effects import namespaces, wiring
from tests.contract.lan import run
from tests.contract.segment_frames import (
    BROADCAST,
    MARK,
    arp,
    fragmented_reply,
    link_local,
    nd,
    passes,
    redirect,
    router_advertisement,
    tagged,
    udp,
)
from tests.contract.segment_lab import OVERLAY, Guest, Lab, mac

FOREIGN = "52:54:00:66:66:66"


@pytest.fixture
def pair(lab: Lab) -> tuple[Guest, Guest]:
    """The hostile one, and one that listens; on one node."""
    node = lab.node()
    return lab.guest(node).start(), lab.guest(node).start()


def spoofs(one: Guest, other: Guest) -> dict[str, bytes]:
    own, to = mac(one.nic.mac), mac(other.nic.mac)
    v4, v6, t4, t6 = one.address(), one.address(6), other.address(), other.address(6)
    foreign, own_option = mac(FOREIGN), b"\x02\x01" + mac(one.nic.mac)
    return {
        "MAC": udp(v4, t4, by=foreign, to=to),
        "MAC of the other": udp(v4, t4, by=to, to=BROADCAST),
        "IPv4": udp("10.9.0.99", t4, by=own, to=to),
        "IPv4 of the other": udp(t4, t4, by=own, to=to),
        "IPv6": udp("fd00:9::99", t6, by=own, to=to),
        "IPv6 link-local": udp("fe80::99", t6, by=own, to=to),
        "no IPv6": udp("::", t6, by=own, to=to),
        "ARP sender's address": arp(own, own, t4, t4),
        "ARP sender's MAC": arp(own, foreign, v4, t4),
        "ARP reply": arp(own, own, t4, v4, operation=2, to=to),
        "ARP of odd length": arp(own, own, v4, t4)[:18] + b"\x08" + arp(own, own, v4, t4)[19:],
        "ARP operation": arp(own, own, v4, t4, operation=9),
        "neighbour advertisement": nd(136, own, v6, t6, own_option),
        "neighbour advertisement's MAC": nd(136, own, v6, v6, b"\x02\x01" + foreign),
        "neighbour advertisement from another": nd(136, own, t6, v6, own_option),
        "neighbour advertisement with more": nd(136, own, v6, v6, own_option + b"\x02\x01" + foreign),
        "neighbour solicitation's MAC": nd(135, own, v6, t6, b"\x01\x01" + foreign),
        "neighbour solicitation with more": nd(135, own, v6, t6, b"\x0e\x01" + bytes(6) + b"\x01\x01" + foreign),
        "looking whether the other's address is free": nd(135, own, "::", t6),
        "neighbour solicitation of nobody with a MAC": nd(135, own, "::", t6, b"\x01\x01" + foreign),
        "router advertisement": router_advertisement(own, link_local(one)),
        "router advertisement in fragments": fragmented_reply(own, link_local(one)),
        "redirect": redirect(own, to, v4, t4),
        "IPv6 redirect": nd(137, own, link_local(one), t6, bytes(16)),
        "DHCP server": udp(v4, "255.255.255.255", (67, 68), by=own, to=BROADCAST),
        "DHCP server's other port": udp(v4, t4, (1234, 68), by=own, to=to),
        "DHCPv6 server": udp(link_local(one), t6, (547, 546), by=own, to=to),
        "802.1Q": tagged(udp(v4, t4, by=own, to=to)),
        "802.1ad": tagged(udp(v4, t4, by=own, to=to), 0x88A8),
        "two tags": tagged(tagged(udp(v4, t4, by=own, to=to))),
        "LLDP": bytes.fromhex("0180c200000e") + own + b"\x88\xcc" + MARK,
        "spanning tree": bytes.fromhex("0180c2000000") + own + b"\x00\x26" + b"\x42\x42\x03" + MARK,
        "cut short": udp(v4, t4, by=own, to=to)[:20],
    }  # fmt: skip


def test_what_is_its_own_passes(pair: tuple[Guest, Guest]) -> None:
    one, other = pair
    own, to = mac(one.nic.mac), mac(other.nic.mac)
    v4, v6, t4, t6 = one.address(), one.address(6), other.address(), other.address(6)
    nonce = b"\x0e\x01" + bytes(range(6))
    for frame in (
        udp(v4, t4, by=own, to=to),
        udp(v6, t6, by=own, to=to),
        udp(link_local(one), t6, by=own, to=to),
        arp(own, own, v4, t4),
        arp(own, own, "0.0.0.0", v4),
        arp(own, own, v4, t4, operation=2, to=to),
        nd(136, own, v6, v6, b"\x02\x01" + own),
        nd(136, own, link_local(one), link_local(one), b"\x02\x01" + own),
        nd(135, own, v6, t6, b"\x01\x01" + own),
        nd(135, own, "::", v6),
        nd(135, own, "::", v6, nonce),
    ):
        assert passes(one, other, frame), frame.hex()


def test_nothing_that_is_not_its_own_passes(pair: tuple[Guest, Guest]) -> None:
    one, other = pair
    got = [name for name, frame in spoofs(one, other).items() if passes(one, other, frame)]
    assert got == []


def test_without_anti_spoofing_it_passes_but_never_reaches_the_berth(lab: Lab) -> None:
    node = lab.node()
    nat = OVERLAY.model_copy(update={"nat": True})
    words = {"anti_spoofing": False, "gateways": ("10.9.0.1", "fd00:9::1")}
    one = lab.guest(node, nat, **words).wire_pod().start()
    other = lab.guest(node, anti_spoofing=False).start()
    not_bridged = {"spanning tree", "LLDP", "cut short"}  # a bridge keeps these to itself, or a kernel drops them
    not_bridged |= {"MAC of the other"}  # a bridge learns from it, and sends the other's frames to the wrong port
    frames_ = {name: frame for name, frame in spoofs(one, other).items() if name not in not_bridged}
    kept = {name for name, frame in frames_.items() if not passes(one, other, frame)}
    assert kept == {"DHCP server", "DHCPv6 server"}  # the other is served by Berth
    for rule in (
        f"iifname vm-lan ip saddr != {one.address()}",
        f"iifname vm-lan ip6 saddr != {{ {one.address(6)}, fe80::/10 }}",
        "iifname vm-lan udp dport 5001",
        "iifname vm-lan icmpv6 type { 134, 137 }",
        "iifname sg-lan",
        "iifname eth0 ip saddr 10.9.0.0/24",
    ):
        run(one.netns, "nft add table inet seen")
        run(one.netns, "nft add chain inet seen in '{ type filter hook prerouting priority -300; }'")
        run(one.netns, f"nft add rule inet seen in '{rule} counter'")
    neighbours = run(one.netns, "ip neigh show dev vm-lan")
    gateway, own = mac(wiring.GATEWAY_MAC), mac(one.nic.mac)
    for frame in spoofs(one, other).values():
        one.send(gateway + frame[6:])
    for name, frame in {
        "foreign source to the gateway": udp("10.9.0.99", "10.77.1.1", by=own, to=gateway),
        "foreign MAC to the gateway": udp(one.address(), "10.77.1.1", by=mac(FOREIGN), to=gateway),
        "foreign IPv6 source": udp("fd00:9::99", "fd77:1::1", by=own, to=gateway),
        "the gateway's address": arp(own, own, "10.9.0.1", "10.9.0.1"),
        "ARP for the gateway by another": arp(own, own, "10.9.0.99", "10.9.0.1"),
        "neighbour solicitation for the gateway": nd(135, own, "fd00:9::99", "fd00:9::1", b"\x01\x01" + own),
        "tagged to the gateway": tagged(udp(one.address(), "10.77.1.1", by=own, to=gateway)),
    }.items():
        assert not passes(one, other, frame), name
    counters = run(one.netns, "nft list table inet seen")
    assert counters.count("packets 0 ") == counters.count("packets") == 6, counters
    assert run(one.netns, "ip neigh show dev vm-lan") == neighbours


def test_only_its_own_packets_go_out_by_the_gateway(lab: Lab) -> None:
    node = lab.node()
    nat = OVERLAY.model_copy(update={"nat": True})
    one = lab.guest(node, nat, gateways=("10.9.0.1", "fd00:9::1")).wire_pod().start()
    at, own, gateway = one.number, mac(one.nic.mac), mac(wiring.GATEWAY_MAC)

    def listen() -> socket.socket:
        line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        line.bind((f"10.77.{at}.1", 5001))
        line.settimeout(0.25)
        return line

    with node.call(listen) as line:
        for source in ("10.9.0.99", "10.9.0.1", f"10.77.{at}.5", "127.0.0.1", "8.8.8.8", "0.0.0.0"):
            one.send(udp(source, f"10.77.{at}.1", by=own, to=gateway))
            one.send(udp(source, f"10.77.{at}.1", (68, 67), by=own, to=gateway))
            with pytest.raises(TimeoutError):
                line.recv(100)
        one.send(tagged(udp(one.address(), f"10.77.{at}.1", by=own, to=gateway)))
        with pytest.raises(TimeoutError):
            line.recv(100)
        one.send(udp(one.address(), f"10.77.{at}.1", by=own, to=gateway))
        assert line.recvfrom(100) == (MARK, (f"10.77.{at}.5", 5000))


def test_others_cannot_play_the_gateway_or_the_dhcp_server(lab: Lab) -> None:
    """Of two guests one may send what it likes; the other is on the same network, with its gateway in its berth."""
    node = lab.node()
    nat = OVERLAY.model_copy(update={"nat": True})
    evil = lab.guest(node, anti_spoofing=False).start()
    victim = lab.guest(node, nat, gateways=("10.9.0.1", "fd00:9::1")).wire_pod().start()
    own, to = mac(evil.nic.mac), mac(victim.nic.mac)
    for name, frame in {
        "ARP": arp(own, own, "10.9.0.1", "10.9.0.1"),
        "ARP reply": arp(own, own, "10.9.0.1", victim.address(), operation=2, to=to),
        "its MAC": udp(evil.address(), victim.address(), by=mac(wiring.GATEWAY_MAC), to=to),
        "neighbour advertisement": nd(136, own, "fd00:9::1", "fd00:9::1", b"\x02\x01" + own),
        "router advertisement": router_advertisement(own, link_local(evil)),
        "DHCP": udp("10.9.0.1", "255.255.255.255", (67, 68), by=own, to=BROADCAST),
        "DHCPv6": udp(link_local(evil), victim.address(6), (547, 546), by=own, to=to),
        "for somebody else": udp(evil.address(), "10.9.0.200", by=own, to=mac(FOREIGN)),
    }.items():
        assert not passes(evil, victim, frame), name
    assert passes(evil, victim, udp(evil.address(), victim.address(), by=own, to=to))


def test_a_guest_without_addresses_of_ours_has_its_mac_and_no_more_rights(lab: Lab) -> None:
    node = lab.node()
    one, other = lab.guest(node, addresses=()).start(), lab.guest(node, addresses=()).start()
    own, to = mac(one.nic.mac), mac(other.nic.mac)
    assert passes(one, other, udp("172.16.0.9", "172.16.0.10", by=own, to=to))
    assert passes(one, other, udp("2001:db8:5::9", "2001:db8:5::10", by=own, to=to))
    for name, frame in {
        "MAC": udp("172.16.0.9", "172.16.0.10", by=mac(FOREIGN), to=to),
        "ARP sender's MAC": arp(own, mac(FOREIGN), "172.16.0.9", "172.16.0.10"),
        "link-local of another": udp(link_local(other), "fe80::1", by=own, to=to),
        "advertisement for another's link-local": nd(136, own, "2001:db8::1", link_local(other), b"\x02\x01" + own),
        "router advertisement": router_advertisement(own, link_local(one)),
        "DHCP server": udp("172.16.0.9", "255.255.255.255", (67, 68), by=own, to=BROADCAST),
        "802.1Q": tagged(udp("172.16.0.9", "172.16.0.10", by=own, to=to)),
    }.items():
        assert not passes(one, other, frame), name


def test_an_attachment_is_guarded_in_the_same_way(lab: Lab) -> None:
    node = lab.node()
    node.run("ip link add br-net type bridge; ip link set br-net up")
    guests = []
    for _ in range(2):
        guest = lab.guest(node, kind=NicKind.ATTACHMENT, segment=None, interface="net1")
        node.run(f"ip link add n{guest.number} type veth peer name net1 netns {guest.pod.pid}")
        node.run(f"ip link set n{guest.number} master br-net up")
        guests.append(guest.start())
    one, other = guests
    got = [name for name, frame in spoofs(one, other).items() if passes(one, other, frame)]
    assert got == []
    assert passes(one, other, udp(one.address(), other.address(), by=mac(one.nic.mac), to=mac(other.nic.mac)))


class TestOverlay:
    """Who can put a frame into an overlay without being a guest on it."""

    PORT = 14789

    def vxlan(self, one: Guest, other: Guest) -> bytes:
        """A packet to the overlay's port with a frame that the other guest would take."""
        inner = udp(one.address(), other.address(), by=mac(one.nic.mac), to=mac(other.nic.mac))
        return struct.pack("!II", 0x08000000, OVERLAY.vni << 8) + inner

    def reaches(self, victim: Guest, work: Callable[[], object]) -> bool:
        return bool(victim.hears(lambda frame: MARK in frame, work, 0.3))

    def test_only_nodes_with_members_are_heard(self, lab: Lab) -> None:
        a, b, stranger = lab.node(), lab.node(), lab.node()
        one, other = lab.guest(a).start(), lab.guest(b).start()
        packet = self.vxlan(one, other)

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
                line.sendto(packet, (b.address, self.PORT))

        for node in (a, stranger):  # nobody was told of any other node yet
            assert not self.reaches(other, lambda node=node: node.call(send))
        for node in (a, b):
            node.tell(one, other)
        assert not self.reaches(other, lambda: stranger.call(send))
        assert self.reaches(other, lambda: a.call(send))
        b.tell(other, version=2)
        assert not self.reaches(other, lambda: a.call(send))

    def test_pods_and_guests_are_not(self, lab: Lab) -> None:
        """Also where the node sends what pods send with its own address, as container networks do."""
        a, b = lab.node(), lab.node()
        one, other = lab.guest(a).wire_pod().start(), lab.guest(b).wire_pod().start()
        for node in (a, b):
            node.tell(one, other)
            node.run("nft add table ip cni; nft add chain ip cni out '{ type nat hook postrouting priority srcnat; }'")
            node.run("nft add rule ip cni out ip saddr 10.77.0.0/16 oifname eth0 masquerade")
        packet = self.vxlan(one, other)

        def send(target: str) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
                line.sendto(packet, (target, self.PORT))

        def forge(guest: Guest, source: str, target: str) -> None:
            """From the pod, were it let send whole frames, with the address of a node."""
            by = mac(hardware(run(guest.netns, "ip -o link show eth0")))
            to = mac(hardware(guest.node.run(f"ip -o link show p{guest.number}")))
            frame = udp(source, target, (5000, self.PORT), packet, by=by, to=to)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as line:
                line.bind(("eth0", 0))
                line.send(frame)

        def pod_sends(guest: Guest, work: Callable[[], None]) -> bool:
            return self.reaches(other, lambda: namespaces.in_network(guest.netns, work))

        assert self.reaches(other, lambda: a.call(lambda: send(b.address)))  # a node itself can
        for guest in (one, other):
            for target in (b.address, f"10.77.{guest.number}.1"):
                assert not pod_sends(guest, lambda target=target: send(target))
                for source in (a.address, b.address):
                    assert not pod_sends(guest, lambda g=guest, s=source, t=target: forge(g, s, t))


def hardware(shown: str) -> str:
    """The MAC address in what `ip link` shows."""
    return shown.partition("link/ether ")[2][:17]
