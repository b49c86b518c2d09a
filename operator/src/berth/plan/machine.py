"""One machine on one node: what was gathered → the steps to take. Called by the agent's reconcile; no clock, no I/O.

Level-based: it never asks which event came, so it may be called at any moment and after any crash.

    life      what is there                                      steps
    ABSENT    no domain, and none ever ran for this start        prepare, create paused, attach, mark, resume
    LOADED    a domain that never ran                            attach, mark, resume
    RUNNING   its CPUs run                                       serve, change its NICs; suspend or press the button
    PAUSED    it ran, and its CPUs are stopped                   serve, change its NICs; resume when asked
    ENDING    libvirt is taking it down                          wait; destroy what is left of a crashed one
    ENDED     no domain, and the start record says there was     end the berth; when that is gone, clean up

"Not observed" is never "gone": a guest is destroyed only when its berth's pod is in ``lost``, or has another network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, assert_never

from berth.api.kept import StateOrder
from berth.api.order import Order, OrderPower
from berth.domain import host, redaction
from berth.domain.observed import DomainState, Guest, StartRecord
from berth.plan import gathered, moving, plug, reverting, saving, snapshots, steps
from berth.plan.gathered import FATE_PATIENCE, Gathered, Saving
from berth.plan.handover import Take
from berth.plan.steps import Awaited, Plan, Step

BUTTON_INTERVAL: Final = 10.0
"""Seconds between two presses of the power button: a guest that is still booting does not hear the first."""
SECOND_PRESS: Final = 3.0
"""Seconds until the second: firmware and boot loader, which hear nothing, are mostly over by then."""
RESUME_INTERVAL: Final = 10.0
"""Seconds between two attempts to go on after a disk was full."""
LOOK_AGAIN: Final = 5.0
"""Seconds after which a wait looks again, should its bell never ring."""
_BUSY: Final = frozenset({"migration", "save", "dump", "snapshot", "post-copy", "starting up"})
"""libvirt's reasons of a pause that it ends itself."""
_VOID: Final = "the order's berth is gone from this node: the order is void"


def plan(g: Gathered) -> Plan:
    """The steps to take now. The same order over a world that has carried it out gives none."""
    return Plan(tuple(_steps(g)))


def _steps(g: Gathered) -> Iterator[Step]:
    if g.order is not None and (refused := gathered.refusal(g.order, g.guest, g.record)):
        yield refused
    pod = gathered.pod(g)
    if pod is not None and pod in g.present and not g.linked and not g.exit_told:
        yield steps.LinkBerth(pod, "the berth passes on that its pod is to end")
    if not g.hypervisor:
        yield steps.WaitFor(Awaited.HYPERVISOR, LOOK_AGAIN, "libvirt does not answer on this node")
    elif g.guest is not None:
        yield from _with_guest(g, g.guest)
    elif g.record is not None:
        yield from _ended(g, g.record)
    else:
        yield from _absent(g)


def _with_guest(g: Gathered, guest: Guest) -> Iterator[Step]:
    pod = guest.order.berth.pod_uid
    if pod in g.lost:
        yield steps.Destroy("BerthGone", f"its berth (pod {pod}) is gone from this node")
        return
    if g.network_lost and pod in g.present:
        yield steps.Destroy("NetworkLost", f"the network of its berth (pod {pod}) was made anew without it")
        return
    if moving.is_copy(g, guest):
        yield from moving.copy(g, guest)
        return
    if held := snapshots.holds(g, guest):
        yield from held
        return
    if leaving := moving.source(g):
        yield from leaving
        return
    if held := saving.steps_for(g, guest):
        yield from held
        return
    yield from snapshots.beside(g, guest)
    match guest.state:
        case DomainState.RUNNING:
            yield from _running(g, guest)
        case DomainState.PAUSED:
            yield from _paused(g, guest) if gathered.marked(g, guest) else _loaded(g, guest)
        case DomainState.SHUTTING_DOWN:
            yield steps.WaitFor(Awaited.GUEST, LOOK_AGAIN, "the guest is down, QEMU is about to end")
        case DomainState.CRASHED | DomainState.SHUTOFF:
            yield steps.Destroy("Crashed", f"libvirt calls it {guest.state.value}: nothing of it runs any more")
        case _ as never:
            assert_never(never)
    yield from _newer(g, guest)


