"""Networks as a machine's plan sees them: which of its interfaces need a lease, what to write, what stands in the way.

Called by cluster.py (what to do), orders.py (what the node is told) and conditions.py (what to say). Pure. The leases
stand in the Network's status and are changed in one write with its resourceVersion: whoever comes second looks again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from berth.api.addresses import family
from berth.api.devices import Nic
from berth.api.network import Lease
from berth.api.order import NicOrder, SegmentKind, SegmentOrder
from berth.api.virtualmachine import VirtualMachineSpec
from berth.plan import ipam
from berth.plan.ipam import No, Wish
from berth.plan.segment import Segment, SegmentKey
from berth.plan.world import World, frozen_spec


@dataclass(frozen=True, slots=True)
class WriteLeases:
    """Replace the leases that a Network's status holds, if nobody changed it meanwhile."""

    segment: Segment
    leases: tuple[Lease, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an interface cannot be on its Network."""

    nic: str
    reason: str
    message: str


def nics(world: World) -> list[Nic]:
    """The interfaces the machine has or is to have: the berth's own, without those that were taken from the running
    machine and with those that were added to it; without a berth, the spec's."""
    spec, berth = world.machine.spec, world.berth
    frozen = frozen_spec(berth) if berth is not None and not berth.terminal else None
    return effective(frozen or spec, spec)


def effective(frozen: VirtualMachineSpec | None, live: VirtualMachineSpec | None) -> list[Nic]:
    """A berth's interfaces with what is Live in them as it is wanted now."""
    if frozen is None:
        return []
    if live is None or live is frozen:
        return list(frozen.nics)
    wanted = {nic.name: nic for nic in live.nics}
    kept = [_with_live(nic, wanted.get(nic.name)) for nic in frozen.nics if nic.name in wanted or not nic.plugs_live]
    known = {nic.name for nic in frozen.nics}
    return kept + [nic for nic in live.nics if nic.name not in known and nic.plugs_live]


def _with_live(nic: Nic, wanted: Nic | None) -> Nic:
    if wanted is None:
        return nic
    live = {"link": wanted.link, "bandwidth": wanted.bandwidth, "anti_spoofing": wanted.anti_spoofing}
    return nic.model_copy(update=live if nic.pod is None else {**live, "anti_spoofing": True})


def key_of(nic: Nic, namespace: str) -> SegmentKey | None:
    """The Network an interface is on."""
    return (nic.network.namespace or namespace, nic.network.name) if nic.network is not None else None


def referenced(world: World) -> set[SegmentKey]:
    """The Networks whose views the plan needs."""
    return {key for nic in nics(world) if (key := key_of(nic, world.machine.namespace)) is not None}


def check(world: World) -> tuple[list[WriteLeases], list[Trouble]]:
    """Leases to write so that every interface has one, and why some cannot."""
    changed: dict[SegmentKey, tuple[Lease, ...]] = {}
    troubles: list[Trouble] = []
    for nic in nics(world):
        key = key_of(nic, world.machine.namespace)
        if key is None:
            continue
        segment = world.networks.get(key)
        problem = _barred(world, nic, key, segment)
        if problem is not None or segment is None or segment.spec is None:
            troubles += [problem] if problem is not None else []
            continue
        leases = changed.get(key, segment.leases)
        found = ipam.lease(segment.spec, leases, _wish(world, nic))
        if isinstance(found, No):
            troubles.append(Trouble(nic.name, found.reason, f"Interface {nic.name}: {found.message}"))
        elif found not in leases:
            others = tuple(held for held in leases if (held.uid, held.nic) != (found.uid, found.nic))
            changed[key] = (*others, found)
    writes = [
        WriteLeases(world.networks[key], leases, "an interface needs addresses") for key, leases in changed.items()
    ]
    return writes, troubles


def unneeded(world: World) -> list[WriteLeases]:
    """Leases of interfaces that the machine has no more: they are given back. All of them, once it is deleted."""
    machine = world.machine
    keep = set() if machine.deleted is not None and world.berth is None else _kept(world)
    found = []
    for segment in world.networks.values():
        left = tuple(held for held in segment.leases if held.uid != machine.uid or (segment.key, held.nic) in keep)
        if left != segment.leases:
            found.append(WriteLeases(segment, left, "the machine has that interface no more"))
    return found


def _kept(world: World) -> set[tuple[SegmentKey, str]]:
    """An interface keeps its lease while it is wanted, and while the guest may still have it."""
    namespace, frozen = world.machine.namespace, frozen_spec(world.berth) if world.berth is not None else None
    given: list[Nic] = [*(frozen.nics if frozen else ()), *(world.machine.spec.nics if world.machine.spec else ())]
    if world.machine.spec is None and frozen is None:
        return {(segment.key, held.nic) for segment in world.networks.values() for held in segment.leases}
    return {(key, nic.name) for nic in given if (key := key_of(nic, namespace)) is not None}


def _wish(world: World, nic: Nic) -> Wish:
    machine = world.machine
    assert nic.network is not None  # the caller looked
    mac = mac_of(machine.uid, nic)
    return Wish(f"{machine.namespace}/{machine.name}", machine.uid, nic.name, mac, tuple(nic.network.addresses))


def _barred(world: World, nic: Nic, key: SegmentKey, segment: Segment | None) -> Trouble | None:
    """What keeps an interface off a Network altogether."""
    named = f"Interface {nic.name}: Network {key[0]}/{key[1]}"
    if segment is None:
        text = f"{named} does not exist. Next: create it, or mend spec.nics[{nic.name}].network."
        return Trouble(nic.name, "NetworkMissing", text)
    if not segment.allows(world.machine.namespace):
        text = f"{named} is not shared with namespace {world.machine.namespace}."
        return Trouble(nic.name, "NetworkNotShared", f"{text} Next: its owner adds that to spec.allowedNamespaces.")
    if segment.spec is None:
        return Trouble(nic.name, "NetworkInvalid", f"{named} has an invalid spec: {segment.problem}. Next: mend it.")
    if segment.deleted and segment.lease_of(world.machine.uid, nic.name) is None:
        return Trouble(nic.name, "NetworkDeleting", f"{named} is being deleted. Next: use another, or make it anew.")
    if segment.spec.overlay is not None and segment.vni is None:
        return Trouble(nic.name, "NetworkPending", f"{named} has no VXLAN network identifier yet.")
    return None


def mac_of(uid: str, nic: Nic) -> str:
    """The interface's MAC address: the one given, else one that stays for the machine's life."""
    return nic.mac or ipam.stable_mac(uid, nic.name)


def on_segment(order: NicOrder, nic: Nic, uid: str, segment: Segment | None) -> NicOrder | None:
    """The Order's part for an interface on a Network; None while it has no lease."""
    if segment is None or segment.spec is None:
        return None
    held = segment.lease_of(uid, nic.name)
    if held is None:
        return None
    spec, routers = segment.spec, ipam.gateways(segment.spec)
    lengths = {version: ipaddress.ip_network(pool.range).prefixlen for version, pool in ipam.pools(spec)}
    return order.model_copy(
        update={
            "segment": segment_order(segment),
            "addresses": tuple(f"{a}/{lengths[family(a)]}" for a in held.addresses if family(a) in lengths),
            "gateways": tuple(routers.values()),
            "dns": tuple(spec.dns),
            "search": tuple(spec.search),
        }
    )


def segment_order(segment: Segment) -> SegmentOrder:
    """The segment as far as a node has to make it."""
    spec = segment.spec
    assert spec is not None  # the caller looked
    given = SegmentOrder(uid=segment.uid, name="/".join(segment.key), kind=SegmentKind.OVERLAY, mtu=spec.mtu)
    given = given.model_copy(update={"nat": spec.egress.type == "NAT"})
    if spec.bridge is not None:
        return given.model_copy(update={"kind": SegmentKind.BRIDGE, "device": spec.bridge.name})
    if spec.vlan is not None:
        return given.model_copy(update={"kind": SegmentKind.VLAN, "device": spec.vlan.device, "vlan": spec.vlan.id})
    return given.model_copy(update={"vni": segment.vni or 0})


def with_leases(segment: Segment, leases: Iterable[Lease]) -> Segment:
    """How the Network will look once a write is through."""
    return replace(segment, leases=tuple(leases))
