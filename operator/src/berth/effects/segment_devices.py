"""The segments of this node: bridges and what joins them to others, made on demand, removed when no guest needs them.

Called by network.py and segment_nic.py. Level-based: what is there is observed, compared with what shall be
(segments.py), and only the difference is made. One lock for all: no bridge is taken away between being made and
getting its guest's port. What it remembers of other nodes' members may be lost: the kernel keeps the entries.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from berth.api.order import NicOrder, SegmentKind, SegmentMembers, SegmentOrder
from berth.effects import namespaces, nft, paths, segment_guard, segment_space, segments
from berth.effects.rtlinks import Device, FdbEntry, Links
from berth.effects.rtnetlink import NetlinkError
from berth.effects.segments import Place
from berth.errors import HostFault

SPACE = Path("/run/berth/segments")
_log = logging.getLogger(__name__)

Told = Callable[[segments.Change], None]


@dataclass(frozen=True, slots=True)
class Below:
    """The device of the node that a segment stands on."""

    index: int
    mtu: int


@dataclass(slots=True)
class NodeSegments:
    """``place``: who this node is; ``space``: where the segments' network namespace is kept."""

    place: Place = field(default_factory=Place)
    space: Path = SPACE
    _members: dict[str, SegmentMembers] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def join(self, vm_uid: str, nic: NicOrder, order: SegmentOrder, netns: int, inner: str, told: Told) -> int:
        """A veth pair from the berth's namespace to the segment's bridge, and all it takes; the NIC's MTU."""
        with self._lock, Links() as here:
            where = segment_space.open_own() if order.kind is SegmentKind.BRIDGE else segment_space.make(self.space)
            with paths.closing(where):
                want = segments.desired(order, self.place, _below(here, order, self.place).mtu)
                mtu = segments.nic_mtu(nic, want.mtu)
                seen = namespaces.in_network(where, _devices)
                _check(order, seen)
                for change in segments.plan(seen, want):
                    _Work(where, here, order, self.place, netns).apply(change)
                    told(change)
                self._know(where, order)
                inside, outside = (namespaces.in_network(space, _devices) for space in (netns, where))
                port = segments.port_name(vm_uid, nic.name)
                for change in segments.plan_port(inside, outside, inner, port, want):
                    _Work(where, here, order, self.place, netns).apply(change)
                    told(change)
                return mtu

    def set_members(self, members: SegmentMembers) -> None:
        """Who else is on an overlay; one that was told before a newer one is not taken."""
        segments.check(members.members)
        uid = members.segment.uid
        with self._lock:
            known = self._members.get(uid)
            if known is not None and known.version > members.version:
                return
            self._members[uid] = members
            if (where := segment_space.find(self.space)) is not None:
                with paths.closing(where):
                    self._know(where, members.segment)

    def members(self) -> list[SegmentMembers]:
        with self._lock:
            return list(self._members.values())

    def guard(self) -> None:
        """Keep strangers out of overlays, also before there is one here."""
        with self._lock:
            where = segment_space.find(self.space)
            peers = namespaces.in_network(where, _peers) if where is not None else set()
            if where is not None:
                os.close(where)
            tables = segment_guard.build(peers, self.place.port)
            if not nft.stand(tables):
                nft.load(tables)

    def collect(self) -> list[str]:
        """Remove the devices of segments that no guest of this node is on any more; their names."""
        with self._lock:
            where = segment_space.find(self.space)
            if where is None:
                return []
            with paths.closing(where):
                gone = namespaces.in_network(where, _remove_unused)
            if gone:
                self.guard()
            return gone

    def remove_ports(self, vm_uid: str, keep: set[str]) -> None:
        """The ports of a machine's NICs other than these, on every bridge; the inner ends go with them."""
        wanted = {segments.port_name(vm_uid, nic) for nic in keep}

        def work() -> None:
            with Links() as links:
                for name, device in links.devices().items():
                    if name.startswith(segments.port_prefix(vm_uid)) and name not in wanted:
                        _delete(links, device)

        with self._lock:
            work()
            if (where := segment_space.find(self.space)) is not None:
                with paths.closing(where):
                    namespaces.in_network(where, work)

    def _know(self, where: int, order: SegmentOrder) -> None:
        """Bring what is known of an overlay's members into its device, when it is here, and into the guard."""
        members = self._members.get(order.uid)
        if order.kind is not SegmentKind.OVERLAY:
            return
        if members is not None:
            want = segments.fdb(members.members, self.place)
            namespaces.in_network(where, lambda: _set_fdb(segments.uplink_name(order), want))
        self.guard()


@dataclass(frozen=True, slots=True)
class _Work:
    """One change of the devices of a segment."""

    where: int
    here: Links
    order: SegmentOrder
    place: Place
    netns: int

    def apply(self, change: segments.Change) -> None:
        try:
            match change:
                case segments.MakeUplink(name, mtu):
                    self._make_uplink(name, mtu)
                case segments.MakePort(name, inner, mtu):
                    namespaces.in_network(self.netns, lambda: _make_pair(inner, name, self.where, mtu))
                case _:
                    namespaces.in_network(self.where, lambda: _apply(change))
        except NetlinkError as error:
            message = f"network {self.order.name}: {change} failed: {error}"
            raise HostFault(message, reason="NetworkFailed") from error

    def _make_uplink(self, name: str, mtu: int) -> None:
        try:
            if self.order.kind is SegmentKind.OVERLAY:
                vni, local, port = self.order.vni, self.place.address, self.place.port
                self.here.add_vxlan(name, self.where, vni=vni, local=local, port=port, mtu=mtu)
            else:
                card = _below(self.here, self.order, self.place).index
                self.here.add_vlan(name, self.where, card=card, vlan=self.order.vlan, mtu=mtu)
        except NetlinkError as error:
            raise _uplink_fault(self.order, error) from error


