"""What an agent gathered of a machine that is to begin with a snapshot → steps. No clock, no I/O.

Called by machine.py. Two marks in the volume tell how far a revert is: ``reverting`` is made before the first byte of a
disk is written, ``reverted`` just before the guest runs; each names the request.

    the order      reverting   reverted   the start
    request R      no          not R      verifies the snapshot, then marks, puts the disks back, restores the memory
    request R      any         not R      the same again, from its beginning
    request R      no          R          boots, or is restored from a saved state: R is over
    none           yes         any        is refused: the disks are neither those of before nor the snapshot's
    none           no          any        as if there were no snapshots

A domain that has not run, while ``reverting`` is there, was made of exactly that revert.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from berth.api.kept import RevertOrder, StateOrder
from berth.api.order import Order
from berth.domain.observed import Guest
from berth.plan import gathered, steps
from berth.plan.gathered import Gathered, Saving
from berth.plan.steps import Awaited, Step

LOOK_AGAIN: Final = 5.0
RESTORE_AGAIN: Final = 30.0
"""A revert, or a restore, that failed is tried again so late: only a changed volume or node can help."""


def pending(g: Gathered, order: Order) -> RevertOrder | None:
    """What this start is to begin with, and no guest has run from yet."""
    revert = order.state.revert if order.state is not None else None
    if revert is None or g.kept is None or g.kept.reverted == revert.request:
        return None
    return revert


def brings_memory(guest: Guest) -> bool:
    """Whether its domain may have been made of a snapshot's memory."""
    state = guest.order.state
    return state is not None and state.revert is not None and state.revert.memory


def before_start(g: Gathered, order: Order, state: StateOrder) -> tuple[Step, ...] | None:
    """What comes in place of a start; None when there is nothing of that kind."""
    revert = pending(g, order)
    if g.saving is Saving.REVERTING:
        return (_wait(g),) if revert is not None and not state.save else (_abort("it is not to be reverted"), _wait(g))
    if state.save or g.kept is None:
        return None
    if revert is None:
        return _unfinished(g.kept.reverting) if g.kept.reverting is not None else None
    if g.saving is Saving.RESTORING:
        return (_abort("it is to be reverted to a snapshot instead"), _wait(g))
    if revert.snapshot not in g.kept.snapshots:
        text = f"snapshot {revert.name}, which it is to be reverted to, is not in its volume, or not whole. Next: see"
        text += " whether spec.savedState is the volume that it was taken to; revert to another snapshot"
        return (steps.CannotRun("SnapshotMissing", text),)
    if g.restore_failure is not None:
        again = steps.WaitFor(Awaited.STATE, RESTORE_AGAIN, "it is reverted again in a while")
        return (steps.CannotRun(*g.restore_failure), again)
    return None


def _abort(reason: str) -> Step:
    return steps.AbortSave(reason)


def _wait(g: Gathered) -> steps.WaitFor:
    far = f": {g.put_back} %" if g.put_back is not None else ""
    return steps.WaitFor(Awaited.STATE, LOOK_AGAIN, f"a snapshot is verified, and its disks are put back{far}")


def _unfinished(half: RevertOrder) -> tuple[Step, ...]:
    text = f"its disks were half written back from snapshot {half.name}, and are neither those of before nor the"
    text += " snapshot's. Next: revert to it again, or to another snapshot"
    return (steps.CannotRun("RevertUnfinished", text),)


def revert(g: Gathered, order: Order) -> Iterator[Step]:
    """In place of CreatePaused and all that comes after it, or before it; nothing when the disks are put back."""
    wanted = pending(g, order)
    if wanted is not None and g.saving is not Saving.REVERTED:
        yield steps.BeginRevert(order, f"it is to begin with snapshot {wanted.name}")
        yield _wait(g)


def stale(g: Gathered, guest: Guest) -> str:
    """Why a domain that has not run is not the one that is wanted."""
    wanted = pending(g, gathered.wanted(g, guest))
    half = g.kept.reverting if g.kept is not None else None
    if wanted is None or (half is not None and half.request == wanted.request):
        return ""
    return f"it is to begin with snapshot {wanted.name}, and was made without"


def use(g: Gathered, order: Order) -> Iterator[Step]:
    """Just before it runs."""
    if g.kept is not None and g.kept.reverting is not None:
        yield steps.UseRevert(order, g.kept.reverting, "it is never reverted twice for the same request")


def done(g: Gathered, order: Order) -> str:
    """The ordered request, once it is carried out."""
    wanted = order.state.revert if order.state is not None else None
    known = {kept.reverted for kept in (g.kept, g.snapshots) if kept is not None}
    return wanted.request if wanted is not None and wanted.request in known else ""
