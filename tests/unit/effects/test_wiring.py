"""The plan of a guest's NIC, and the rules around it, without a device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from berth.effects import firewall, wiring
from berth.effects.wiring import GATEWAY_MAC, Link, Observed, Wiring

WANT = Wiring(guest_mac="52:54:00:12:34:56", mtu=1450)
RIGHT = Observed(
    link=Link(7, GATEWAY_MAC, 1450, up=True),
    addresses=frozenset({"10.0.2.1/24"}),
    neighbours={"10.0.2.2": "52:54:00:12:34:56"},
    sysctls=WANT.sysctls,
    rules_match=True,
)
NEW = Observed(Link(7, "fe:54:00:12:34:56", 1500, up=False), sysctls={"net/ipv4/ip_forward": "0"})


DUAL = replace(WANT, ipv6=True)
RIGHT6 = replace(
    RIGHT,
    addresses=frozenset({"10.0.2.1/24", "fe80::1/64", "fd00:10:0:2::1/64"}),
    neighbours={"10.0.2.2": WANT.guest_mac, "fd00:10:0:2::2": WANT.guest_mac},
    sysctls=DUAL.sysctls,
)


def kinds(seen: Observed, want: Wiring = WANT) -> list[type]:
    return [type(change) for change in wiring.plan(seen, want)]


def test_nothing_is_left_to_do_when_all_is_right() -> None:
    assert wiring.plan(RIGHT, WANT) == []


def test_a_new_guest_comes_up_only_behind_its_rules() -> None:
    changes = wiring.plan(NEW, WANT)
    order = [type(change) for change in changes]
    assert order.index(wiring.LoadRules) < order.index(wiring.LinkUp)
    assert max(i for i, kind in enumerate(order) if kind is wiring.WriteSysctl) < order.index(wiring.LinkUp)
    assert changes[0] == wiring.WriteSysctl("net/ipv4/ip_forward", "1")  # first: the kernel resets others with it
    assert changes[-1] == wiring.SetNeighbour("vm0", "10.0.2.2", WANT.guest_mac)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (replace(RIGHT, link=Link(7, GATEWAY_MAC, 1500, up=True)), [wiring.SetLink, wiring.SetNeighbour]),
        (replace(RIGHT, link=Link(7, "02:00:00:00:00:09", 1450, up=True)), [wiring.SetLink, wiring.SetNeighbour]),
        (replace(RIGHT, link=Link(7, GATEWAY_MAC, 1450, up=False)), [wiring.LinkUp]),
        (replace(RIGHT, addresses=frozenset()), [wiring.AddAddress]),
        (replace(RIGHT, addresses=frozenset({"10.0.2.1/24", "10.0.2.2/24"})), [wiring.RemoveAddress]),
        (replace(RIGHT, neighbours={}), [wiring.SetNeighbour]),
        (replace(RIGHT, neighbours={"10.0.2.2": "52:54:00:00:00:01"}), [wiring.SetNeighbour]),
        (replace(RIGHT, rules_match=False), [wiring.LoadRules]),
        (replace(RIGHT, sysctls=WANT.sysctls | {"net/ipv4/ip_forward": "0"}), [wiring.WriteSysctl]),
    ],
)
def test_only_what_differs_is_changed(seen: Observed, expected: list[type]) -> None:
    assert kinds(seen) == expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (RIGHT6, []),
        (replace(RIGHT6, addresses=RIGHT6.addresses - {"fe80::1/64"}), [wiring.AddAddress]),
        (replace(RIGHT6, addresses=RIGHT6.addresses | {"fe80::5/64"}), [wiring.RemoveAddress]),
        (replace(RIGHT6, neighbours=RIGHT.neighbours), [wiring.SetNeighbour]),
        (replace(RIGHT6, sysctls=DUAL.sysctls | {"net/ipv6/conf/all/forwarding": "0"}), [wiring.WriteSysctl]),
        (replace(RIGHT6, sysctls=DUAL.sysctls | {DUAL.uplink_accepts: "1"}), [wiring.WriteSysctl]),
        (replace(RIGHT6, sysctls=DUAL.sysctls | {DUAL.uplink_accepts: "0"}), []),
        (replace(RIGHT6, sysctls=DUAL.sysctls | {DUAL.uplink_accepts: "2"}), []),
    ],
)
def test_only_what_differs_is_changed_in_ipv6(seen: Observed, expected: list[type]) -> None:
    assert kinds(seen, DUAL) == expected


def test_a_kernel_or_an_interface_without_ipv6_has_nothing_to_switch_off() -> None:
    sysctls = {name: value for name, value in WANT.sysctls.items() if "ipv6" not in name}
    assert wiring.plan(replace(RIGHT, sysctls=sysctls), WANT) == []


def test_the_pod_s_routes_are_safe_before_it_forwards() -> None:
    """The kernel forgets routes that were advertised to it when it becomes a router."""
    seen = replace(NEW, sysctls={DUAL.uplink_accepts: "1"})
    names = [change.name for change in wiring.plan(seen, DUAL) if isinstance(change, wiring.WriteSysctl)]
    assert names.index(DUAL.uplink_accepts) < names.index("net/ipv6/conf/all/forwarding")


def test_a_family_that_the_pod_lost_is_taken_from_the_guest() -> None:
    """Its addresses go with the switch: nothing is left to remove."""
    gone = wiring.plan(replace(RIGHT6, rules_match=False), WANT)
    assert gone == [wiring.WriteSysctl("net/ipv6/conf/vm0/disable_ipv6", "1"), wiring.LoadRules()]
    only6 = replace(DUAL, ipv4=False)
    assert wiring.RemoveAddress("vm0", "10.0.2.1/24") in wiring.plan(RIGHT6, only6)


def test_tap_names_fit_the_kernel_and_differ() -> None:
    names = {wiring.tap_name(f"uid-{i}", n) for i in range(100) for n in ("a", "b")}
    assert len(names) == 200
    assert max(map(len, names)) == 15
    assert all(
        name.startswith(wiring.tap_prefix(f"uid-{i}"))
        for i in range(3)
        for name in [wiring.tap_name(f"uid-{i}", "default")]
    )


class TestFirewall:
    def test_the_script_replaces_whole_tables_in_one_go(self) -> None:
        script = firewall.build(WANT).script
        for family in ("inet", "netdev"):
            assert script.index(f"delete table {family} berth") < script.index(f"table {family} berth {{")

    def test_what_was_loaded_is_recognized(self) -> None:
        rules = firewall.build(WANT)
        listing = "\n".join(line for line in rules.script.splitlines() if "{" in line or line.startswith("\t"))
        assert firewall.parse(listing).same_as(rules)
        assert not firewall.parse("").same_as(rules)

    def test_a_family_that_the_pod_has_not_is_not_spoken_of(self) -> None:
        assert "ip6" not in firewall.build(WANT).script
        only6 = firewall.build(replace(DUAL, ipv4=False)).script
        assert "10.0.2." not in only6
        assert "fd00:10:0:2::2" in only6
        assert len({firewall.build(want).digest for want in (WANT, DUAL, replace(DUAL, ipv4=False))}) == 3

    def test_lines_of_sets_are_no_rules(self) -> None:
        rules = firewall.build(DUAL)
        elements = "\t\telements = { fe80::1 timeout 10m expires 9m,\n\t\t\t     fe80::2 timeout 10m }\n"
        listing = rules.script.replace("\t\ttimeout 10m\n", "\t\ttimeout 10m\n" + elements)
        assert firewall.parse(listing).same_as(rules)

    def test_another_guest_has_other_rules(self) -> None:
        assert not firewall.build(WANT).same_as(firewall.build(replace(WANT, guest_mac="52:54:00:00:00:01")))

    def test_a_rule_more_or_less_is_noticed(self) -> None:
        rules = firewall.build(WANT)
        listing = rules.script.split("delete table inet berth\n")[1]
        assert not firewall.parse(listing.replace('\t\tiifname "vm0" drop\n', "")).same_as(rules)
        assert not firewall.parse(listing.replace("\t\tether", "\t\taccept\n\t\tether", 1)).same_as(rules)
