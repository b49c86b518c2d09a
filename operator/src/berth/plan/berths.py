"""Which of a machine's berth pods is which: the one it runs in, the one it is moving to, those that are doors.

The status is the owner's record: it names the berth and its epoch, and is changed at the version that was read. A pod
made for a start has the machine's lock name; one made for a move has a name of its own and the Migration's uid in its
annotations. Called by the controller's cache and its gather; pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from berth.api.handover import MigrationState
from berth.api.order import GuestState, Report
from berth.api.virtualmachine import Power
from berth.plan.world import Agent, Pod, World


@dataclass(frozen=True, slots=True)
class Owner:
    """What a machine's status says of its place."""

    uid: str
    lock: str  # the name of a pod that is made for a start
    berth: str | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Berths:
    active: Pod | None = None  # or somebody else's pod that has the lock's name
    incoming: Pod | None = None
    former: tuple[Pod, ...] = ()


def owner(obj: Mapping[str, Any], lock: str) -> Owner:
    status = obj.get("status") or {}
    return Owner(obj["metadata"]["uid"], lock, status.get("berth"), status.get("epoch") or 0)


def sort(who: Owner, pods: Sequence[Pod]) -> Berths:
    """Each of the machine's pods in its place."""
    own = [pod for pod in pods if pod.owner_uid == who.uid]
    here = next((pod for pod in own if is_active(who, pod)), None)
    rest = [pod for pod in own if pod is not here]
    coming = [pod for pod in rest if pod.migration and pod.epoch > who.epoch]
    former = tuple(sorted((pod for pod in rest if pod not in coming), key=lambda pod: pod.epoch))
    squatter = next((pod for pod in pods if pod.name == who.lock and pod.owner_uid != who.uid), None)
    return Berths(here or squatter, coming[0] if coming else None, former)


def is_active(who: Owner, pod: Pod) -> bool:
    """The berth that the status names; or one that was made for a start of which the status does not tell yet."""
    if pod.name == who.berth and pod.epoch == who.epoch:
        return True
    if pod.migration or pod.name != who.lock:
        return False
    return pod.epoch > who.epoch or (pod.epoch in (0, who.epoch) and who.berth in (None, who.lock))


def incoming_name(machine: str, uid: str, epoch: int) -> str:
    """A move's pod: one name for each epoch, so that there are never two at a time."""
    mark = hashlib.sha256(f"{uid} {epoch}".encode()).hexdigest()[:10]
    return f"berth-{machine[:46].rstrip('-.')}-{mark}"


def agent_of(world: World, pod: Pod | None) -> Agent | None:
    return world.agents.get(pod.node) if pod is not None and pod.node else None


def report_of(world: World, pod: Pod | None) -> Report | None:
    """The word of the pod's node on the guest in that very pod."""
    agent = agent_of(world, pod)
    report = agent.report if agent is not None else None
    return report if report is not None and pod is not None and report.pod_uid == pod.uid else None


def handed_over(world: World) -> bool:
    """Positively: the source's copy has ended for good, or the target's runs. Each alone is proof."""
    incoming = world.incoming
    if incoming is None or incoming.node is None:
        return False
    source, target = world.report, report_of(world, incoming)
    if source is not None and source.state is GuestState.MOVED:
        return True
    if _says(source, incoming, MigrationState.HANDED_OVER) or _says(target, incoming, MigrationState.ARRIVED):
        return True
    return target is not None and target.state is GuestState.RUNNING and target.migration is None


def arrived(world: World, pod: Pod) -> bool:
    """Whether the guest that moved to this berth has run there, or is to stand still there."""
    report = report_of(world, pod)
    if report is None:
        return False
    said = report.migration
    if said is not None and said.uid == pod.migration:
        if report.state is GuestState.ENDED:
            return True
        stands = report.state in (GuestState.STARTING, GuestState.PAUSED)  # it is ours, and about to be let run
        meant = report.state is GuestState.PAUSED and world.wanted is Power.PAUSED
        return said.state is MigrationState.ARRIVED and (not stands or meant or said.pause_ms is not None)
    return report.state not in (GuestState.WAITING, GuestState.PREPARING, GuestState.STARTING, GuestState.FAILED)


def arriving(world: World) -> bool:
    """It has been handed over to this berth, and does not run in it yet, as far as is known."""
    berth = world.berth
    return berth is not None and bool(berth.migration) and not berth.terminal and not arrived(world, berth)


def promoted(world: World) -> World:
    """The world once a hand-over is written down: the target's berth is the machine's."""
    incoming = world.incoming
    if incoming is None or not handed_over(world):
        return world
    left = (*world.former, world.berth) if world.berth is not None else world.former
    return replace(
        world,
        pod=incoming,
        departed=None,
        incoming=None,
        former=left,
        agent=world.agents.get(incoming.node or ""),
        node_exists=True,
        events=(),
    )


def _says(report: Report | None, incoming: Pod, state: MigrationState) -> bool:
    said = report.migration if report is not None else None
    return said is not None and said.uid == incoming.migration and said.state is state
