"""A machine's Snapshots, as its reconcile sees them: which one its node is told to take, and what each says of itself.

Called by cluster.py (the Order) and controller/snapshots.py (the words). One of a machine at a time; a move goes before
it, and it begins anew after that. What has been said last, Ready or Failed, stays said. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from berth.api.kept import SnapshotOrder, SnapshotReport, SnapshotState
from berth.api.order import GuestState, Order
from berth.api.snapshot import SnapshotPhase
from berth.api.virtualmachine import Phase, Power
from berth.plan import revert_request, suspendable
from berth.plan.snaps import UNDERWAY, Snap
from berth.plan.world import World, frozen_spec

MIGRATING: Final = "Migrating"
_P: Final = SnapshotPhase
_ALIVE: Final = frozenset({GuestState.RUNNING, GuestState.PAUSED})
_AT_REST: Final = frozenset({Phase.STOPPED, Phase.SUSPENDED, Phase.FAILED})
_PHASES: Final = {
    SnapshotState.WAITING: _P.PENDING,
    SnapshotState.SAVING: _P.SAVING,
    SnapshotState.COPYING: _P.COPYING,
    SnapshotState.READY: _P.READY,
    SnapshotState.FAILED: _P.FAILED,
}


@dataclass(frozen=True, slots=True)
class Word:
    """What a Snapshot says of itself. ``said`` is the node's report, if it is about this one."""

    phase: SnapshotPhase
    reason: str
    message: str = ""
    said: SnapshotReport | None = None


def word(world: World, snap: Snap) -> Word:
    if snap.deleted:
        return Word(_P.DELETING, "Deleting", _stays(world) if snap.held else "")
    if snap.finished and snap.status is not None:
        return Word(snap.phase, snap.status.reason, snap.status.message)
    said = _said(world, snap)
    if said is not None and said.state is SnapshotState.READY:
        return Word(_P.READY, "Ready", "", said)
    if said is not None and said.state is SnapshotState.FAILED:
        return Word(_P.FAILED, said.reason, said.message, said)
    held_up = why_not(world, snap)
    if held_up is not None:
        return held_up
    if said is None:
        return Word(_P.PENDING, "Ordered", "Its node is being told.")
    return Word(_PHASES[said.state], said.state.value, said.message, said)


def without_machine(snap: Snap) -> Word:
    """There is no machine of that name."""
    if snap.deleted:
        return Word(_P.DELETING, "Deleting")
    if snap.finished and snap.status is not None:
        return Word(snap.phase, snap.status.reason, snap.status.message)
    text = f"There is no VirtualMachine {snap.machine!r} in namespace {snap.namespace}. Next: make another Snapshot."
    return Word(_P.FAILED, "MachineMissing", text)


def ordered(world: World, order: Order) -> Order:
    """The Order with what is to be taken, and what is to be removed."""
    if order.state is None:
        return order
    chosen = next((snap for snap in world.snapshots if snap.held and _is_due(world, snap)), None)
    take = None
    if chosen is not None and chosen.spec is not None:
        take = SnapshotOrder(uid=chosen.uid, name=chosen.name, memory=chosen.spec.memory)
    forget = tuple(sorted(snap.uid for snap in world.snapshots if snap.deleted and snap.held))
    return order.model_copy(update={"state": order.state.model_copy(update={"snapshot": take, "forget": forget})})


def _is_due(world: World, snap: Snap) -> bool:
    if snap.deleted or snap.finished or why_not(world, snap) is not None:
        return False
    said = _said(world, snap)
    return said is None or said.state not in (SnapshotState.READY, SnapshotState.FAILED)


def holds(world: World, snap: Snap) -> bool:
    """Whether it is to be kept, from now on, until its files are gone: it is about to be taken."""
    return not snap.held and _is_due(world, snap)


def releases(world: World, snap: Snap) -> bool:
    """Whether a deleted one may go: its files are positively not in the volume, or no volume can be looked into."""
    if not snap.deleted or not snap.held:
        return False
    report, berth = world.report, world.berth
    if report is not None and snap.uid in report.forgotten:
        return True
    frozen = frozen_spec(berth) if berth is not None else None
    return frozen is not None and frozen.saved_state is None


def _stays(world: World) -> str:
    if world.berth is None or world.berth.terminal:
        text = "Its files go when the machine runs next, for its volume is not mounted now."
        return f"{text} Next: start the machine, or delete it too."
    return "Its files are being removed."


def _said(world: World, snap: Snap) -> SnapshotReport | None:
    report = world.report
    said = report.snapshot if report is not None else None
    return said if said is not None and said.uid == snap.uid else None