def _absent(g: Gathered) -> Iterator[Step]:
    """No domain, and none ever ran here for a start that is not cleaned up."""
    order = g.order
    if order is None or order.berth.pod_uid in g.lost:
        if g.folder:
            yield steps.CleanUp("nothing runs, and nothing is ordered that could" if order is None else _VOID)
    elif order.berth.pod_uid not in g.present:
        text = f"the berth process of pod {order.berth.pod_name} is not on this node yet"
        yield steps.WaitFor(Awaited.BERTH, LOOK_AGAIN, text)
    elif g.shutdown_asked:
        if g.saving in (Saving.RESTORING, Saving.REVERTING):
            yield steps.AbortSave("its pod is to end")
        yield from _end_berth(g, order.berth.pod_uid, 0, "stopped before it was started")
    elif host.choose_accelerator(order.emulation, kvm_usable=g.kvm_usable) is None:
        text = f"the order demands KVM, which is not usable on this node: {g.kvm_reason or 'not probed yet'}"
        yield steps.CannotRun("KvmNotUsable", text)
    elif order.incoming is not None:
        yield from _await(g, order)
    elif order.state is not None and (instead := _before_start(g, order, order.state)) is not None:
        yield from instead
    else:
        yield from _start(g, order)


def _before_start(g: Gathered, order: Order, state: StateOrder) -> tuple[Step, ...] | None:
    instead = reverting.before_start(g, order, state)
    if instead is None and (state.save or reverting.pending(g, order) is None):
        return saving.before_start(g, order, state)
    return instead


def _await(g: Gathered, order: Order) -> Iterator[Step]:
    """The guest comes from another node: libvirt makes the domain, asked by the other node's."""
    match moving.target(g, order):
        case Take.PREPARE:
            yield steps.PrepareCgroup(order, f"epoch {order.epoch} is to come to pod {order.berth.pod_name}")
            yield steps.PrepareMedia(order, "QEMU opens its files at fixed paths")
            yield steps.CreateTaps(order, "libvirt opens the taps in the agent's network namespace")
            yield steps.AwaitGuest(order, "all is ready for the guest's memory")
        case Take.LISTEN:
            yield steps.WaitFor(Awaited.MIGRATION, LOOK_AGAIN, "the guest is about to come from another node")
        case _:
            yield steps.WaitFor(Awaited.MIGRATION, LOOK_AGAIN, "the guest stayed at the other node")


def _start(g: Gathered, order: Order) -> Iterator[Step]:
    yield steps.PrepareCgroup(order, f"epoch {order.epoch} is to run in pod {order.berth.pod_name}")
    yield steps.PrepareMedia(order, "QEMU opens its files at fixed paths")
    yield steps.CreateTaps(order, "libvirt opens the taps in the agent's network namespace")
    if reverts := tuple(reverting.revert(g, order)):
        yield from reverts
        return
    saved = saving.restores(g, order)
    if saved is not None:
        yield from saving.restore(order, saved)
        return
    yield from saving.forget(g, order)
    yield steps.CreatePaused(order, "the guest waits until its network is there")
    yield steps.AttachNetwork(order, "the guest is to find its network when it wakes")
    if order.power is OrderPower.RUNNING:
        yield from _first_run(g, order)


def _first_run(g: Gathered, order: Order) -> Iterator[Step]:
    yield from reverting.use(g, order)
    yield from saving.use(g, order)
    yield steps.MarkStarted(order, "from here on a missing domain means that the guest ended")
    yield steps.Resume("power is Running")
    yield from saving.after(g, order)


