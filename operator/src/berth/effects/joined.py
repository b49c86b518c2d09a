"""How a guest is joined to a segment or to a further interface of its pod: an order in, what shall be in the berth out.

Called by joined_nic.py. Pure. There is no bridge in the berth: what the guest sends goes straight out of the device on
the other side, what arrives there goes straight to the guest (joined_rules.py). DHCP and router solicitations are read
off the tap (dhcpd.py) and dropped. The berth's own stack has a part in it only with NAT: then it is the gateway.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from berth.api.order import LimitOrder, NicKind, NicOrder
from berth.effects import wiring
from berth.errors import InvalidSpec

TABLE = "nic"
"""How the names of the tables of rules begin."""
ROUTER = "fe80::1/64"
"""From where the berth advertises itself as the gateway."""

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Joined:
    """What shall be."""

    tap: str
    other: str  # the veth to the segment, or the pod's interface
    mac: str
    anti_spoofing: bool = True
    nat: bool = False
    guest: tuple[Interface, ...] = ()
    gateways: tuple[Address, ...] = ()
    outbound: LimitOrder | None = None

    @property
    def table(self) -> str:
        return f"{TABLE}{self.tap.removeprefix('vm')}"

    @property
    def link_local(self) -> ipaddress.IPv6Address:
        """The one that the guest makes of its MAC address."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])

    def own(self, version: int) -> Address | None:
        return next((one.ip for one in self.guest if one.version == version), None)

    def serves(self, version: int) -> bool:
        """Whether the guest gets its address of this family from Berth."""
        return self.own(version) is not None

    def has_none(self, version: int) -> bool:
        """Whether it may send from no address of this family: Berth gives it one of the other family alone."""
        return self.anti_spoofing and bool(self.guest) and self.own(version) is None

    def gateway(self, version: int) -> Address | None:
        """The berth's own address on the segment."""
        found = next((one for one in self.gateways if one.version == version), None)
        return found if self.nat and self.serves(version) else None

    @property
    def tap_addresses(self) -> frozenset[str]:
        """With single-address prefixes: the segment's range may overlap with the pod's network."""
        found = {f"{one}/{one.max_prefixlen}" for one in (self.gateway(4), self.gateway(6)) if one is not None}
        return frozenset(found | {ROUTER}) if self.gateway(6) else frozenset(found)

    @property
    def routed(self) -> frozenset[str]:
        """The guest's addresses that the berth's stack sends to."""
        return frozenset(str(one.ip) for one in self.guest if self.gateway(one.version))

    @property
    def sysctls(self) -> dict[str, str]:
        forward = {"net/ipv4/ip_forward": "1"} if self.gateway(4) else {}
        forward |= {"net/ipv6/conf/all/forwarding": "1"} if self.gateway(6) else {}
        return {**forward, **_tap_sysctls(self.tap, v6=self.gateway(6) is not None), **_other_sysctls(self.other)}


def _tap_sysctls(tap: str, *, v6: bool) -> dict[str, str]:
    v4, conf = f"net/ipv4/conf/{tap}", f"net/ipv6/conf/{tap}"
    on = {
        f"{conf}/addr_gen_mode": "1",
        f"{conf}/accept_ra": "0",
        f"{conf}/accept_dad": "0",
        f"{conf}/disable_ipv6": "0",
    }
    return {
        f"{v4}/arp_ignore": "1",
        f"{v4}/rp_filter": "1",
        f"{v4}/accept_redirects": "0",
        f"{v4}/send_redirects": "0",
        **(on if v6 else {f"{conf}/disable_ipv6": "1"}),
    }


def _other_sysctls(other: str) -> dict[str, str]:
    """The berth has no voice on the segment."""
    return {f"net/ipv6/conf/{other}/disable_ipv6": "1", f"net/ipv4/conf/{other}/arp_ignore": "8"}


@dataclass(frozen=True, slots=True)
class Link:
    mac: str
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """What is, in the berth's namespace."""

    tap: Link
    other: Link
    addresses: frozenset[str] = frozenset()
    other_addresses: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    neighbours: frozenset[tuple[str, str]] = frozenset()  # permanent ones
    sysctls: Mapping[str, str] = field(default_factory=dict)
    rules_match: bool = False


def desired(nic: NicOrder) -> Joined:
    tap, nat = wiring.device_name(nic), nic.segment is not None and nic.segment.nat
    try:
        guest = tuple(ipaddress.ip_interface(text) for text in nic.addresses)
        gateways = tuple(ipaddress.ip_address(text) for text in nic.gateways)
    except ValueError as error:
        raise InvalidSpec(f"interface {nic.name}: addresses", f"must be IP addresses: {error}") from error
    other = nic.interface if nic.kind is NicKind.ATTACHMENT else other_name(tap)
    return Joined(tap, other, nic.mac.lower(), nic.anti_spoofing, nat, guest, gateways, nic.outbound if nat else None)


def other_name(tap: str) -> str:
    """The veth beside a tap that wiring.device_name named."""
    return f"sg{tap.removeprefix('vm')}"


def plan(seen: Observed, want: Joined, mtu: int, other_mtu: int) -> list[wiring.Change]:
    """In this order the guest's devices come up only when the rules around them are there."""
    return list(_changes(seen, want, mtu, other_mtu))


def _changes(seen: Observed, want: Joined, mtu: int, other_mtu: int) -> Iterator[wiring.Change]:
    yield from (wiring.WriteSysctl(n, v) for n, v in want.sysctls.items() if seen.sysctls.get(n, v) != v)
    if not seen.rules_match:
        yield wiring.LoadRules()
    yield from (wiring.RemoveAddress(want.other, a) for a in sorted(seen.other_addresses))
    if (seen.other.mac, seen.other.mtu) != (want.mac, other_mtu):
        yield wiring.SetLink(want.other, want.mac, other_mtu)
    fresh = (seen.tap.mac, seen.tap.mtu) != (wiring.GATEWAY_MAC, mtu)
    if fresh:
        yield wiring.SetLink(want.tap, wiring.GATEWAY_MAC, mtu)
    yield from (wiring.RemoveAddress(want.tap, a) for a in sorted(seen.addresses - want.tap_addresses))
    yield from (wiring.AddAddress(want.tap, a) for a in sorted(want.tap_addresses - seen.addresses))
    down = not seen.tap.up
    if down:
        yield wiring.LinkUp(want.tap)
    yield from _routes(seen, want, fresh=fresh or down)
    if not seen.other.up:
        yield wiring.LinkUp(want.other)


def _routes(seen: Observed, want: Joined, *, fresh: bool) -> Iterator[wiring.Change]:
    """To the guest alone. A device that was down, or has a new MAC, has lost its routes and neighbours."""
    yield from (wiring.RemoveRoute(want.tap, a) for a in sorted(seen.routes - want.routed))
    yield from (wiring.AddRoute(want.tap, a) for a in sorted(want.routed if fresh else want.routed - seen.routes))
    known = frozenset() if fresh else seen.neighbours
    yield from (wiring.SetNeighbour(want.tap, a, want.mac) for a in sorted(want.routed) if (a, want.mac) not in known)