def why_not(world: World, snap: Snap) -> Word | None:
    """Why it is not taken now: refused for good, or held up; None when it is its turn."""
    for look in (_wrong, _interrupted, _not_running, _not_able, _held_up):
        found = look(world, snap)
        if found is not None:
            return found
    return None


def _failed(reason: str, message: str) -> Word:
    return Word(_P.FAILED, reason, message)


def _pending(reason: str, message: str) -> Word:
    return Word(_P.PENDING, reason, message)


def _wrong(world: World, snap: Snap) -> Word | None:
    if snap.spec is None:
        return _failed("InvalidSpec", f"{snap.problem}. Next: make another Snapshot.")
    if world.machine.deleted is not None:
        return _failed("MachineDeleted", "The machine is being deleted.")
    if snap.deadline is not None and world.now >= snap.deadline:
        why = f" ({snap.status.message})" if snap.status is not None and snap.status.message else ""
        text = f"It was not taken within spec.deadline, {snap.spec.deadline}{why}"
        return _failed("DeadlineExceeded", f"{text}. Next: make another Snapshot.")
    return None


def _interrupted(world: World, snap: Snap) -> Word | None:
    """What was begun of one start holds no moment of another."""
    berth = world.berth
    over = berth is None or berth.terminal or berth.epoch != snap.epoch
    if snap.epoch and over:
        text = "The machine ended, or was started anew, while it was taken. Next: make another Snapshot."
        return _failed("Interrupted", text)
    return None


def _not_running(world: World, snap: Snap) -> Word | None:
    berth, status = world.berth, world.machine.status
    if berth is not None and not berth.terminal:
        return None
    rests = world.wanted in (Power.OFF, Power.SUSPENDED) or (status is not None and status.phase in _AT_REST)
    if rests:
        text = "The machine does not run, and a Snapshot is taken of one that does. Next: start it, then make another."
        return _failed("NotRunning", text)
    return _pending("NotRunning", "The machine is about to be started.")


def _not_able(world: World, snap: Snap) -> Word | None:
    """By what the guest was started from."""
    frozen = frozen_spec(world.berth) if world.berth is not None else None
    if frozen is None or snap.spec is None:
        return None
    if frozen.saved_state is None:
        given = world.machine.spec is not None and world.machine.spec.saved_state is not None
        next_ = "restart it, for a volume is mounted at its start" if given else "give spec.savedState, and restart it"
        return _failed("NoSavedState", f"The machine has no volume for it. Next: {next_}; then make another Snapshot.")
    unfit = suspendable.of_nics(frozen) if snap.spec.memory else None
    if unfit is not None:
        return _failed(unfit.reason, f"{unfit.message} Or take its disks alone: memory: false.")
    return None


def _held_up(world: World, snap: Snap) -> Word | None:
    for held in _HINDRANCES:
        found = next(held(world, snap), None)
        if found is not None:
            return found
    return None


def _moves(world: World, snap: Snap) -> Iterator[Word]:
    if world.move is not None or world.incoming is not None:
        yield _pending(MIGRATING, "The machine is being moved to another node: it is taken afterwards.")


def _ends(world: World, snap: Snap) -> Iterator[Word]:
    berth = world.berth
    if revert_request.wanted(world.machine, berth) is not None:
        yield _pending("Reverting", "The machine is about to go back to another Snapshot.")
    elif world.wanted in (Power.OFF, Power.SUSPENDED) or (berth is not None and berth.deleted is not None):
        yield _pending("Ending", "The machine is about to stop.")


def _unheard(world: World, snap: Snap) -> Iterator[Word]:
    agent, berth = world.agent, world.berth
    if berth is not None and berth.node is not None and (agent is None or not agent.connected):
        text = f"The agent of node {berth.node} does not answer. Next: see the machine's condition AgentConnected."
        yield Word(snap.phase if snap.phase in UNDERWAY else _P.PENDING, "AgentDown", text)
    old = revert_request.too_old(agent)
    if old:
        yield _pending("AgentTooOld", old)


def _starts(world: World, snap: Snap) -> Iterator[Word]:
    if world.report is None or world.report.state not in _ALIVE:
        yield _pending("Starting", "The machine's guest does not run yet.")


def _waits_for_turn(world: World, snap: Snap) -> Iterator[Word]:
    others = [each for each in world.snapshots if not each.finished and not each.deleted and each.order < snap.order]
    before = next((each for each in others if each.spec is not None), None)
    if before is not None:
        yield _pending("WaitsForTurn", f"Snapshot {before.name} comes first.")


_HINDRANCES: Final[tuple[Callable[[World, Snap], Iterator[Word]], ...]] = (
    _moves,
    _ends,
    _unheard,
    _starts,
    _waits_for_turn,
)