def _loaded(g: Gathered, guest: Guest) -> Iterator[Step]:
    """A start that was interrupted, or one that was ordered Paused."""
    order = gathered.wanted(g, guest)
    if g.shutdown_asked:
        yield steps.Destroy("NeverStarted", "its pod is to end, and the guest has not run yet")
        return
    if stale := reverting.stale(g, guest):
        yield steps.Destroy("NeverStarted", stale)
        return
    if order.berth.pod_uid not in g.present:
        yield steps.WaitFor(Awaited.BERTH, LOOK_AGAIN, "its berth is needed for its network")
        return
    wired = plug.carried(guest, order)
    if g.network != wired.machine.nics:
        if _records_first(g, guest, wired):
            yield steps.RecordOrder(redaction.redacted(wired), "an agent that takes over has to know what it serves")
        yield steps.AttachNetwork(wired, "the guest is to find its network when it wakes")
    yield from _change_nics(g, guest, order)
    waits = list(saving.unknown(g, guest, order))
    if order.power is OrderPower.RUNNING and not waits:
        yield from _first_run(g, order)
    yield from (*waits, *plug.waits(g, guest))


def _running(g: Gathered, guest: Guest) -> Iterator[Step]:
    order = gathered.wanted(g, guest)
    if not gathered.marked(g, guest):
        yield steps.MarkStarted(guest.order, "it runs, and its start record is missing")
    yield from _serve(g, guest, order)
    if g.shutdown_asked:
        yield from _button(g, order)
        return
    if g.clock_due:
        yield steps.SetClock("it was restored, and its agent answers")
    if order.power is OrderPower.PAUSED:
        yield steps.Suspend("power is Paused")
    yield from _change_nics(g, guest, order)
    yield from plug.waits(g, guest)


def _paused(g: Gathered, guest: Guest) -> Iterator[Step]:
    order = gathered.wanted(g, guest)
    yield from _serve(g, guest, order)
    if guest.detail in _BUSY and not saving.stands(g, guest):
        yield steps.WaitFor(Awaited.GUEST, LOOK_AGAIN, f"libvirt holds it for a moment: {guest.detail}")
        return
    if g.shutdown_asked:
        if not _overdue(g, order):
            yield steps.Resume("only a guest that runs hears the power button")
        yield from _button(g, order)
        return
    if order.power is OrderPower.RUNNING:
        if guest.detail == "ioerror" and g.resume_age is not None and g.resume_age < RESUME_INTERVAL:
            text = "QEMU stopped it at an input/output error: a disk's storage is full or broken"
            yield steps.WaitFor(Awaited.DISK, RESUME_INTERVAL - g.resume_age, text)
            return
        yield steps.Resume("power is Running")
    yield from _change_nics(g, guest, order)
    yield from plug.waits(g, guest)


def _ended(g: Gathered, record: StartRecord) -> Iterator[Step]:
    """It ran and it is gone: hand its fate to the berth, then leave nothing behind."""
    if record.pod_uid in g.lost:
        yield steps.CleanUp(f"the guest of epoch {record.epoch} and its berth are gone")
    elif leaving := moving.source(g):
        yield from leaving
    elif gathered.moved(g):
        yield from _door(g, record)
    elif g.fate is not None:
        yield from _end_berth(g, record.pod_uid, g.fate.exit_code, g.fate.message or g.fate.reason)
    elif g.ended_age < FATE_PATIENCE:
        text = "libvirt's event tells how the guest ended"
        yield steps.WaitFor(Awaited.FATE, FATE_PATIENCE - g.ended_age, text)
    else:
        yield from _end_berth(g, record.pod_uid, 1, "the guest ended while nobody looked")


