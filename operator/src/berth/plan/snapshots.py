"""What an agent gathered of a machine that a snapshot is taken of → steps, and what its report says. No clock, no I/O.

Called by machine.py and report.py. A snapshot is there when its manifest is in the volume, and not before. A local
mark, made before anything else, tells every later agent that there may be something to end and to remove.

    mark   this agent's work    the guest
    no     none                 runs
    yes    waits, copies        runs; a move or a save waits for the end of it
    yes    saves                stands still, and nothing else is done to it
    yes    none                 the job is ended, its file systems are thawed, the files go; then it runs on

None of it ever ends a guest: what fails costs the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from berth.api.kept import SnapshotOrder, SnapshotReport, SnapshotState
from berth.api.order import Order, OrderPower
from berth.domain.observed import DomainState, Guest
from berth.plan import gathered, steps
from berth.plan.gathered import Gathered
from berth.plan.steps import Awaited, Step

LOOK_AGAIN: Final = 5.0
_STANDING: Final = (DomainState.RUNNING, DomainState.PAUSED)
_BUSY: Final = (SnapshotState.WAITING, SnapshotState.SAVING, SnapshotState.COPYING)


def busy(g: Gathered) -> bool:
    return g.taking is not None and g.taking.state in _BUSY


def stopped(g: Gathered) -> bool:
    """Whether the guest stands still for it."""
    return g.taking is not None and g.taking.state is SnapshotState.SAVING


def runs_on(g: Gathered) -> bool:
    """Whether it stands still for that alone: it is told as one that runs."""
    return stopped(g) and g.guest is not None and gathered.wanted(g, g.guest).power is OrderPower.RUNNING


def _ordered(g: Gathered, order: Order) -> SnapshotOrder | None:
    """The one that is to be taken now."""
    state = order.state
    if state is None or state.save or g.shutdown_asked or order.outgoing is not None:
        return None
    return state.snapshot


def holds(g: Gathered, guest: Guest) -> tuple[Step, ...]:
    """In place of all else; none when the guest is to be treated as any other."""
    if guest.state not in _STANDING:
        return ()
    order = gathered.wanted(g, guest)
    if g.taking is not None and busy(g):
        wait = steps.WaitFor(Awaited.SNAPSHOT, LOOK_AGAIN, "a snapshot of it is being taken")
        if _goes_on(g, order, g.taking):
            return (wait,) if stopped(g) else ()
        if not stopped(g) and g.shutdown_asked:
            return ()
        return (*_abort(g), wait)
    if g.snapshot_begun:
        return (steps.ScrapSnapshot(order, _runs(g, guest, order), "it was not taken to the end"),)
    return ()


def _goes_on(g: Gathered, order: Order, taking: SnapshotReport) -> bool:
    ordered = _ordered(g, order)
    return ordered is not None and ordered.uid == taking.uid


def _abort(g: Gathered) -> tuple[Step, ...]:
    return () if g.taking_ends else (steps.AbortSnapshot("it is not to be taken, or not now"),)


def _runs(g: Gathered, guest: Guest, order: Order) -> bool:
    """Whether it stands still for nothing else."""
    waits = guest.state is DomainState.PAUSED and guest.detail != "ioerror"
    return waits and order.power is OrderPower.RUNNING and gathered.marked(g, guest)


def beside(g: Gathered, guest: Guest) -> Iterator[Step]:
    """Before what is done to any guest."""
    order = gathered.wanted(g, guest)
    if g.taking is not None and busy(g):
        if not _goes_on(g, order, g.taking):
            yield from _abort(g)
        return
    ordered = _ordered(g, order)
    if ordered is not None and not _blocked(g, guest, order, ordered):
        yield steps.BeginSnapshot(order, f"snapshot {ordered.name} is ordered")
    elif leftover := _to_forget(g, order):
        yield steps.ForgetSnapshots(order, leftover, "they were deleted")


def _blocked(g: Gathered, guest: Guest, order: Order, ordered: SnapshotOrder) -> str:
    """Why it cannot be begun now."""
    if g.taking is not None and g.taking.uid == ordered.uid:
        return g.taking.message or "it has failed"
    if g.snapshots is None:
        return f"its volume cannot be read: {g.snapshots_error or 'not looked at yet'}. Next: mend the volume"
    if g.snapshots.ready is not None:
        return "it is there"
    if not gathered.marked(g, guest) or order.berth.pod_uid not in g.present:
        return "the guest has not run yet"
    stands = guest.state is DomainState.PAUSED and guest.detail == "user" and order.power is OrderPower.PAUSED
    return "" if guest.state is DomainState.RUNNING or stands else "the guest does not run"


def _to_forget(g: Gathered, order: Order) -> tuple[str, ...]:
    if g.snapshots is None or order.state is None or not g.forgets or order.berth.pod_uid not in g.present:
        return ()
    kept = order.state.snapshot.uid if order.state.snapshot is not None else ""
    return tuple(uid for uid in order.state.forget if uid in g.snapshots.there and uid != kept)


def report(g: Gathered) -> SnapshotReport | None:
    """Of the one that is ordered."""
    order = _reported(g)
    ordered = order.state.snapshot if order is not None and order.state is not None else None
    if order is None or ordered is None:
        return None
    if g.snapshots is not None and g.snapshots.ready is not None and g.snapshots.ready.uid == ordered.uid:
        return g.snapshots.ready
    if g.taking is not None and g.taking.uid == ordered.uid:
        return g.taking
    return SnapshotReport(uid=ordered.uid, state=SnapshotState.WAITING, message=_waits_for(g, order, ordered))


def _waits_for(g: Gathered, order: Order, ordered: SnapshotOrder) -> str:
    if g.guest is None:
        return "the guest does not run"
    if _ordered(g, order) is None:
        return "the guest is moved, suspended or shut down first"
    return _blocked(g, g.guest, order, ordered) or "it is about to be taken"


def forgotten(g: Gathered) -> tuple[str, ...]:
    """Those of the ordered ones that nothing is there of."""
    order = _reported(g)
    if g.snapshots is None or order is None or order.state is None:
        return ()
    return tuple(uid for uid in order.state.forget if uid not in g.snapshots.there)


def _reported(g: Gathered) -> Order | None:
    return gathered.wanted(g, g.guest) if g.guest is not None else gathered.accepted(g)
