"""A Migration's status, computed once and last: how it was, a Word and the machine's world in; status out. Pure.

Called by controller/migrations.py; it decides nothing.
"""

from __future__ import annotations

from typing import Final

from berth.api.handover import MigrationReport
from berth.api.migration import FINISHED, MigrationEnd, MigrationPhase, MigrationStatus, PhaseTimes
from berth.api.virtualmachine import Condition, ConditionStatus
from berth.plan import berths
from berth.plan.moves import SENDING, Move, condition
from berth.plan.moving_on import Word
from berth.plan.world import Object, Pod, World

MESSAGE_CHARS: Final = 4096
PROGRESS: Final = frozenset(
    {"percent", "progress", "totalBytes", "remainingBytes", "bytesPerSecond", "dirtyBytesPerSecond", "etaSeconds"}
)
"""What changes all the time while memory goes over."""
_TOLD: Final = SENDING | {MigrationPhase.PREPARING}  # what the source foretells while the other node gets ready
MOST_PHASES: Final = 16


def status(move: Move, word: Word, world: World | None, now_text: str) -> MigrationStatus:
    """``world`` is None for a machine that is not there."""
    old = move.status or MigrationStatus()
    message = word.message[:MESSAGE_CHARS]
    new = old.model_copy(
        update={
            "phase": word.phase,
            "ending": word.ending,
            "reason": word.reason,
            "message": message,
            "observed_generation": move.generation,
            "phases": _phases(old, word.phase, now_text),
            "started_at": old.started_at or (now_text if word.phase is not MigrationPhase.PENDING else None),
            "ended_at": now_text if word.phase in FINISHED else None,
            "conditions": _conditions(move, word, now_text),
        }
    )
    if world is None or word.phase is MigrationPhase.PENDING:
        return new
    return _with_ends(new, move, world).model_copy(update=_progress(new, move, world))


def _phases(old: MigrationStatus, phase: MigrationPhase, now: str) -> list[PhaseTimes]:
    past = list(old.phases)
    if past and past[-1].phase is phase:
        return past
    if past:
        past[-1] = past[-1].model_copy(update={"ended_at": now})
    ended = now if phase in FINISHED else None
    return [*past, PhaseTimes(phase=phase, started_at=now, ended_at=ended)][-MOST_PHASES:]


def _with_ends(new: MigrationStatus, move: Move, world: World) -> MigrationStatus:
    """Where from and where to, as long as the pods are there to tell; afterwards as it was told."""
    arrived = world.berth is not None and world.berth.migration == move.uid
    target = world.berth if arrived else world.incoming
    if target is None or target.migration != move.uid:
        return new if new.source or world.berth is None else new.model_copy(update={"source": _end(world.berth)})
    source = new.source or (_end(world.berth) if world.berth is not None and not arrived else None)
    return new.model_copy(update={"source": source, "target": _end(target)})


def _end(pod: Pod) -> MigrationEnd:
    return MigrationEnd(node=pod.node, berth=pod.name, epoch=pod.epoch)


def _progress(new: MigrationStatus, move: Move, world: World) -> Object:
    """The source's word on what is left; once it is over, the target's on the pause."""
    said = _said(world, move)
    if new.phase is MigrationPhase.SUCCEEDED:
        pause = next((each.pause_ms for each in said if each.pause_ms is not None), new.pause_ms)
        return {"percent": 100, "progress": "100%", "remaining_bytes": 0, "eta_seconds": None, "pause_ms": pause}
    sent = next((each for each in said if each.total), None)
    if sent is None or new.phase not in _TOLD:
        return {}
    percent = max(0, min(99, 100 * (sent.total - sent.remaining) // sent.total))
    eta = sent.eta_seconds
    return {
        "percent": percent,
        "progress": f"{percent}%" + (f", {eta} s left" if eta is not None else ""),
        "total_bytes": sent.total,
        "remaining_bytes": sent.remaining,
        "bytes_per_second": sent.bytes_per_second,
        "dirty_bytes_per_second": sent.dirty_bytes_per_second,
        "eta_seconds": eta,
        "method": sent.method or new.method,
    }


def _said(world: World, move: Move) -> list[MigrationReport]:
    """What either side reports of it, whichever pod it is in."""
    pods = (world.berth, world.incoming, *world.former)
    reports = [world.report, *(berths.report_of(world, pod) for pod in pods)]
    told = [report.migration for report in reports if report is not None and report.migration is not None]
    return [said for said in told if said.uid == move.uid]


def _conditions(move: Move, word: Word, now: str) -> list[Condition]:
    ready = word.phase in SENDING or word.phase is MigrationPhase.SUCCEEDED
    over = word.phase in FINISHED
    done = word.phase is MigrationPhase.SUCCEEDED
    succeeded = ConditionStatus.TRUE if done else ConditionStatus.FALSE if over else ConditionStatus.UNKNOWN
    return [
        _stamp(move, "TargetReady", ConditionStatus.TRUE if ready else ConditionStatus.FALSE, word, now),
        _stamp(move, "Succeeded", succeeded, word, now),
    ]


def _stamp(move: Move, kind: str, state: ConditionStatus, word: Word, now: str) -> Condition:
    old = condition(move, kind)
    since = old.last_transition_time if old is not None and old.status is state else now
    return Condition(
        type=kind,
        status=state,
        reason=word.reason,
        message=word.message[:MESSAGE_CHARS],
        observed_generation=move.generation,
        last_transition_time=since,
    )


def as_json(value: MigrationStatus) -> Object:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


def only_progress(patch: Object) -> bool:
    """Whether nothing but numbers has changed: that can wait a moment."""
    return bool(patch) and set(patch) <= PROGRESS
