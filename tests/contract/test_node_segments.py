"""Segments over real bridges, VXLAN and nftables: two nodes, guests on both, each joined through its own berth."""

from __future__ import annotations

import functools
import json
import os
import socket
import threading
import time
from dataclasses import replace

import pytest

from berth.api.order import LimitOrder, NicKind, NicOrder
from berth.effects import wiring
from berth.effects.segments import Place
from berth.errors import HostFault, InvalidSpec
from tests.contract import pods
from tests.contract.lan import run
from tests.contract.segment_lab import OVERLAY, Guest, Lab, Node, up

RED = OVERLAY.model_copy(update={"uid": "7c1b3c0e-1c55-4d9e-9a3b-222222222222", "name": "lab/red", "vni": 200})


def overlay_of(node: Node) -> str:
    """The VXLAN device's name."""
    return node.in_space("ip -o link show type vxlan").split(": ")[1].partition("@")[0]


def received(line: socket.socket) -> bytes:
    """The next frame; nothing when none comes in time."""
    try:
        return line.recv(2000)
    except TimeoutError:
        return b""


@pytest.mark.parametrize("underlay", [4, 6])
def test_guests_on_one_node_and_on_two(lab: Lab, underlay: int) -> None:
    a, b = lab.node(underlay), lab.node(underlay)
    guests = up(lab, a, a, b)
    for one in guests:
        for other in guests:
            if one is not other:
                assert one.pings(other.address(4)), (one.number, other.number)
                assert one.pings(other.address(6)), (one.number, other.number)


def test_segments_are_apart(lab: Lab) -> None:
    node = lab.node()
    blue, red = lab.guest(node), lab.guest(node, RED)
    for guest in (blue, red):
        guest.start().configure()
    assert not blue.pings(red.address(), seconds=0.6)
    bridges = node.in_space("ip -o link show type bridge").splitlines()
    assert len(bridges) == 2


@pytest.mark.parametrize(("underlay", "overhead"), [(4, 50), (6, 70)])
def test_the_largest_packets_go_through_and_larger_orders_are_refused(lab: Lab, underlay: int, overhead: int) -> None:
    a, b = lab.node(underlay), lab.node(underlay)
    one, other = up(lab, a, b)
    limit = 1500 - overhead
    assert f"mtu {limit} " in run(one.netns, "ip link show vm-lan")
    for guest in (one, other):
        guest.run(f"ip link set enp0 mtu {limit}")
    assert one.pings(other.address(), size=limit - 28)
    assert one.pings(other.address(6), size=limit - 48)
    one.nic = one.nic.model_copy(update={"mtu": limit + 1})
    with pytest.raises(InvalidSpec) as caught:
        one.attach()
    for word in ("lan", "mtu", str(limit), str(limit + 1)):
        assert word in str(caught.value)
    order = OVERLAY.model_copy(update={"mtu": limit + 1})
    one.nic = one.nic.model_copy(update={"mtu": None, "segment": order})
    with pytest.raises(InvalidSpec) as caught:
        one.attach()
    for word in ("lab/blue", "spec.mtu", str(limit), str(limit + 1)):
        assert word in str(caught.value)
    one.nic = one.nic.model_copy(update={"mtu": 1300, "segment": OVERLAY})
    one.attach()
    assert "mtu 1300 " in run(one.netns, "ip link show vm-lan")
    assert one.attach() == []


