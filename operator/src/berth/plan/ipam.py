"""Who gets which address on a Network: its ranges, the leases so far and one interface's wish in, a Lease or a no out.

Called by networks.py. Pure. An interface keeps its addresses for as long as it exists: a lease is only changed when the
wish itself changes. Free addresses are given from the bottom of a range.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from berth.api.addresses import Address, Network, family
from berth.api.network import AddressesV4, AddressesV6, Lease, NetworkSpec

MAC_PREFIX: Final = "52:54:00"
MOST_COUNTED: Final = 1 << 62
"""An IPv6 range has more addresses than a status can hold."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One interface that is to have a lease."""

    machine: str  # namespace/name
    uid: str
    nic: str
    mac: str
    addresses: tuple[str, ...] = ()  # asked for


@dataclass(frozen=True, slots=True)
class No:
    """Why it cannot have one: a stable word, and a sentence that names limit, value and next step."""

    reason: str
    message: str


def lease(spec: NetworkSpec, leases: Sequence[Lease], wish: Wish) -> Lease | No:
    """The lease this interface has or is to have."""
    own = next((held for held in leases if (held.uid, held.nic) == (wish.uid, wish.nic)), None)
    others = [held for held in leases if held is not own]
    rival = next((held for held in others if held.mac == wish.mac), None)
    if rival is not None:
        return No("MacTaken", f"MAC address {wish.mac} belongs to {rival.machine}. Next: give another one.")
    taken = {str(ipaddress.ip_address(address)): held.machine for held in others for address in held.addresses}
    problem = _refused(spec, wish, taken)
    if problem is not None:
        return problem
    addresses: list[str] = []
    for version, pool in pools(spec):
        found = _choose(pool, _barred(spec, version, pool), own, wish, taken)
        if found is None:
            return _exhausted(version, pool)
        addresses.append(found)
    return Lease(machine=wish.machine, uid=wish.uid, nic=wish.nic, mac=wish.mac, addresses=addresses)


def stable_mac(uid: str, nic: str) -> str:
    """A locally administered address that stays for the machine's life."""
    tail = hashlib.sha256(f"{uid}/{nic}".encode()).digest()[:3]
    return ":".join([MAC_PREFIX, *(f"{byte:02x}" for byte in tail)])


def pools(spec: NetworkSpec) -> Iterator[tuple[int, AddressesV4 | AddressesV6]]:
    if spec.ipv4 is not None:
        yield 4, spec.ipv4
    if spec.ipv6 is not None:
        yield 6, spec.ipv6


def gateways(spec: NetworkSpec) -> dict[int, str]:
    """Family → the router's address. With NAT a range without a gateway has its first address as that."""
    found = {}
    for version, pool in pools(spec):
        if pool.gateway is not None:
            found[version] = str(ipaddress.ip_address(pool.gateway))
        elif spec.egress.type == "NAT":
            found[version] = str(ipaddress.ip_network(pool.range)[1])
    return found


def available(spec: NetworkSpec, leases: Sequence[Lease]) -> int | None:
    """Addresses that are free, of the family that has fewer; None where Berth gives none."""
    counts = []
    for version, pool in pools(spec):
        net = ipaddress.ip_network(pool.range)
        given = {a for held in leases for a in held.addresses if family(a) == version}
        barred = _barred(spec, version, pool)
        usable = net.num_addresses - len(barred.single) - barred.covered
        counts.append(min(max(usable - len(given), 0), MOST_COUNTED))
    return min(counts, default=None)


@dataclass(frozen=True, slots=True)
class Barred:
    """What is never given out of a range; ``covered``: how many addresses the ranges hold that no single one names."""

    single: frozenset[Address]
    ranges: tuple[Network, ...]
    covered: int

    def has(self, address: Address) -> bool:
        return address in self.single or any(address in net for net in self.ranges)


def _barred(spec: NetworkSpec, version: int, pool: AddressesV4 | AddressesV6) -> Barred:
    return _read_barred(pool.range, gateways(spec).get(version), tuple(pool.exclude))


@lru_cache(maxsize=256)
def _read_barred(range_: str, gateway: str | None, exclude: tuple[str, ...]) -> Barred:
    """The network's own address, IPv4's broadcast address, the gateway, and what the user excludes."""
    net = ipaddress.ip_network(range_)
    single: set[Address] = {net[0]}
    if net.version == 4:
        single.add(net[-1])
    if gateway:
        single.add(ipaddress.ip_address(gateway))
    given = [ipaddress.ip_network(text, strict=False) for text in exclude]
    inside = [part for part in given if part.version == net.version and part.overlaps(net)]
    ranges: list[Network] = []
    for part in inside:
        if part.num_addresses == 1:
            single.add(part[0])
        else:
            ranges.append(part if part.prefixlen >= net.prefixlen else net)
    merged = tuple(_collapsed(ranges))
    alone = frozenset(address for address in single if not any(address in part for part in merged))
    return Barred(alone, merged, sum(part.num_addresses for part in merged))


def _collapsed(ranges: list[Network]) -> Iterator[Network]:
    yield from ipaddress.collapse_addresses(part for part in ranges if isinstance(part, ipaddress.IPv4Network))
    yield from ipaddress.collapse_addresses(part for part in ranges if isinstance(part, ipaddress.IPv6Network))


def _refused(spec: NetworkSpec, wish: Wish, taken: dict[str, str]) -> No | None:
    """What speaks against the addresses asked for."""
    known = dict(pools(spec))
    for text in wish.addresses:
        version, address = family(text), ipaddress.ip_address(text)
        if version not in known:
            return No("AddressRefused", f"{text} is asked for, and the network gives no IPv{version} addresses.")
        pool = known[version]
        if address not in ipaddress.ip_network(pool.range):
            return No(
                "AddressRefused", f"{text} is not in the network's range {pool.range}. Next: ask for one that is."
            )
        if _barred(spec, version, pool).has(address):
            return No(
                "AddressRefused", f"{text} is the network's own, its gateway's or excluded. Next: ask for another."
            )
        holder = taken.get(str(address))
        if holder is not None:
            return No("AddressTaken", f"{text} belongs to {holder}. Next: ask for another, or for none.")
    return None


def _choose(
    pool: AddressesV4 | AddressesV6, barred: Barred, own: Lease | None, wish: Wish, taken: dict[str, str]
) -> str | None:
    """The address asked for, else the one it has, else the first free one."""
    net = ipaddress.ip_network(pool.range)
    version = net.version
    asked = next((str(ipaddress.ip_address(text)) for text in wish.addresses if family(text) == version), None)
    if asked is not None:
        return asked
    kept = next((text for text in own.addresses if family(text) == version), None) if own is not None else None
    if kept is not None and ipaddress.ip_address(kept) in net and kept not in taken:
        return kept
    return next(_free(net, barred, taken), None)


def _free(net: Network, barred: Barred, taken: dict[str, str]) -> Iterator[str]:
    """From the bottom; whole excluded ranges are stepped over."""
    at, last = int(net[0]), int(net[-1])
    while at <= last:
        address = net[at - int(net[0])]
        cover = next((part for part in barred.ranges if address in part), None)
        if cover is not None:
            at = int(cover[-1]) + 1
            continue
        if address not in barred.single and str(address) not in taken:
            yield str(address)
        at += 1


def _exhausted(version: int, pool: AddressesV4 | AddressesV6) -> No:
    message = f"no IPv{version} address of {pool.range} is free. Next: delete machines, or make a larger network."
    return No("AddressesExhausted", message)
