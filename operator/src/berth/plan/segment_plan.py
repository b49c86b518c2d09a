"""What is to be done for one Network: a Segment, its neighbours and where its machines are in; steps and status out.

Called by controller/networks.py and, for the status that goes with a lease, by the machines' reconcile. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from berth.api.base import GROUP
from berth.api.network import Lease, NetworkStatus
from berth.api.order import SegmentMember, SegmentMembers
from berth.api.virtualmachine import Condition, ConditionStatus
from berth.plan import ipam, networks
from berth.plan.segment import Segment
from berth.plan.world import Object, format_time

FINALIZER: Final = f"{GROUP}/leases"
MOST_VNI: Final = (1 << 24) - 1
FIRST_VNI: Final = 4096
"""Below are the numbers that people like to give themselves."""
MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class SetFinalizers:
    """Keep the Network until no machine has a lease of it; then let it go."""

    finalizers: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class WriteStatus:
    status: NetworkStatus
    reason: str


@dataclass(frozen=True, slots=True)
class SendMembers:
    """Tell one node who else is on the segment."""

    node: str
    members: tuple[SegmentMember, ...]
    reason: str


Step = SetFinalizers | WriteStatus | SendMembers


@dataclass(frozen=True, slots=True)
class Place:
    """Where one machine with a lease is now."""

    uid: str
    node: str
    address: str


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """What the plan of one Network rests on besides the Network."""

    now: datetime
    others: tuple[Segment, ...] = ()
    orphans: frozenset[str] = frozenset()  # uids of machines that positively are no more
    places: tuple[Place, ...] = ()
    sent: Mapping[str, tuple[SegmentMember, ...]] = field(default_factory=dict)  # node → what its agent took last
    reachable: frozenset[str] = frozenset()  # nodes whose agent is connected
    coming: frozenset[str] = frozenset()  # nodes that a machine on it is about to move to


def plan(segment: Segment, seen: Neighbourhood) -> list[Step]:
    """The steps to take now, in their order."""
    leases = [held for held in segment.leases if held.uid not in seen.orphans]
    wanted = _finalizers(segment, leases)
    if wanted != segment.finalizers:  # what follows is planned anew: this changes the resourceVersion
        return [SetFinalizers(wanted, "its leases are to be kept" if FINALIZER in wanted else "no machine uses it")]
    told = status(networks.with_leases(segment, leases), seen.others, seen.now)
    steps: list[Step] = []
    if told != segment.status:
        steps.append(WriteStatus(told, "it says something else"))
    return [*steps, *_members(segment, leases, seen)]


def _finalizers(segment: Segment, leases: Sequence[Lease]) -> tuple[str, ...]:
    rest = tuple(name for name in segment.finalizers if name != FINALIZER)
    return rest if segment.deleted and not leases else (*rest, FINALIZER)


def _members(segment: Segment, leases: Sequence[Lease], seen: Neighbourhood) -> list[Step]:
    """Each node on which the segment is hears of all its members; one that it has left hears that, too."""
    if segment.spec is None or segment.spec.overlay is None or segment.vni is None:
        return []
    places = {place.uid: place for place in seen.places}
    members = tuple(
        SegmentMember(mac=held.mac, addresses=tuple(held.addresses), node=at.node, node_address=at.address)
        for held in sorted(leases, key=lambda held: (held.uid, held.nic))
        if (at := places.get(held.uid)) is not None
    )
    here = {member.node for member in members} | (seen.coming if members else set())
    left = {node for node, had in seen.sent.items() if had}
    wanted = {node: members if node in here else () for node in here | left}
    return [
        SendMembers(node, told, f"{len(told)} members")
        for node, told in sorted(wanted.items())
        if node in seen.reachable and seen.sent.get(node) != told
    ]


def members_order(segment: Segment, members: tuple[SegmentMember, ...], version: int) -> SegmentMembers:
    return SegmentMembers(segment=networks.segment_order(segment), version=version, members=members)


def as_json(value: NetworkStatus) -> Object:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


def choose_vni(segment: Segment, others: Iterable[Segment]) -> int | None:
    """An overlay's number: the one given, the one it has, else the lowest free one. None: another one has it."""
    spec = segment.spec
    if spec is None or spec.overlay is None:
        return None
    taken = {other.vni for other in others if other.uid != segment.uid and other.vni is not None}
    wanted = spec.overlay.vni or segment.vni
    if wanted is not None:
        return None if wanted in taken else wanted
    return next((vni for vni in range(FIRST_VNI, MOST_VNI + 1) if vni not in taken), None)


def status(segment: Segment, others: Iterable[Segment], now: datetime) -> NetworkStatus:
    """What the Network says of itself from now on."""
    vni = choose_vni(segment, others)
    holders = sorted({held.machine for held in segment.leases})
    free = ipam.available(segment.spec, segment.leases) if segment.spec is not None else None
    state, reason, message = _ready(segment, vni, holders, free)
    return NetworkStatus(
        observed_generation=segment.generation,
        message="" if state is ConditionStatus.TRUE else message,
        vni=vni if vni is not None else segment.vni,
        used=len(segment.leases),
        available=free,
        leases=sorted(segment.leases, key=lambda held: (held.machine, held.nic)),
        conditions=[_stamp(segment, state, reason, message, now)],
    )


def _ready(segment: Segment, vni: int | None, holders: list[str], free: int | None) -> tuple[ConditionStatus, str, str]:
    false = ConditionStatus.FALSE
    if segment.spec is None:
        return false, "InvalidSpec", f"{segment.problem}. Next: mend the field and apply the network again."
    if segment.deleted and holders:
        named = ", ".join(holders[:MOST_NAMED]) + (
            f" and {len(holders) - MOST_NAMED} more" * (len(holders) > MOST_NAMED)
        )
        return (
            false,
            "InUse",
            f"It is deleted once no machine uses it: {named}. Next: delete them or change their nics.",
        )
    if segment.spec.overlay is not None and vni is None:
        wanted = segment.spec.overlay.vni or segment.vni
        return (
            false,
            "VniTaken",
            f"VXLAN network identifier {wanted} belongs to another Network. Next: give another vni.",
        )
    if free == 0:
        return false, "AddressesExhausted", "No address is free. Next: delete machines, or make a larger network."
    return ConditionStatus.TRUE, "Ready", ""


def _stamp(segment: Segment, state: ConditionStatus, reason: str, message: str, now: datetime) -> Condition:
    """The time stays as long as the state does."""
    old = next((c for c in segment.status.conditions if c.type == "Ready"), None) if segment.status else None
    same = old is not None and old.status is state
    return Condition(
        type="Ready",
        status=state,
        reason=reason,
        message=message,
        observed_generation=segment.generation,
        last_transition_time=old.last_transition_time if old is not None and same else format_time(now),
    )
