"""A segment on one node: an order and what is there in, the devices that shall be and the changes left to make out.

Called by segment_devices.py. Pure: it touches no device. A plan for what is already right is empty.

Overlays and VLANs have a bridge of their own in a network namespace of their own, where the node has no address, no
filter and no NAT: what a guest sends there never meets the node's stack.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from berth.api.order import NicOrder, SegmentKind, SegmentMember, SegmentOrder
from berth.effects.rtlinks import NO_MAC, Device, FdbEntry
from berth.errors import InvalidSpec

BRIDGE, VXLAN, VLAN, PORT = "bb", "bx", "bl", "bp"
"""How the names of the devices begin that are Berth's."""
_HEADERS = {4: 50, 6: 70}  # outer IP, UDP, VXLAN and the inner Ethernet header
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class Place:
    """This node, as the others' overlays know it."""

    node: str = ""
    address: str = ""
    port: int = 14789


@dataclass(frozen=True, slots=True)
class Segment:
    """What shall be. ``identity`` says all that cannot be changed of a device once it is made."""

    bridge: str
    mtu: int
    uplink: str = ""  # VXLAN or VLAN device
    identity: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    name: str


@dataclass(frozen=True, slots=True)
class MakeBridge:
    """Its MTU is the kernel's business, which keeps it at the smallest of its ports'."""

    name: str


@dataclass(frozen=True, slots=True)
class MakeUplink:
    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class MakePort:
    """A veth pair; its inner end is in the berth."""

    name: str
    inner: str
    mtu: int


@dataclass(frozen=True, slots=True)
class SetMtu:
    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Label:
    name: str
    label: str


@dataclass(frozen=True, slots=True)
class Enslave:
    name: str
    bridge: str


@dataclass(frozen=True, slots=True)
class Raise:
    name: str


Change = Remove | MakeBridge | MakeUplink | MakePort | SetMtu | Label | Enslave | Raise


def desired(order: SegmentOrder, place: Place, below_mtu: int) -> Segment:
    """``below_mtu``: what the device beneath carries: the bridge, the card, or the one with the node's address."""
    limit = largest_mtu(order, place, below_mtu)
    if order.mtu is not None and order.mtu > limit:
        raise InvalidSpec(f"network {order.name}: spec.mtu", f"at most {limit} on this node", given=order.mtu)
    digest, mtu = _digest(order.uid)[:12], order.mtu or limit
    label = f"berth {order.uid} {order.name}"
    match order.kind:
        case SegmentKind.BRIDGE:
            return Segment(order.device, mtu)
        case SegmentKind.OVERLAY:
            identity = f"berth {order.uid} vni {order.vni} from {place.address} port {place.port}"
            return Segment(BRIDGE + digest, mtu, VXLAN + digest, identity, label)
        case SegmentKind.VLAN:
            identity = f"berth {order.uid} vlan {order.vlan} on {order.device}"
            return Segment(BRIDGE + digest, mtu, VLAN + digest, identity, label)


def largest_mtu(order: SegmentOrder, place: Place, below_mtu: int) -> int:
    if order.kind is not SegmentKind.OVERLAY:
        return below_mtu
    return below_mtu - _HEADERS[ipaddress.ip_address(place.address).version]


def nic_mtu(nic: NicOrder, limit: int) -> int:
    if nic.mtu is not None and nic.mtu > limit:
        raise InvalidSpec(f"interface {nic.name}: mtu", f"its network carries at most {limit} here", given=nic.mtu)
    return nic.mtu or limit


def plan(seen: Mapping[str, Device], want: Segment) -> list[Change]:
    """The bridge of a segment and what leads from it to other nodes."""
    return list(_changes(seen, want)) if want.uplink else []


def _changes(seen: Mapping[str, Device], want: Segment) -> Iterator[Change]:
    bridge = seen.get(want.bridge)
    if bridge is None:
        yield MakeBridge(want.bridge)
    yield from _settle(want.bridge, bridge, None, want.label, None)
    uplink = seen.get(want.uplink)
    if uplink is not None and uplink.alias != want.identity:
        yield Remove(want.uplink)
        uplink = None
    if uplink is None:
        yield MakeUplink(want.uplink, want.mtu)
    yield from _settle(want.uplink, uplink, want.mtu, want.identity, (want.bridge, bridge))