def _uplink_fault(order: SegmentOrder, error: NetlinkError) -> HostFault:
    vlan = order.kind is SegmentKind.VLAN
    what = f"VLAN {order.vlan} on {order.device}" if vlan else f"VXLAN {order.vni}"
    if error.errno == errno.EOPNOTSUPP:
        message = f"this node's kernel cannot make {what}: load the module {'8021q' if vlan else 'vxlan'}"
        return HostFault(f"network {order.name}: {message}", reason="VlanUnsupported" if vlan else "VxlanUnsupported")
    if error.errno == errno.EEXIST:
        message = f"another device of this node has {what}; remove it, or give the network another number"
        return HostFault(f"network {order.name}: {message}", reason="VlanTaken" if vlan else "VniTaken")
    return HostFault(f"network {order.name}: {what} cannot be made: {error}", reason="NetworkFailed")


def _below(here: Links, order: SegmentOrder, place: Place) -> Below:
    if order.kind is SegmentKind.OVERLAY:
        found = here.device_with(place.address) if place.address else None
        message = f"no device of this node has its address {place.address}, which overlays need; check BERTH_HOST_IP"
        reason = "NodeAddressMissing"
    else:
        found = here.devices().get(order.device)
        what = "bridge" if order.kind is SegmentKind.BRIDGE else "network card"
        message = f"this node has no {what} {order.device}; make it, or keep the machine off this node"
        reason = "BridgeMissing" if order.kind is SegmentKind.BRIDGE else "VlanDeviceMissing"
    if found is None:
        raise HostFault(f"network {order.name}: {message}", reason=reason)
    return Below(found.index, found.mtu)


def _check(order: SegmentOrder, seen: dict[str, Device]) -> None:
    if order.kind is SegmentKind.BRIDGE and seen[order.device].kind != "bridge":
        kind = seen[order.device].kind or "a network card"
        message = f"{order.device} of this node is no bridge but {kind}; name a bridge in spec.bridge"
        raise HostFault(f"network {order.name}: {message}", reason="BridgeMissing")


def _devices() -> dict[str, Device]:
    with Links() as links:
        return links.devices()


def _make_pair(inner: str, outer: str, where: int, mtu: int) -> None:
    """Ends of one number look to the kernel like a device that is its own lower one (net/core/link_watch.c): it then
    opens the bridge's port up to a second later. Made with that number once more, the other end gets the next one."""
    with Links() as links:
        _make_ends(links, inner, outer, where, mtu)
        made = links.devices()[inner]
        if made.index == made.peer:
            _make_ends(links, inner, outer, where, mtu, index=made.index)


def _make_ends(links: Links, inner: str, outer: str, where: int, mtu: int, *, index: int = 0) -> None:
    if (older := links.devices().get(inner)) is not None:
        links.delete_link(older.index)
    links.add_veth(inner, outer, where, mtu=mtu, peer_mac=segments.port_mac(outer), index=index)


def _apply(change: segments.Change) -> None:
    with Links() as links:
        devices = links.devices()
        match change:
            case segments.Remove(name):
                _delete(links, devices[name])
            case segments.MakeBridge(name):
                links.add_bridge(name)
            case segments.SetMtu(name, mtu):
                links.set_link(devices[name].index, mtu=mtu)
            case segments.Label(name, label):
                links.set_alias(devices[name].index, label)
            case segments.Enslave(name, bridge):
                _quiet(name)
                links.set_master(devices[name].index, devices[bridge].index)
            case segments.Raise(name):
                links.set_link(devices[name].index, up=True)
            case _:
                raise HostFault(f"{change} is no change of a segment's namespace", reason="NetworkFailed")


def _quiet(name: str) -> None:
    """A port says nothing by itself."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


def _delete(links: Links, device: Device) -> None:
    try:
        links.delete_link(device.index)
    except NetlinkError as error:
        if error.errno != errno.ENODEV:  # its pod took it along meanwhile
            raise


def _remove_unused() -> list[str]:
    with Links() as links:
        devices = links.devices()
        gone = segments.unused(devices)
        for name in gone:
            _delete(links, devices[name])
        return gone


def _set_fdb(uplink: str, want: set[FdbEntry]) -> None:
    with Links() as links:
        device = links.devices().get(uplink)
        if device is None:
            return  # no guest of this node is on it: the entries are made with it
        setting, deleting = segments.plan_fdb(links.fdb(device.index), want)
        for entry in setting:
            links.add_fdb(device.index, entry)
        for entry in deleting:
            links.delete_fdb(device.index, entry)


def _peers() -> set[str]:
    """Every node that some overlay here sends to."""
    with Links() as links:
        uplinks = [d for name, d in links.devices().items() if name.startswith(segments.VXLAN)]
        return {entry.node for device in uplinks for entry in links.fdb(device.index)}
