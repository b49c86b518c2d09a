"""A guest joined to a segment: plan, rules and announcements, without a device."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from berth.api.order import NicKind, NicOrder, SegmentKind, SegmentOrder
from berth.effects import announce, frames, joined, joined_rules, wiring
from berth.effects.joined import Joined, Link, Observed
from berth.errors import InvalidSpec

MAC = "52:54:00:00:00:01"
SEGMENT = SegmentOrder(uid="u1", name="default/blue", kind=SegmentKind.OVERLAY)
NAT = SEGMENT.model_copy(update={"nat": True})


def order(**words: object) -> NicOrder:
    given: dict[str, object] = {
        "kind": NicKind.SEGMENT,
        "segment": SEGMENT,
        "addresses": ("10.9.0.5/24", "fd00:9::5/64"),
        **words,
    }
    return NicOrder(name="lan", mac=MAC, **given)  # type: ignore[arg-type]


PLAIN = joined.desired(order())
GATEWAY = joined.desired(order(segment=NAT, gateways=("10.9.0.1", "fd00:9::1")))


def right(want: Joined) -> Observed:
    return Observed(
        Link(wiring.GATEWAY_MAC, 1450, up=True),
        Link(MAC, 1450, up=True),
        want.tap_addresses,
        frozenset(),
        want.routed,
        frozenset((address, MAC) for address in want.routed),
        want.sysctls,
        rules_match=True,
    )


def kinds(seen: Observed, want: Joined) -> list[str]:
    return [type(change).__name__ for change in joined.plan(seen, want, 1450, 1450)]


@pytest.mark.parametrize("want", [PLAIN, GATEWAY])
def test_nothing_is_left_to_do_when_all_is_right(want: Joined) -> None:
    assert kinds(right(want), want) == []


def test_devices_come_up_only_behind_their_rules() -> None:
    new = Observed(Link("fe:00:00:00:00:01", 1500, up=False), Link("fe:00:00:00:00:02", 1450, up=False))
    made = kinds(replace(new, sysctls=dict.fromkeys(GATEWAY.sysctls, "?")), GATEWAY)
    assert made.index("LoadRules") < made.index("LinkUp")
    assert made[-1] == "LinkUp"
    assert made.count("LinkUp") == 2
    assert made.count("AddAddress") == 3
    assert made.count("AddRoute") == made.count("SetNeighbour") == 2


def test_the_berth_has_no_address_on_a_segment_whose_gateway_it_is_not() -> None:
    assert (PLAIN.tap_addresses, PLAIN.routed) == (frozenset(), frozenset())
    assert "net/ipv4/ip_forward" not in PLAIN.sysctls
    assert PLAIN.sysctls["net/ipv6/conf/vm-lan/disable_ipv6"] == "1"
    assert PLAIN.sysctls["net/ipv6/conf/sg-lan/disable_ipv6"] == "1"
    assert GATEWAY.tap_addresses == {"10.9.0.1/32", "fd00:9::1/128", "fe80::1/64"}
    assert GATEWAY.routed == {"10.9.0.5", "fd00:9::5"}


def test_a_gateway_is_of_no_use_to_a_guest_without_an_address_of_that_family() -> None:
    want = joined.desired(order(segment=NAT, addresses=("10.9.0.5/24",), gateways=("10.9.0.1", "fd00:9::1")))
    assert want.tap_addresses == {"10.9.0.1/32"}
    assert want.sysctls["net/ipv6/conf/vm-lan/disable_ipv6"] == "1"


def test_a_device_that_was_down_gets_its_routes_and_neighbours_again() -> None:
    seen = right(GATEWAY)
    down = replace(seen, tap=replace(seen.tap, up=False))
    assert kinds(down, GATEWAY) == ["LinkUp", "AddRoute", "AddRoute", "SetNeighbour", "SetNeighbour"]


def test_what_is_not_wanted_is_taken_away() -> None:
    seen = replace(right(PLAIN), other_addresses=frozenset({"10.1.1.1/24"}), addresses=frozenset({"10.9.0.1/32"}))
    assert kinds(replace(seen, routes=frozenset({"10.9.0.5"})), PLAIN) == [
        "RemoveAddress",
        "RemoveAddress",
        "RemoveRoute",
    ]


def test_an_attachment_is_joined_to_the_pods_interface() -> None:
    want = joined.desired(order(kind=NicKind.ATTACHMENT, segment=None, interface="net1"))
    assert (want.tap, want.other, want.table, want.nat) == ("vm-lan", "net1", "nic-lan", False)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"interface lan: addresses: .*10\.9\.0\.555"):
        joined.desired(order(addresses=("10.9.0.555/24",)))


def test_the_guests_own_link_local_address() -> None:
    assert str(PLAIN.link_local) == "fe80::5054:ff:fe00:1"


def test_rules_of_other_devices_or_another_order_are_others() -> None:
    built = {
        joined_rules.build(want, indexes).ruleset.digest
        for want in (PLAIN, GATEWAY, replace(PLAIN, anti_spoofing=False), replace(PLAIN, guest=()))
        for indexes in ((3, 4), (3, 5))
    }
    assert len(built) == 8
    assert joined_rules.build(PLAIN, (3, 4)) == joined_rules.build(PLAIN, (3, 4))


def test_without_anti_spoofing_everything_goes_out_but_to_gateway_and_switches() -> None:
    script = joined_rules.build(replace(PLAIN, anti_spoofing=False), (3, 4)).ruleset.script
    chain = script.partition("chain from_guest {")[2].partition("}")[0]
    assert [line.strip() for line in chain.strip().splitlines()[-3:]] == [
        f"ether daddr {wiring.GATEWAY_MAC} drop",
        "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop",
        'fwd to "sg-lan"',
    ]


def chain(want: joined.Joined, name: str) -> str:
    script = joined_rules.build(want, (3, 4)).ruleset.script
    return script.partition(f"chain {name} {{")[2].partition("}\n")[0].strip()


def test_of_a_family_that_it_has_no_address_of_it_sends_nothing_but_from_its_own_link_local_address() -> None:
    four, six = (replace(PLAIN, guest=(one,)) for one in sorted(PLAIN.guest, key=lambda one: one.version))
    assert (four.has_none(4), four.has_none(6), six.has_none(4), six.has_none(6)) == (False, True, True, False)
    assert chain(six, "ip_from_guest") == chain(six, "arp_from_guest") == ""
    assert f"ip6 saddr != {PLAIN.link_local} drop" in chain(four, "ip6_from_guest")
    assert not replace(four, anti_spoofing=False).has_none(6)
    assert not replace(PLAIN, guest=()).has_none(4)  # Berth gives it none at all: others do


def test_announcements_tell_mac_and_addresses() -> None:
    own = bytes.fromhex(MAC.replace(":", ""))
    arp, advertisement = announce.build(MAC, [one.ip for one in PLAIN.guest])
    assert arp[:14] == b"\xff" * 6 + own + b"\x08\x06"
    assert arp[22:28] == own
    assert arp[28:32] == arp[38:42] == ipaddress.ip_address("10.9.0.5").packed
    packet = frames.parse(advertisement)
    assert packet is not None
    assert advertisement[:6] == bytes.fromhex("333300000001")
    assert packet.payload[0] == 136
    assert packet.payload[4] == 0x20
    assert packet.payload[8:24] == ipaddress.ip_address("fd00:9::5").packed
    assert packet.payload[26:32] == own
    assert len(announce.build(MAC, [])) == 1
