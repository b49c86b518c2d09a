"""The status of a machine, computed once and last: observed world and history in, status out; and how urgent it is.

Called by the reconcile after the plan was applied. It decides nothing that is done to the cluster.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any, Final

from berth.api.virtualmachine import Condition, ConditionType, GuestInfo, Phase, VirtualMachineStatus
from berth.plan import compatible, conditions, hardware, nics, phases
from berth.plan.conditions import Finding
from berth.plan.history import History, StayOff, Verdict
from berth.plan.pending import pending_changes
from berth.plan.phases import Life, Place
from berth.plan.place import last_node, occupied
from berth.plan.world import Object, World, format_time, frozen_spec

MOST_NODES: Final = 64
MESSAGE_CHARS: Final = 4096
"""Others' words are part of messages: no longer than this, so that no status is ever refused or heavy."""


def status(world: World, history: History, verdict: Verdict) -> VirtualMachineStatus:
    """What the VirtualMachine says of itself from now on."""
    seen = conditions.scene(world, history, verdict)
    phase = phases.phase(world, verdict, history.ending)
    found = conditions.findings(seen)
    berth, living = world.berth, seen.place not in (Place.NONE, Place.OVER)
    return VirtualMachineStatus(
        phase=phase,
        message=conditions.summary(seen, found, phase)[:MESSAGE_CHARS],
        observed_generation=world.machine.generation,
        node=_node(world, living),
        ip=berth.ip if berth is not None and living else None,
        berth=berth.name if berth is not None else None,
        epoch=history.epoch,
        migration=world.move.name if world.move is not None and living else None,
        ending=history.ending if berth is not None else None,
        started_at=_time(history.started_at),
        restarts=history.restarts,
        next_start_at=_time(history.next_start_at),
        last_exit=history.last_exit,
        saved_state=history.saved,
        revert=history.revert,
        pending_changes=_pending(world) if living and not isinstance(verdict, StayOff) else [],
        machine_type=_machine_type(world),
        cpu_model=_cpu_model(world) if living else None,
        incompatible_nodes=sorted(compatible.move_troubles(world))[:MOST_NODES] if living else [],
        guest=_guest(world, seen.life, living),
        nics=nics.statuses(world, living=living),
        conditions=_stamp(world, _all_findings(world, history, found)),
    )


def _all_findings(world: World, history: History, found: list[Finding]) -> list[Finding]:
    """The prerequisites, and what else a machine tells of what can be done with it."""
    more = (*conditions.reverted(world, history), *conditions.suspendable(world), conditions.migratable(world))
    return [*found, *more]


def _time(moment: datetime | None) -> str | None:
    return format_time(moment) if moment else None


def _node(world: World, living: bool) -> str | None:
    """The node of the berth; without one, the node that is not yet known to be rid of the guest."""
    if living:
        return world.berth.node if world.berth else None
    return last_node(world) if occupied(world) else None


def _pending(world: World) -> list[str]:
    frozen = frozen_spec(world.berth) if world.berth else None
    return pending_changes(frozen, world.machine.spec) if frozen and world.machine.spec else []


def _machine_type(world: World) -> str | None:
    """That of the last start: the next one gets the same."""
    found = hardware.from_text(world.berth.hardware) if world.berth is not None else None
    old = world.machine.status.machine_type if world.machine.status is not None else None
    return (found.machine_type if found is not None else "") or old


def _cpu_model(world: World) -> str | None:
    berth = world.berth
    if berth is None or berth.node is None:
        return None
    kind = world.cluster.kind(berth.node)
    cpu = hardware.pick(hardware.from_text(berth.hardware), kind, world.cluster.emulation_of(berth))
    return (cpu.model or cpu.mode.value) if cpu is not None else None


def _guest(world: World, life: Life, living: bool) -> GuestInfo | None:
    if not living:
        return None
    if world.report is not None:
        return world.report.guest
    old = world.machine.status
    keep = old is not None and world.berth is not None and old.epoch == world.berth.epoch
    return old.guest if old is not None and keep and life in (Life.SILENT, Life.UNSEEN) else None


def _stamp(world: World, found: list[Finding]) -> list[Condition]:
    """A condition keeps its time as long as its status stays."""
    old = {c.type: c for c in (world.machine.status.conditions if world.machine.status else ())}
    now = format_time(world.now)
    return [
        Condition(
            type=f.type.value,
            status=f.status,
            reason=f.reason,
            message=f.message[:MESSAGE_CHARS],
            observed_generation=world.machine.generation,
            last_transition_time=_since(old.get(f.type.value), f, now),
        )
        for f in found
    ]


def _since(old: Condition | None, found: Finding, now: str) -> str:
    return old.last_transition_time if old and old.status == found.status and old.last_transition_time else now


class Urgency(enum.Enum):
    """When a changed status has to be written."""

    NONE = "nothing changed"
    HELD = "progress only: it can wait for what comes next"
    NOW = "it tells something"


HOLD_SECONDS: Final = 5.0
FIRST_HOLD_SECONDS: Final = 1.0
"""A new machine shows its phase so soon, if nothing worth telling happened until then."""

_UNDERWAY: Final = frozenset({Phase.PENDING, Phase.STARTING})


def urgency(old: VirtualMachineStatus | None, new: VirtualMachineStatus) -> Urgency:
    """Problems, phases a user waits for and answers to a changed spec are told at once; progress is held back."""
    if old == new:
        return Urgency.NONE
    if any(c.status != "True" and c.reason not in conditions.PROGRESS for c in _prerequisites(new)):
        return Urgency.HELD if old is not None and _same_words(old, new) else Urgency.NOW
    if new.phase in _UNDERWAY and (old is None or old.phase in (*_UNDERWAY, Phase.STOPPED, Phase.FAILED)):
        answered = old is not None and old.observed_generation != new.observed_generation and old.epoch > 0
        return Urgency.NOW if answered and old is not None and old.phase not in _UNDERWAY else Urgency.HELD
    if old is not None and old.phase is new.phase is Phase.STOPPING and old.last_exit == new.last_exit:
        return Urgency.HELD
    if old is not None and _same_words(old, new) and old.observed_generation == new.observed_generation:
        return Urgency.HELD
    return Urgency.NOW


_NO_PREREQUISITE: Final = (ConditionType.REVERTED, ConditionType.SUSPENDABLE, ConditionType.MIGRATABLE)


def _prerequisites(status: VirtualMachineStatus) -> list[Condition]:
    return [c for c in status.conditions if c.type not in _NO_PREREQUISITE]


def _same_words(old: VirtualMachineStatus, new: VirtualMachineStatus) -> bool:
    """Whether only details differ: nothing that a condition, the phase or the history says."""

    def gist(s: VirtualMachineStatus) -> tuple[Any, ...]:
        said = tuple((c.type, c.status, c.reason) for c in s.conditions)
        past = s.restarts, s.last_exit, s.next_start_at, s.saved_state, s.revert
        return s.phase, s.epoch, past, s.pending_changes, said

    return gist(old) == gist(new)


def as_json(value: VirtualMachineStatus) -> Object:
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


def merge_patch(old: Object, new: Object) -> Object:
    """What turns the stored status into the new one: changed fields, and null for those that go."""
    patch: Object = {key: value for key, value in new.items() if old.get(key) != value}
    patch.update({key: None for key in old if key not in new})
    return patch
