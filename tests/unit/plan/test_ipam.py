"""Leases: an interface's wish on a Network in, its addresses or a reason out."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.api.network import Lease, NetworkSpec
from berth.plan import ipam
from berth.plan.ipam import No, Wish


def network(**changes: Any) -> NetworkSpec:
    return NetworkSpec.model_validate({"overlay": {}, "ipv4": {"range": "10.9.0.0/29"}, **changes})


def wish(number: int = 1, *addresses: str, nic: str = "lan") -> Wish:
    return Wish(f"default/vm{number}", f"uid-{number}", nic, f"52:54:00:00:00:{number:02x}", addresses)


def given_to(spec: NetworkSpec, count: int) -> list[Lease]:
    leases: list[Lease] = []
    for number in range(1, count + 1):
        found = ipam.lease(spec, leases, wish(number))
        assert isinstance(found, Lease)
        leases.append(found)
    return leases


def test_addresses_are_given_from_the_bottom_and_never_the_network_nor_broadcast_address() -> None:
    given_out = [lease.addresses for lease in given_to(network(), 6)]
    assert given_out == [[f"10.9.0.{n}"] for n in range(1, 7)]
    none = ipam.lease(network(), given_to(network(), 6), wish(7))
    assert isinstance(none, No)
    assert none.reason == "AddressesExhausted"
    assert "10.9.0.0/29" in none.message


def test_a_lease_stays() -> None:
    spec = network(ipv4={"range": "10.9.0.0/24"})
    first, second = given_to(spec, 2)
    assert ipam.lease(spec, [second], wish(2)) == second  # though a lower address is free now
    assert ipam.lease(spec, [first, second], wish(1)) == first
    shut_out = network(ipv4={"range": "10.9.0.0/24", "exclude": ["10.9.0.0/28"]})
    assert ipam.lease(shut_out, [first, second], wish(2)) == second


def test_with_nat_the_gateway_is_the_first_address() -> None:
    spec = network(egress={"type": "NAT"}, ipv6={"range": "fd00:9::/64"})
    assert ipam.gateways(spec) == {4: "10.9.0.1", 6: "fd00:9::1"}
    (lease,) = given_to(spec, 1)
    assert lease.addresses == ["10.9.0.2", "fd00:9::2"]


def test_what_is_excluded_is_stepped_over_at_once() -> None:
    spec = network(ipv4={"range": "10.0.0.0/8", "gateway": "10.128.0.1", "exclude": ["10.0.0.0/9", "10.128.0.0"]})
    assert given_to(spec, 1)[0].addresses == ["10.128.0.2"]
    assert ipam.available(spec, []) == 2**23 - 3  # upper half, without .0.0, the gateway and the broadcast address


@pytest.mark.parametrize(
    ("asked", "reason", "word"),
    [
        ("10.9.1.1", "AddressRefused", "10.9.0.0/29"),
        ("10.9.0.0", "AddressRefused", "network's own"),
        ("10.9.0.7", "AddressRefused", "network's own"),
        ("fd00::1", "AddressRefused", "no IPv6"),
        ("10.9.0.1", "AddressTaken", "default/vm1"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_with_its_limit(asked: str, reason: str, word: str) -> None:
    found = ipam.lease(network(), given_to(network(), 1), wish(2, asked))
    assert isinstance(found, No)
    assert found.reason == reason
    assert word in found.message
    assert asked in found.message


def test_an_address_is_had_for_the_asking_also_later() -> None:
    leases = given_to(network(), 2)
    moved = ipam.lease(network(), leases, wish(1, "10.9.0.5"))
    assert isinstance(moved, Lease)
    assert moved.addresses == ["10.9.0.5"]


def test_a_mac_address_belongs_to_one_interface() -> None:
    found = ipam.lease(network(), given_to(network(), 1), Wish("default/x", "uid-x", "lan", "52:54:00:00:00:01"))
    assert isinstance(found, No)
    assert found.reason == "MacTaken"
    assert "default/vm1" in found.message


def test_a_network_without_ranges_gives_leases_without_addresses() -> None:
    spec = NetworkSpec.model_validate({"bridge": {"name": "br0"}})
    assert given_to(spec, 1)[0].addresses == []
    assert ipam.available(spec, []) is None


def test_free_addresses_are_counted() -> None:
    spec = network(ipv6={"range": "fd00:9::/64"})
    assert ipam.available(spec, given_to(spec, 2)) == 4
    assert ipam.available(network(ipv4=None, ipv6={"range": "fd00:9::/48"}), []) == ipam.MOST_COUNTED


PREFIXES = st.integers(26, 30)


@given(PREFIXES, st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=60), st.integers(0, 63))
def test_no_two_interfaces_ever_share_an_address(length: int, doings: list[tuple[bool, int]], gateway: int) -> None:
    """Machines come and go in any order; each keeps what it has, and nobody gets what is another's."""
    net = ipaddress.ip_network(f"10.9.0.0/{length}")
    router = str(net[gateway % net.num_addresses])
    spec = network(ipv4={"range": str(net), "gateway": router})
    leases: dict[int, Lease] = {}
    for comes, number in doings:
        if not comes:
            leases.pop(number, None)
            continue
        found = ipam.lease(spec, list(leases.values()), wish(number))
        if isinstance(found, No):
            assert ipam.available(spec, list(leases.values())) == 0
            continue
        assert number not in leases or leases[number] == found
        leases[number] = found
    held = [address for lease in leases.values() for address in lease.addresses]
    assert len(set(held)) == len(held)
    assert router not in held
    assert all(net[0] < ipaddress.ip_address(address) < net[-1] for address in held)  # type: ignore[operator]
