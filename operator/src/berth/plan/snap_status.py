"""A Snapshot's status, computed once and last: how it was, a Word and its machine's world in; status out. Pure.

Called by controller/snapshots.py; it decides nothing.
"""

from __future__ import annotations

from typing import Final

from berth.api.kept import SnapshotReport
from berth.api.quantity import from_bytes
from berth.api.snapshot import SnapshotDiskStatus, SnapshotPhase, SnapshotStatus
from berth.api.virtualmachine import Condition, ConditionStatus
from berth.plan import history, taking
from berth.plan.snaps import FINISHED, UNDERWAY, Snap
from berth.plan.taking import Word
from berth.plan.world import Object, World

MESSAGE_CHARS: Final = 4096
MIB: Final = 1024 * 1024
PROGRESS: Final = frozenset({"percent"})
"""What changes all the time while disks are copied."""


def status(snap: Snap, word: Word, world: World | None, now_text: str) -> SnapshotStatus:
    """``world`` is None for a machine that is not there."""
    old = snap.status or SnapshotStatus()
    new = old.model_copy(
        update={
            "phase": word.phase,
            "reason": word.reason,
            "message": word.message[:MESSAGE_CHARS],
            "observed_generation": snap.generation,
            "ended_at": old.ended_at or (now_text if word.phase in FINISHED else None),
            "conditions": [_ready(snap, old, word, now_text)],
            "epoch": _epoch(old, word, world),
        }
    )
    if word.said is None:
        return new
    new = new.model_copy(update={"percent": word.said.percent} | _content(word.said))
    return new.model_copy(update=_ran_with(world)) if word.phase is SnapshotPhase.READY and world is not None else new


def _epoch(old: SnapshotStatus, word: Word, world: World | None) -> int:
    """What is begun belongs to a start; what begins anew after a move, to none."""
    begun = word.phase in UNDERWAY or word.phase is SnapshotPhase.READY
    if begun and world is not None and world.berth is not None:
        return old.epoch or world.berth.epoch
    return 0 if word.reason == taking.MIGRATING else old.epoch


def _content(said: SnapshotReport) -> Object:
    stored = said.memory_bytes + sum(disk.stored_bytes for disk in said.disks)
    disks = [
        SnapshotDiskStatus(name=disk.name, size=from_bytes(disk.size_bytes), stored=_about(disk.stored_bytes))
        for disk in said.disks
    ]
    return {
        "disks": disks,
        "size": _about(stored) if stored else "",
        "memory_size": _about(said.memory_bytes) if said.memory_bytes else "",
        "consistency": said.consistency,
        "pause_ms": said.pause_ms,
        "taken_at": said.taken_at,
    }


def _about(count: int) -> str:
    return f"{-(-count // MIB)}Mi"


def _ran_with(world: World) -> Object:
    """What its memory fits, for the start that restores it."""
    berth = world.berth
    if berth is None:
        return {"machine_uid": world.machine.uid}
    return {
        "machine_uid": world.machine.uid,
        "machine": berth.machine,
        "hardware": history.ran_with(world, berth),
    }


def _ready(snap: Snap, old: SnapshotStatus, word: Word, now: str) -> Condition:
    done = word.phase is SnapshotPhase.READY
    state = ConditionStatus.TRUE if done else ConditionStatus.FALSE
    before = next((c for c in old.conditions if c.type == "Ready"), None)
    since = before.last_transition_time if before is not None and before.status is state else now
    return Condition(
        type="Ready",
        status=state,
        reason=word.reason or "Unknown",
        message=word.message[:MESSAGE_CHARS],
        observed_generation=snap.generation,
        last_transition_time=since,
    )


def as_json(value: SnapshotStatus) -> Object:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


def only_progress(patch: Object) -> bool:
    """Whether nothing but numbers has changed: that can wait a moment."""
    return bool(patch) and set(patch) <= PROGRESS
