"""Going back to a Snapshot: what the machine's annotation asks for, whether that can be, and which start does it. Pure.

Called by history.py (what the status remembers), cluster.py and conditions.py. The request is a Snapshot's name, and
after an @ anything: the same words again are the same request, which is carried out once, whichever start does it. A
berth carries the request that it was made for, and the volume tells which was carried out last (RevertOrder).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from berth.api.kept import RevertOrder
from berth.api.savedstate import RevertStatus
from berth.api.virtualmachine import Power
from berth.plan.snaps import Snap
from berth.plan.world import REVERT, Agent, Machine, Pod, World

LONGEST: Final = 320
"""Characters of a request: a Snapshot's name and a time."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why what was asked for cannot be done, and what to do next."""

    reason: str
    message: str


def request(machine: Machine) -> str:
    """What the annotation asks for now; empty when nothing."""
    return machine.annotations.get(REVERT, "").strip()[:LONGEST]


def snapshot_name(request: str) -> str:
    return request.partition("@")[0]


def remembered(world: World) -> RevertStatus | None:
    """What the status has to remember: the request that is accepted, or the last one that was carried out."""
    stored = _stored(world.machine)
    asked = request(world.machine)
    if stored is not None and stored.request == asked:
        return _done(stored) if not stored.done and _has_run(world, stored) else stored
    last = stored if stored is not None and stored.done else None
    if not asked or world.machine.deleted is not None or trouble(world) is not None:
        return last
    snap = _find(world, asked)
    if snap is None or snap.spec is None or snap.status is None:
        return last
    memory = snap.spec.memory
    hardware = snap.status.hardware if memory else ""
    found = RevertStatus(request=asked, snapshot=snap.uid, name=snap.name, memory=memory)
    return found.model_copy(update={"machine": snap.status.machine, "hardware": hardware})


def _stored(machine: Machine) -> RevertStatus | None:
    return machine.status.revert if machine.status is not None else None


def _find(world: World, asked: str) -> Snap | None:
    return next((snap for snap in world.snapshots if snap.name == snapshot_name(asked)), None)


def _has_run(world: World, stored: RevertStatus) -> bool:
    """By the word of the node, which has it from the volume."""
    berth, report = world.berth, world.report
    made_for = order(berth) if berth is not None else None
    if made_for is None or report is None or made_for.request != stored.request:
        return False
    return report.reverted == stored.request


def _done(stored: RevertStatus) -> RevertStatus:
    return stored.model_copy(update={"done": True, "machine": "", "hardware": ""})


def trouble(world: World) -> Trouble | None:
    """Why what is asked for now cannot be done; None when it can, was accepted already, or nothing is asked for."""
    asked, stored = request(world.machine), _stored(world.machine)
    if not asked or (stored is not None and stored.request == asked):
        return None
    name, snap = snapshot_name(asked), _find(world, asked)
    if snap is None:
        text = f"There is no Snapshot {name[:253]} of this machine in its namespace. Next: `kubectl get vmsnap`."
        return Trouble("SnapshotMissing", text)
    if snap.deleted or snap.status is None or not snap.ready:
        text = f"Snapshot {name} is {snap.phase.value}, and only one that is Ready can be gone back to."
        return Trouble("SnapshotNotReady", f"{text} Next: wait for it, or choose another.")
    if snap.status.machine_uid != world.machine.uid:
        text = f"Snapshot {name} was taken of another machine, which had this name."
        return Trouble("SnapshotForeign", f"{text} Next: choose another.")
    return None


def pending(machine: Machine) -> RevertStatus | None:
    """What was accepted, is written down, and is not carried out yet."""
    stored = _stored(machine)
    return stored if stored is not None and not stored.done and stored.request == request(machine) else None


def wanted(machine: Machine, pod: Pod | None) -> RevertStatus | None:
    """What this berth was not made for, and another is to be."""
    waits = pending(machine)
    made_for = order(pod) if pod is not None else None
    carried = made_for is not None and waits is not None and made_for.request == waits.request
    return waits if pod is not None and not carried else None


def annotation(machine: Machine) -> dict[str, str]:
    """For the berth that is made for it."""
    waits = pending(machine)
    if waits is None:
        return {}
    found = RevertOrder(request=waits.request, snapshot=waits.snapshot, name=waits.name, memory=waits.memory)
    return {REVERT: found.model_dump_json()}


def order(pod: Pod) -> RevertOrder | None:
    """What this berth was made for; None also when somebody spoiled the annotation: then it is made anew."""
    try:
        return RevertOrder.model_validate_json(pod.revert) if pod.revert else None
    except ValidationError:
        return None


def too_old(agent: Agent | None) -> str:
    """Why this agent knows no snapshots; empty when it does, or nobody knows. It would boot what is to be reverted."""
    if agent is None or not agent.lacks("snapshots"):
        return ""
    return f"The agent of node {agent.node} cannot take snapshots nor go back to them. Next: upgrade the agents."


def waits_for(world: World, revert: RevertStatus) -> str:
    """What is to be done, or what is on the way."""
    goes_on = f"It goes on from Snapshot {revert.name}"
    what = goes_on if revert.memory else f"It boots from the disks of Snapshot {revert.name}"
    if world.wanted in (Power.OFF, Power.SUSPENDED):
        return f"{what} when it is started. Next: set spec.power to On."
    return f"{what}: it is started anew for that."
