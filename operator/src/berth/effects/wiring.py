"""How a guest is wired to its pod: what is there and what shall be in, the changes that are left to make out.

Called by network.py. Pure: it touches no device. A plan for what is already right is empty.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from berth.api.order import LimitOrder, NicKind, NicOrder

DEVICE = "vm0"
UPLINK = "eth0"
GUEST = ipaddress.IPv4Interface("10.0.2.2/24")
GATEWAY = ipaddress.IPv4Interface("10.0.2.1/24")
GUEST6 = ipaddress.IPv6Interface("fd00:10:0:2::2/64")
GATEWAY6 = ipaddress.IPv6Interface("fd00:10:0:2::1/64")
ROUTER6 = ipaddress.IPv6Interface("fe80::1/64")
"""What the guest knows as its router; GATEWAY6 is what it sees itself under when it calls its own pod."""
GATEWAY_MAC = "02:00:0a:00:02:01"
"""The same in every berth: what the guest knows of its neighbours stays right when it moves to another node."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What shall be: in each family that the pod has an address of."""

    guest_mac: str
    mtu: int
    ipv4: bool = True
    ipv6: bool = False
    device: str = DEVICE
    uplink: str = UPLINK

    @property
    def addresses(self) -> tuple[str, ...]:
        """The tap's."""
        ipv4 = (str(GATEWAY),) if self.ipv4 else ()
        return (*ipv4, str(ROUTER6), str(GATEWAY6)) if self.ipv6 else ipv4

    @property
    def guests(self) -> tuple[str, ...]:
        """The guest's addresses, without prefix lengths."""
        ipv4 = (str(GUEST.ip),) if self.ipv4 else ()
        return (*ipv4, str(GUEST6.ip)) if self.ipv6 else ipv4

    @property
    def sysctls(self) -> dict[str, str]:
        conf, conf6 = f"net/ipv4/conf/{self.device}", f"net/ipv6/conf/{self.device}"
        found = {
            "net/ipv4/ip_forward": "1",  # first: it sets others of these to what suits a router
            f"{conf}/arp_ignore": "1",  # answer for the gateway only, not for the pod's other addresses
            f"{conf}/rp_filter": "1",
            f"{conf}/route_localnet": "1",  # kubectl port-forward connects to the pod's loopback
            f"{conf}/accept_redirects": "0",
            f"{conf}/accept_source_route": "0",
            f"{conf}/send_redirects": "0",
            "net/ipv4/conf/all/send_redirects": "0",
        }
        if not self.ipv6:
            return found | {f"{conf6}/disable_ipv6": "1"}
        return found | {
            "net/ipv6/conf/all/forwarding": "1",
            f"{conf6}/accept_ra": "0",
            f"{conf6}/accept_redirects": "0",
            f"{conf6}/accept_source_route": "0",
            f"{conf6}/addr_gen_mode": "1",  # none but the fixed addresses
            f"{conf6}/disable_ipv6": "0",
        }

    @property
    def uplink_accepts(self) -> str:
        """1: router advertisements are heeded, but not by a router; 2: in any case. What the CNI relies on stays."""
        return f"net/ipv6/conf/{self.uplink}/accept_ra"


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    mac: str
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """What is, in the berth's namespace."""

    link: Link
    addresses: frozenset[str] = frozenset()
    neighbours: Mapping[str, str] = field(default_factory=dict)  # permanent ones: address → MAC
    sysctls: Mapping[str, str] = field(default_factory=dict)
    rules_match: bool = False


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """A device of an earlier attempt, that nobody holds open."""

    name: str


@dataclass(frozen=True, slots=True)
class MoveTap:
    """From the agent's namespace, where libvirt opened it, into the berth's."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class WriteSysctl:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class LoadRules:
    pass


@dataclass(frozen=True, slots=True)
class SetLink:
    name: str
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class AddAddress:
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    name: str


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    name: str
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Made by shaping.py, which compares by itself."""

    name: str
    limit: LimitOrder | None


@dataclass(frozen=True, slots=True)
class MakePair:
    """A veth pair from the berth to a bridge on the node."""

    name: str
    outer: str


@dataclass(frozen=True, slots=True)
class AddRoute:
    """To the guest's one address."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class RemoveRules:
    """Of a NIC that the machine has no more."""

    table: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the segment where the guest is now."""

    name: str


@dataclass(frozen=True, slots=True)
class ChangeSegment:
    """Something of a segment's devices on the node; ``what`` is for people."""

    what: str


@dataclass(frozen=True, slots=True)
class ChangeDoor:
    """Something of the ways to the machine's other berths; ``what`` is for people."""

    what: str


Change = (
    RemoveLink
    | MoveTap
    | WriteSysctl
    | LoadRules
    | SetLink
    | AddAddress
    | RemoveAddress
    | LinkUp
    | SetNeighbour
    | SetLimit
    | MakePair
    | AddRoute
    | RemoveRoute
    | RemoveRules
    | Announce
    | ChangeSegment
    | ChangeDoor
)


def plan(seen: Observed, want: Wiring) -> list[Change]:
    """In this order the guest's device comes up only when the rules around it are there."""
    return list(_changes(seen, want))


def _changes(seen: Observed, want: Wiring) -> Iterator[Change]:
    if want.ipv6 and seen.sysctls.get(want.uplink_accepts) == "1":
        yield WriteSysctl(want.uplink_accepts, "2")
    for name, value in want.sysctls.items():
        absent = name not in seen.sysctls and "ipv6" in name and not want.ipv6  # there is no IPv6 to switch off
        if seen.sysctls.get(name) != value and not absent:
            yield WriteSysctl(name, value)
    if not seen.rules_match:
        yield LoadRules()
    changed = (seen.link.mac, seen.link.mtu) != (GATEWAY_MAC, want.mtu)
    if changed:
        yield SetLink(want.device, GATEWAY_MAC, want.mtu)
    there = {address for address in seen.addresses if want.ipv6 or ":" not in address}  # others go with disable_ipv6
    yield from (RemoveAddress(want.device, address) for address in sorted(there.difference(want.addresses)))
    missing = [address for address in want.addresses if address not in seen.addresses]
    yield from (AddAddress(want.device, address) for address in missing if ":" not in address)
    if not seen.link.up:
        yield LinkUp(want.device)
    yield from (AddAddress(want.device, address) for address in missing if ":" in address)  # a link has them while up
    for guest in want.guests:
        if changed or seen.neighbours.get(guest) != want.guest_mac:  # a new MAC makes the kernel forget all neighbours
            yield SetNeighbour(want.device, guest, want.guest_mac)


def device_name(nic: NicOrder) -> str:
    """The tap's name in the berth: vm0 on the pod network, else after the NIC."""
    if nic.kind is NicKind.POD:
        return DEVICE
    return f"vm-{nic.name}" if len(nic.name) <= 12 else f"vm_{hashlib.sha256(nic.name.encode()).hexdigest()[:12]}"


def is_tap(name: str) -> bool:
    """Whether a device in a berth is the tap of some NIC."""
    return name == DEVICE or name.startswith(("vm-", "vm_"))


def tap_name(vm_uid: str, nic: str) -> str:
    """The tap's name while it is in the agent's namespace: at most 15 characters, and the NIC's own.

    Made from the NIC's name and not its place in the list: others come and go while the machine runs.
    """
    return f"{tap_prefix(vm_uid)}{hashlib.sha256(nic.encode()).hexdigest()[:5]}"


def tap_prefix(vm_uid: str) -> str:
    return f"bt{hashlib.sha256(vm_uid.encode()).hexdigest()[:8]}"