def test_the_second_time_changes_nothing_and_neither_does_a_new_agent(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    one, other = up(lab, a, b)
    assert one.attach() == []
    what = "ip -o link show | sed 's/ state [A-Z]*//'; bridge fdb show | grep -E 'permanent|dst'"  # not what is learned
    shown = a.in_space(what)
    with one.inside(lambda: socket.create_server(("0.0.0.0", 8080))) as server:
        line = other.inside(lambda: socket.create_connection((one.address(), 8080), timeout=3))
        inner, _ = server.accept()
        a.start_agent()
        assert one.attach() == []
        assert a.in_space(what) == shown
        line.sendall(b"still")
        assert inner.recv(10) == b"still"
        for end in (line, inner):
            end.close()


def test_the_two_ends_of_a_port_have_different_numbers(lab: Lab) -> None:
    """The kernel would open the port up to a second late, and what is announced before that is lost."""

    def ends(guest: Guest) -> tuple[int, int]:
        links = json.loads(run(guest.netns, "ip -j link"))
        return next((link["ifindex"], link["link_index"]) for link in links if link["ifname"].startswith("sg"))

    node = lab.node()
    inner, outer = ends(lab.guest(node).start())
    second = lab.guest(node)
    for _ in range(inner, outer + 1):  # its pod has had so many devices that both ends would be the next one
        run(second.netns, "ip link add spent type bridge; ip link del spent")
    assert ends(second.start()) == (outer + 1, outer + 2)


def test_what_is_missing_is_mended(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    one, other = up(lab, a, b)
    in_berth = functools.partial(run, one.netns)
    node_end = a.in_space("ip -o link show type veth").split(": ")[1].partition("@")[0]
    overlay = overlay_of(a)
    for where, damage in (
        (in_berth, "ip link del sg-lan"),
        (in_berth, "ip link set sg-lan down"),
        (in_berth, "ip link set vm-lan down"),
        (in_berth, "ip link set sg-lan mtu 1300"),
        (in_berth, "ip link set vm-lan address 02:00:00:00:00:77"),
        (in_berth, "ip addr add 10.9.9.9/24 dev sg-lan"),
        (in_berth, "nft flush chain netdev nic-lan to_guest"),
        (in_berth, "nft delete table inet nic-lan"),
        (a.in_space, f"ip link set {node_end} nomaster"),
        (a.in_space, f"ip link del {node_end}"),
        (a.in_space, f"ip link del {overlay}"),
        (a.in_space, f"ip link set {overlay} nomaster"),
        (a.in_space, f"ip link set {overlay} down"),
        (a.in_space, f"ip link set {overlay} alias other"),
        (
            a.in_space,
            "for i in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do ip link del $i 2>/dev/null || true; done; true",
        ),
    ):
        where(damage)
        assert one.attach() != [], damage
        assert one.attach() == [], damage
        assert one.pings(other.address()), damage
    assert one.pings(other.address(6))


def test_a_lost_namespace_of_segments_is_made_anew(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    one, other = lab.guest(a), lab.guest(b)  # their mount namespaces have no part of what comes now
    for guest in (one, other):
        guest.start().configure()
    b.tell(one, other)
    a.run(f"umount {a.space}")
    pods.until(lambda: "sg-lan" not in run(one.netns, "ip -o link"), what="the end of the pair")
    one.attach()
    a.tell(one, other)
    assert one.attach() == []
    assert one.pings(other.address())


def test_a_machine_that_moves_is_found_at_once(lab: Lab) -> None:
    a, b, c = lab.node(), lab.node(), lab.node()
    still, moving, third = up(lab, a, b, c)
    assert still.pings(moving.address())
    assert third.pings(moving.address())
    moving.stop()
    moved = lab.guest(a, number=moving.number)
    moved.start().configure()
    for node in (a, b, c):
        node.tell(still, moved, third, version=2)
    for asking in (still, third):  # what they knew before would lead astray for minutes
        assert asking.pings(moved.address(), seconds=2)
    assert third.pings(moved.address(6))


def test_members_of_an_older_version_are_ignored_and_gone_ones_forgotten(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    one, other = up(lab, a, b)
    overlay = overlay_of(a)

    def entries() -> str:
        return "\n".join(r for r in a.in_space(f"bridge fdb show dev {overlay}").splitlines() if " dst " in r)

    assert other.nic.mac in entries()
    assert one.nic.mac not in entries()
    assert entries().count("00:00:00:00:00:00 dst 192.0.2.2") == 1
    before = entries()
    a.tell(version=0)
    assert entries() == before
    a.tell(one, version=2)
    assert entries() == ""
    a.tell(one, other, version=3)
    assert sorted(entries().splitlines()) == sorted(before.splitlines())


def test_members_told_before_the_first_guest_came_are_used(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    one, other = lab.guest(a), lab.guest(b)
    for node in (a, b):
        node.tell(one, other)
    assert [m.version for m in a.network.members()] == [1]
    for guest in (one, other):
        guest.start().configure()
    assert one.pings(other.address())


def test_broadcast_reaches_each_node_once(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    one, _, third = up(lab, a, b, b)
    with third.line() as line:
        frame = b"\xff" * 6 + bytes.fromhex(one.nic.mac.replace(":", "")) + b"\x08\x06"
        arp = b"\0\x01\x08\0\x06\x04\0\x01" + frame[6:12] + socket.inet_aton(one.address()) + bytes(6)
        one.send(*[frame + arp + socket.inet_aton("10.9.0.200")])
        line.settimeout(0.5)
        heard = [got for got in iter(lambda: received(line), b"") if got[38:42] == socket.inet_aton("10.9.0.200")]
    assert len(heard) == 1


def test_bulk_data_in_packets_as_large_as_virtio_sends_them(lab: Lab) -> None:
    node = lab.node()
    one, other = (lab.guest(node).start(offloads=True) for _ in range(2))
    for guest in (one, other):
        guest.configure()
    with one.inside(lambda: socket.create_server(("0.0.0.0", 8080))) as server:
        line = other.inside(lambda: socket.create_connection((one.address(), 8080), timeout=3))
        inner, _ = server.accept()
        data = os.urandom(1 << 20)
        threading.Thread(target=lambda: [line.sendall(data) for _ in range(64)], daemon=True).start()
        got, began = bytearray(), time.monotonic()
        while len(got) < 64 << 20:
            got += inner.recv(1 << 20)
        seconds = time.monotonic() - began
        for end in (line, inner):
            end.close()
    assert bytes(got[: 1 << 20]) == bytes(got[-(1 << 20) :]) == data
    print(f"{len(got) * 8 / seconds / 1e6:.0f} Mbit/s")
    assert len(got) * 8 / seconds > 200e6


def test_bandwidth_is_limited_on_both_sides_and_changed_live(lab: Lab) -> None:
    [guest] = up(lab, lab.node())
    limit = LimitOrder(bits_per_second=10_000_000, burst_bytes=64_000)
    guest.nic = guest.nic.model_copy(update={"inbound": limit, "outbound": limit})
    changed = [type(change) for change in guest.attach()]
    assert changed == [wiring.SetLimit, wiring.SetLimit]
    assert guest.attach() == []
    for device in ("vm-lan", "sg-lan"):
        assert "tbf" in run(guest.netns, f"tc qdisc show dev {device}")
    guest.nic = guest.nic.model_copy(update={"inbound": None, "outbound": None})
    assert [type(change) for change in guest.attach()] == [wiring.SetLimit, wiring.SetLimit]
    assert "tbf" not in run(guest.netns, "tc qdisc")


def test_nics_come_and_go_while_others_stay(lab: Lab) -> None:
    node = lab.node()
    guest = lab.guest(node)
    second = NicOrder(name="second", mac="52:54:00:09:01:01", kind=NicKind.SEGMENT, segment=RED)
    guest.others = (second,)
    guest.start().configure()
    assert guest.attach() == []
    others = run(guest.netns, "nft list table netdev nic-lan; ip link show vm-lan; ip link show sg-lan")
    guest.others = ()
    made = guest.attach()
    assert wiring.RemoveLink("vm-second") in made
    assert wiring.RemoveRules("nic-second") in made
    assert guest.attach() == []
    assert "-second" not in run(guest.netns, "ip -o link; nft list ruleset")
    assert run(guest.netns, "nft list table netdev nic-lan; ip link show vm-lan; ip link show sg-lan") == others
    assert len(node.in_space("ip -o link show type bridge").splitlines()) == 1
    guest.others = (second,)
    node.call(lambda: node.network.create_taps(guest.uid, 0, [second]))
    assert wiring.Announce("sg-second") in guest.attach()
    assert guest.attach() == []


def test_a_node_that_does_not_know_its_address_makes_no_overlay(lab: Lab) -> None:
    node = lab.node()
    node.network.segments.place = replace(node.network.segments.place, address="192.0.2.77")
    with pytest.raises(HostFault) as caught:
        lab.guest(node).start()
    assert caught.value.reason == "NodeAddressMissing"
    node.network.segments.place = Place()
    with pytest.raises(HostFault):
        lab.guest(node).start()
