"""What an agent gathered of a machine that is suspended or restored → steps. No clock, no I/O.

Called by machine.py. The state of start N is complete when its manifest is in the volume. Until then the
guest may run on, and after that it never may: not before the manifest is gone again. A local mark, made before the
first byte is written, tells every later agent that there is something to look for.

    mark   manifest of this start   the guest
    no     no                       runs
    yes    no                       runs, or stands still while it is saved; runs on once the mark is gone
    yes    yes                      is ended; or, no longer to be suspended, runs on once manifest and mark are gone

A state is used when the guest is about to run from it, and that is written beside it first: it is never used twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from berth.api.kept import StateOrder
from berth.api.order import Order
from berth.domain.observed import DomainState, Guest, KeptStates
from berth.plan import gathered, reverting, steps
from berth.plan.fate import SAVED
from berth.plan.gathered import Gathered, Saving
from berth.plan.reverting import RESTORE_AGAIN
from berth.plan.steps import Awaited, Step

LOOK_AGAIN: Final = 5.0
_STANDING: Final = (DomainState.RUNNING, DomainState.PAUSED)


def wanted(g: Gathered, order: Order) -> bool:
    return order.state is not None and order.state.save and not g.shutdown_asked


def complete(g: Gathered, epoch: int) -> bool:
    """Whether the state of this start is in the volume, whole."""
    return g.kept is not None and epoch in g.kept.complete


def steps_for(g: Gathered, guest: Guest) -> tuple[Step, ...]:
    """For a guest that is saved, or was about to be; none when it is to be treated as any other."""
    order = gathered.wanted(g, guest)
    if guest.state not in _STANDING:
        return ()
    if _half_restored(g, guest) and not g.shutdown_asked:
        return (_reads(),)
    if g.saving is Saving.BUSY:
        text = "its memory and devices are written to its volume"
        wait = steps.WaitFor(Awaited.SAVE, LOOK_AGAIN, text)
        return (wait,) if wanted(g, order) else (steps.AbortSave("it is to run on"), wait)
    if g.save_begun:
        return _begun(g, guest, order)
    if not wanted(g, order) or g.saving is Saving.FAILED:
        return ()
    return (steps.BeginSave(order, "power is Suspended"),)


def _half_restored(g: Gathered, guest: Guest) -> bool:
    """Whether libvirt still reads its memory; an agent before this one may have begun that."""
    reads = g.saving in (Saving.RESTORING, Saving.REVERTING)
    return _restored(guest) and (reads or guest.detail == "starting up")


def _restored(guest: Guest) -> bool:
    """Whether its domain may have been made of a memory that was kept."""
    state = guest.order.state
    return (state is not None and state.restore is not None) or reverting.brings_memory(guest)


def stands(g: Gathered, guest: Guest) -> bool:
    """Whether it is whole and was just never let run: what libvirt says of it sounds like a migration."""
    return guest.detail == "migration" and _restored(guest) and g.handover is None


def _reads() -> steps.WaitFor:
    return steps.WaitFor(Awaited.STATE, LOOK_AGAIN, "its memory and devices are read from its volume")


def _begun(g: Gathered, guest: Guest, order: Order) -> tuple[Step, ...]:
    """Nobody saves it now, and somebody had begun to."""
    if g.kept is None:
        text = "whether its state is complete is not known: its volume cannot be read. Next: mend the volume"
        return (steps.WaitFor(Awaited.STATE, LOOK_AGAIN, text),)
    if not complete(g, guest.order.epoch):
        return (steps.ScrapState(order, "it was not saved to the end"),)
    if wanted(g, order) or g.shutdown_asked or gathered.accepted(g) is None:  # whoever began it had been asked to
        return (steps.Destroy("Saved", SAVED),)
    return (steps.ScrapState(order, "it is to run on, and not from this state"),)


def before_start(g: Gathered, order: Order, state: StateOrder) -> tuple[Step, ...] | None:
    """What comes in place of a start, or before it; None when there is nothing of that kind."""
    kept = g.kept
    if g.saving is Saving.RESTORING:
        return (_reads(),) if not state.save else (steps.AbortSave("it is to stay suspended"), _reads())
    if kept is None:
        text = f"the volume for its state cannot be read: {g.kept_error or 'not looked at yet'}. Next: mend the volume"
        return (steps.CannotRun("StateUnreadable", text),)
    if state.save:
        note = SAVED if order.epoch in kept.complete else "there was nothing to save: the guest does not run"
        return (steps.ExitBerth(order.berth.pod_uid, 0, note, note),) if not g.exit_told else ()
    if state.restore is not None and _missing(kept, state, state.restore):
        text = f"the state of start {state.restore}, which is to be restored, is not in its volume. Next: see whether"
        text += " spec.savedState is the volume that it was saved to; power Off gives the state up"
        return (steps.CannotRun("StateMissing", text),)
    if state.restore in kept.complete and g.restore_failure is not None:
        again = steps.WaitFor(Awaited.STATE, RESTORE_AGAIN, "its state is restored again in a while")
        return (steps.CannotRun(*g.restore_failure), again)
    return None


def _missing(kept: KeptStates, state: StateOrder, epoch: int) -> bool:
    return state.sure and epoch not in kept.complete and epoch not in kept.used


def restores(g: Gathered, order: Order) -> int | None:
    """The start whose state this one begins with."""
    epoch = order.state.restore if order.state is not None else None
    if reverting.pending(g, order) is not None:
        return None
    return epoch if epoch is not None and complete(g, epoch) else None


def restore(order: Order, epoch: int) -> Iterator[Step]:
    """In place of CreatePaused and all that comes after it."""
    yield steps.BeginRestore(order, epoch, f"its memory and devices are those of start {epoch}")
    yield _reads()


def forget(g: Gathered, order: Order) -> Iterator[Step]:
    """Before a start that boots."""
    if g.kept is not None and g.kept.complete:
        yield steps.ScrapState(order, "it boots anew: what was saved before must never meet the disks again")


def unknown(g: Gathered, guest: Guest, order: Order) -> Iterator[Step]:
    """A wait, while what is to be used cannot be marked so: the domain made of it must not run before."""
    told = [state for state in (guest.order.state, order.state) if state is not None]
    if g.kept is None and any(state.restore is not None or state.revert is not None for state in told):
        text = f"the volume with its state cannot be read: {g.kept_error or 'not looked at yet'}"
        yield steps.WaitFor(Awaited.STATE, LOOK_AGAIN, text)


def use(g: Gathered, order: Order) -> Iterator[Step]:
    """Just before it runs."""
    epoch = restores(g, order)
    if epoch is not None:
        yield steps.UseState(order, epoch, "it is never restored a second time")


def after(g: Gathered, order: Order) -> Iterator[Step]:
    """Just after."""
    if restores(g, order) is not None:
        yield steps.ScrapState(order, "its state was used")