def plan_port(
    inside: Mapping[str, Device], outside: Mapping[str, Device], inner: str, name: str, want: Segment
) -> list[Change]:
    """A guest's way to the bridge. An end whose other end is somewhere else is of an earlier attempt.

    The port carries what the bridge does also when the guest shall get less: bridges take on the least of their ports.
    """
    return list(_port_changes(inside.get(inner), outside, inner, name, want))


def _port_changes(
    inner: Device | None, outside: Mapping[str, Device], inner_name: str, name: str, want: Segment
) -> Iterator[Change]:
    outer = outside.get(name)
    paired = inner is not None and outer is not None and (inner.peer, outer.peer) == (outer.index, inner.index)
    if not paired:
        if outer is not None:
            yield Remove(name)
        yield MakePort(name, inner_name, want.mtu)
        outer = None
    yield from _settle(name, outer, want.mtu, f"berth port of {want.bridge}", (want.bridge, outside.get(want.bridge)))


def _settle(
    name: str, device: Device | None, mtu: int | None, label: str, bridge: tuple[str, Device | None] | None
) -> Iterator[Change]:
    """What is left to do on a device; None stands for one that was just made."""
    if device is not None and mtu is not None and device.mtu != mtu:
        yield SetMtu(name, mtu)
    if bridge is not None and (device is None or bridge[1] is None or device.master != bridge[1].index):
        yield Enslave(name, bridge[0])
    if device is None or not device.up:
        yield Raise(name)
    if device is None or device.alias != label:
        yield Label(name, label)  # last: what has its label was made to the end


def unused(seen: Mapping[str, Device]) -> list[str]:
    """Bridges without any guest's port, and what leads to other nodes from them or from no bridge at all."""
    used = {device.master for device in seen.values() if device.name.startswith(PORT)}
    idle = [d.name for d in seen.values() if d.name.startswith(BRIDGE) and d.index not in used]
    kept = {d.name.removeprefix(BRIDGE) for d in seen.values() if d.name.startswith(BRIDGE) and d.index in used}
    uplinks = [name for name in seen if name.startswith((VXLAN, VLAN)) and name[2:] not in kept]
    return sorted(uplinks) + sorted(idle)


def check(members: Iterable[SegmentMember]) -> None:
    """InvalidSpec for what is no MAC address or no node's address."""
    for at, member in enumerate(members):
        if not _MAC.fullmatch(member.mac.lower()):
            raise InvalidSpec(f"members[{at}].mac", "must be a MAC address", given=member.mac)
        try:
            ipaddress.ip_address(member.node_address)
        except ValueError as error:
            path = f"members[{at}].nodeAddress"
            raise InvalidSpec(path, "must be an IP address", given=member.node_address) from error


def fdb(members: Iterable[SegmentMember], place: Place) -> set[FdbEntry]:
    """Where frames go: to each known MAC its node, to all others every node that has members."""
    version = ipaddress.ip_address(place.address).version
    away = [m for m in members if m.node != place.node and m.node_address != place.address]
    found = {FdbEntry(m.mac.lower(), _plain(m.node_address)) for m in away if _version(m.node_address) == version}
    return found | {FdbEntry(NO_MAC, entry.node) for entry in found}


def plan_fdb(seen: set[FdbEntry], want: set[FdbEntry]) -> tuple[list[FdbEntry], list[FdbEntry]]:
    """Entries to set and entries to delete, in this order: setting moves a MAC address that is known elsewhere."""
    stay = {entry.mac for entry in want if entry.mac != NO_MAC}
    return sorted(want - seen), sorted(entry for entry in seen - want if entry.mac not in stay)


def port_name(vm_uid: str, nic: str) -> str:
    """The node's end of a guest's veth pair: at most 15 characters, and the NIC's own."""
    return f"{PORT}{_digest(vm_uid)[:8]}{_digest(nic)[:5]}"


def port_prefix(vm_uid: str) -> str:
    return f"{PORT}{_digest(vm_uid)[:8]}"


def port_mac(port: str) -> str:
    """A high one: a bridge without a MAC address of its own takes its lowest port's, and nodes are known by theirs."""
    return "fe:" + ":".join(_digest(port)[at : at + 2] for at in range(0, 10, 2))


def uplink_name(order: SegmentOrder) -> str:
    return VXLAN + _digest(order.uid)[:12]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version


def _plain(address: str) -> str:
    return str(ipaddress.ip_address(address))