def _door(g: Gathered, record: StartRecord) -> Iterator[Step]:
    """It was handed over: the berth leads to where the guest is, until its pod is deleted."""
    order = gathered.accepted(g)
    if g.shutdown_asked:
        yield from _end_berth(g, record.pod_uid, 0, "the guest moved to another node")
        return
    forward = order.forward if order is not None and order.epoch == record.epoch else None
    if order is not None and forward is not None and forward != g.forward and record.pod_uid in g.present:
        yield steps.LeadOn(order, f"the guest is on node {forward.node}")
    if order is not None and order.epoch > record.epoch:
        text = f"epoch {order.epoch} starts when the berth of epoch {record.epoch} is gone"
        yield steps.WaitFor(Awaited.OLD_BERTH, LOOK_AGAIN, text)


def _end_berth(g: Gathered, pod: str, exit_code: int, note: str) -> Iterator[Step]:
    if not g.exit_told and pod in g.present:
        yield steps.ExitBerth(pod, exit_code, note, "the berth ends as its guest did")
    yield steps.WaitFor(Awaited.BERTH_END, LOOK_AGAIN, f"pod {pod} is about to end")


def _overdue(g: Gathered, order: Order) -> bool:
    return g.stop_age is not None and g.stop_age >= order.grace_seconds


def _button(g: Gathered, order: Order) -> Iterator[Step]:
    """Ask the guest to shut down, now and then; cut it off in time for its fate to be told before kubelet acts."""
    if _overdue(g, order):
        yield steps.Destroy("GraceOver", f"the guest did not shut down within its grace of {order.grace_seconds} s")
        return
    age, presses = g.button_age, g.presses
    if age is None or age >= _press_interval(presses):
        yield steps.PressPowerButton("its pod is to end" if age is None else "the guest did not react yet")
        age, presses = 0.0, presses + 1
    text = "the guest is shutting down; it is cut off when the grace period is over"
    left = order.grace_seconds - g.stop_age if g.stop_age is not None else BUTTON_INTERVAL
    yield steps.WaitFor(Awaited.GUEST, min(_press_interval(presses) - age, left), text)


def _press_interval(presses: int) -> float:
    return SECOND_PRESS if presses == 1 else BUTTON_INTERVAL


def _serve(g: Gathered, guest: Guest, order: Order) -> Iterator[Step]:
    order = plug.carried(guest, order)
    if order.berth.pod_uid not in g.present or (g.network == order.machine.nics and g.doors == order.doors):
        return
    if _records_first(g, guest, order):
        yield steps.RecordOrder(redaction.redacted(order), "an agent that takes over has to know what it serves")
    new = "its NICs are ordered otherwise" if g.served else "this agent does not serve the running guest's network yet"
    yield steps.ServeNetwork(order, new)


def _records_first(g: Gathered, guest: Guest, wired: Order) -> bool:
    """Whether a NIC is about to be served that an agent without any order would take for a stranger's, and cut off."""
    recorded = {nic.name for nic in guest.order.machine.nics}
    return g.network != wired.machine.nics and not {nic.name for nic in wired.machine.nics} <= recorded


def _change_nics(g: Gathered, guest: Guest, order: Order) -> Iterator[Step]:
    """What was plugged in is served, and recorded, when it is seen in the live domain."""
    found = list(plug.changes(g, guest))
    yield from found
    if any(isinstance(step, steps.PlugNic) for step in found):
        return
    wired = plug.carried(guest, order)
    order = redaction.redacted(wired)
    if order != guest.order and not _records_first(g, guest, wired):
        yield steps.RecordOrder(order, f"generation {order.generation} is carried out")


def _newer(g: Gathered, guest: Guest) -> Iterator[Step]:
    if g.order is not None and g.order.epoch > guest.order.epoch:
        text = f"epoch {g.order.epoch} starts when the guest of epoch {guest.order.epoch} and its berth are gone"
        yield steps.WaitFor(Awaited.OLD_BERTH, LOOK_AGAIN, text)
