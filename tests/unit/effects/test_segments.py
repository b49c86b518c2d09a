"""A segment's devices on a node, planned without a device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from berth.api.order import NicOrder, SegmentKind, SegmentMember, SegmentOrder
from berth.effects import segment_guard, segments
from berth.effects.rtlinks import NO_MAC, Device, FdbEntry
from berth.effects.segments import Place, Segment
from berth.errors import InvalidSpec

PLACE = Place("a", "192.0.2.1")
PLACE6 = Place("a", "2001:db8::1")
OVERLAY = SegmentOrder(uid="u1", name="default/blue", kind=SegmentKind.OVERLAY, vni=100)
VLAN = SegmentOrder(uid="u2", name="default/v5", kind=SegmentKind.VLAN, device="eth1", vlan=5)
BRIDGE = SegmentOrder(uid="u3", name="default/lan", kind=SegmentKind.BRIDGE, device="br0")
WANT = segments.desired(OVERLAY, PLACE, 1500)
PORT = segments.port_name("vm", "lan")


def device(name: str, index: int, want: Segment = WANT, **more: object) -> Device:
    return replace(Device(index, name, "", want.mtu, up=True), **more)  # type: ignore[arg-type]


def world(want: Segment = WANT) -> dict[str, Device]:
    """All as it shall be."""
    port = f"berth port of {want.bridge}"
    found = [
        device(want.bridge, 10, want, alias=want.label, mtu=1300),
        device(want.uplink, 11, want, alias=want.identity, master=10),
        device(PORT, 12, want, alias=port, master=10, peer=3),
    ]
    return {one.name: one for one in found}


INSIDE = {"sg-lan": device("sg-lan", 3, peer=12)}


def kinds(changes: list[segments.Change]) -> list[str]:
    return [type(change).__name__ for change in changes]


def test_nothing_is_left_to_do_when_all_is_right() -> None:
    assert segments.plan(world(), WANT) == []
    assert segments.plan_port(INSIDE, world(), "sg-lan", PORT, WANT) == []


def test_from_nothing_the_label_comes_last() -> None:
    made = segments.plan({}, WANT)
    assert kinds(made) == ["MakeBridge", "Raise", "Label", "MakeUplink", "Enslave", "Raise", "Label"]
    assert kinds(segments.plan_port({}, world(), "sg-lan", "new", WANT)) == ["MakePort", "Enslave", "Raise", "Label"]


def test_a_device_that_is_another_is_made_anew() -> None:
    seen = world()
    seen[WANT.uplink] = replace(seen[WANT.uplink], alias="berth u1 vni 99 from 192.0.2.1 port 14789")
    assert kinds(segments.plan(seen, WANT)) == ["Remove", "MakeUplink", "Enslave", "Raise", "Label"]


@pytest.mark.parametrize(
    ("harm", "mended"),
    [
        ({"mtu": 1400}, ["SetMtu"]),
        ({"master": 0}, ["Enslave"]),
        ({"up": False}, ["Raise"]),
        ({"alias": ""}, ["Label"]),
    ],
)
def test_each_harm_to_a_port_is_mended_by_itself(harm: dict[str, object], mended: list[str]) -> None:
    seen = world()
    seen[PORT] = replace(seen[PORT], **harm)  # type: ignore[arg-type]
    assert kinds(segments.plan_port(INSIDE, seen, "sg-lan", PORT, WANT)) == mended


@pytest.mark.parametrize(
    "inside", [{}, {"sg-lan": device("sg-lan", 3, peer=99)}, {"sg-lan": device("sg-lan", 4, peer=12)}]
)
def test_ends_that_do_not_belong_together_are_replaced(inside: dict[str, Device]) -> None:
    made = segments.plan_port(inside, world(), "sg-lan", PORT, WANT)
    assert kinds(made) == ["Remove", "MakePort", "Enslave", "Raise", "Label"]


def test_a_bridge_of_the_nodes_own_is_left_alone() -> None:
    want = segments.desired(BRIDGE, PLACE, 9000)
    assert (want.bridge, want.uplink, want.mtu) == ("br0", "", 9000)
    assert segments.plan({}, want) == []


@pytest.mark.parametrize(
    ("order", "place", "limit"),
    [(OVERLAY, PLACE, 1450), (OVERLAY, PLACE6, 1430), (VLAN, PLACE, 1500), (BRIDGE, PLACE, 1500)],
)
def test_the_mtu_is_what_is_beneath_less_the_headers(order: SegmentOrder, place: Place, limit: int) -> None:
    assert segments.desired(order, place, 1500).mtu == limit
    assert segments.desired(order.model_copy(update={"mtu": limit}), place, 1500).mtu == limit
    with pytest.raises(InvalidSpec, match=rf"{order.name}: spec.mtu: at most {limit} .*given: {limit + 1}"):
        segments.desired(order.model_copy(update={"mtu": limit + 1}), place, 1500)
    nic = NicOrder(name="lan", mac="52:54:00:00:00:01", mtu=limit + 1)
    with pytest.raises(InvalidSpec, match=rf"interface lan: mtu: .*{limit} .*given: {limit + 1}"):
        segments.nic_mtu(nic, limit)


def test_names_fit_and_tell_one_from_another() -> None:
    names = {segments.port_name(vm, nic) for vm in ("a", "b") for nic in ("lan", "n" * 32)}
    for uid in ("a", "b"):
        want = segments.desired(OVERLAY.model_copy(update={"uid": uid}), PLACE, 1500)
        names |= {want.bridge, want.uplink}
    assert len(names) == 8
    assert {len(name) <= 15 for name in names} == {True}
    assert all(segments.port_name("a", nic).startswith(segments.port_prefix("a")) for nic in ("lan", "x"))


def test_what_no_guest_is_on_is_unused() -> None:
    other = segments.desired(OVERLAY.model_copy(update={"uid": "u9"}), PLACE, 1500)
    idle = {name: one for name, one in world(other).items() if name != PORT}
    idle = {name: replace(one, index=one.index + 20, master=0) for name, one in idle.items()}
    orphan = {"bx000000000000": device("bx000000000000", 50)}
    assert segments.unused(world()) == []
    assert segments.unused({**world(), **idle, **orphan}) == [*sorted([other.uplink, "bx000000000000"]), other.bridge]
    assert segments.unused({"eth0": device("eth0", 1), "cni0": device("cni0", 2)}) == []


MEMBERS = (
    SegmentMember(mac="52:54:00:00:00:01", node="a", node_address="192.0.2.1"),
    SegmentMember(mac="52:54:00:00:00:02", node="b", node_address="192.0.2.2"),
    SegmentMember(mac="52:54:00:00:00:03", node="b", node_address="192.0.2.2"),
    SegmentMember(mac="52:54:00:00:00:04", node="c", node_address="2001:db8::3"),
)


def test_frames_go_to_each_members_node_and_broadcasts_to_each_node_once() -> None:
    assert segments.fdb(MEMBERS, PLACE) == {
        FdbEntry("52:54:00:00:00:02", "192.0.2.2"),
        FdbEntry("52:54:00:00:00:03", "192.0.2.2"),
        FdbEntry(NO_MAC, "192.0.2.2"),
    }
    assert segments.fdb(MEMBERS, PLACE6) == {
        FdbEntry("52:54:00:00:00:04", "2001:db8::3"),
        FdbEntry(NO_MAC, "2001:db8::3"),
    }


@pytest.mark.parametrize(
    ("harm", "path"),
    [({"mac": "52:54"}, "members[1].mac"), ({"node_address": "node-b"}, "members[1].nodeAddress")],
)
def test_members_that_are_none_are_refused(harm: dict[str, str], path: str) -> None:
    segments.check(MEMBERS)
    with pytest.raises(InvalidSpec) as caught:
        segments.check([MEMBERS[0], MEMBERS[1].model_copy(update=harm)])
    assert caught.value.path == path
    assert caught.value.given in harm.values()


def test_a_mac_address_that_moved_is_set_and_not_deleted() -> None:
    seen = {FdbEntry("m1", "n1"), FdbEntry("m2", "n1"), FdbEntry(NO_MAC, "n1")}
    want = {FdbEntry("m1", "n2"), FdbEntry(NO_MAC, "n2")}
    setting, deleting = segments.plan_fdb(seen, want)
    assert setting == [FdbEntry(NO_MAC, "n2"), FdbEntry("m1", "n2")]
    assert deleting == [FdbEntry(NO_MAC, "n1"), FdbEntry("m2", "n1")]
    assert segments.plan_fdb(want, want) == ([], [])


def test_the_guard_names_the_peers_of_each_family() -> None:
    script = segment_guard.build(["192.0.2.9", "192.0.2.2", "2001:db8::3"], 14789).ruleset.script
    assert "udp dport 14789 ip saddr != { 192.0.2.2, 192.0.2.9 } drop" in script
    assert "udp dport 14789 ip6 saddr != { 2001:db8::3 } drop" in script
    alone = segment_guard.build([], 14789).ruleset.script
    assert "udp dport 14789 meta nfproto ipv4 drop" in alone
    assert segment_guard.build(["192.0.2.2"], 1).ruleset.digest != segment_guard.build(["192.0.2.2"], 2).ruleset.digest
