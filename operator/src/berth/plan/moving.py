"""What an agent gathered of a machine that moves → the words of handover.py, and its decisions → steps and reports.

Called by machine.py (both sides) and report.py. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from berth.api.handover import MigrationReport, MigrationState, Outgoing
from berth.api.order import Order, OrderPower
from berth.domain import copied
from berth.domain.observed import DomainState, Guest, HandoverRecord, HandoverState, Survey, TransferStats
from berth.plan import gathered, handover, method, steps
from berth.plan.gathered import Gathered
from berth.plan.handover import Answer, Copy, Gate, Qemu, Send, Sent, SourceSeen, Take, Taken, TargetSeen
from berth.plan.method import Method
from berth.plan.steps import Awaited, Step

LOOK_AGAIN: Final = 5.0
ASK_AGAIN: Final = 0.2
_COMING: Final = frozenset({"migration", "starting up"})
_SENT: Final = {
    HandoverState.SENDING: Sent.SENDING,
    HandoverState.LETTING_GO: Sent.LETTING_GO,
    HandoverState.HANDED_OVER: Sent.HANDED_OVER,
    HandoverState.FAILED: Sent.FAILED,
}
_TOLD: Final = {
    HandoverState.SENDING: MigrationState.SENDING,
    HandoverState.LETTING_GO: MigrationState.SENDING,
    HandoverState.HANDED_OVER: MigrationState.HANDED_OVER,
    HandoverState.FAILED: MigrationState.FAILED,
}


def sent(record: HandoverRecord | None) -> Sent:
    """What the source's record says; a target's is none of it."""
    return Sent.NONE if record is None or record.qemu is None else _SENT[record.state]


def source(g: Gathered) -> tuple[Step, ...]:
    """Steps for a guest that is sent away; none when it is to be treated as any other."""
    order = gathered.accepted(g)
    seen = _seen(g, order)
    match handover.source(seen):
        case Send.BEGIN if g.surveying:
            return (steps.WaitFor(Awaited.MIGRATION, LOOK_AGAIN, "how it is sent best is being found out"),)
        case Send.BEGIN if order is not None and order.outgoing is not None:
            how = _chosen(g, order, order.outgoing)
            return (steps.BeginSending(order, how, f"migration {order.outgoing.migration}: {how.words}"),)
        case Send.WAIT if order is not None and order.outgoing is not None and (more := _more(g, order.outgoing)):
            return (steps.AllowPause(more, more.why),)
        case Send.WAIT:
            text = (
                "its memory goes to another node" if seen.gate is Gate.OPEN else "the other node is about to take over"
            )
            return (steps.WaitFor(Awaited.MIGRATION, _patience(g), text),)
        case Send.GIVE_UP:
            return (steps.GiveUp(*_why(g, order)), steps.WaitFor(Awaited.MIGRATION, LOOK_AGAIN, "libvirt ends it"))
        case Send.FAIL:
            return (steps.FailSending("the guest was not handed over"),)
        case Send.RUN_ON if g.guest is not None and gathered.wanted(g, g.guest).power is OrderPower.RUNNING:
            return (steps.RunOn("the migration failed, and nobody else lets it run on"),)
        case Send.FINISH:
            return (steps.LetGo("it was promised to the other node"),)
        case Send.DOOR if g.guest is not None:
            return (steps.WaitFor(Awaited.GUEST, LOOK_AGAIN, "libvirt is about to see that QEMU is gone"),)
        case _:
            return ()


def _chosen(g: Gathered, order: Order, outgoing: Outgoing) -> Method:
    return method.choose(_facts(g, order, outgoing))


def _survey(g: Gathered, migration: str) -> Survey | None:
    """One that was made for another migration says nothing of this one."""
    return g.survey if g.survey is not None and g.survey.migration == migration else None


def _facts(g: Gathered, order: Order, outgoing: Outgoing) -> method.Facts:
    return method.facts(
        _survey(g, outgoing.migration), order.machine.memory_bytes, outgoing.bytes_per_second, outgoing.downtime_ms
    )


def _more(g: Gathered, outgoing: Outgoing) -> Method | None:
    if g.method is None or g.gate is not Gate.OPEN:
        return None
    return method.escalate(g.method, g.transfer.rounds, outgoing.downtime_ms)


def _seen(g: Gathered, order: Order | None) -> SourceSeen:
    outgoing, record = order.outgoing if order is not None else None, g.handover
    other = record is not None and outgoing is not None and record.migration != outgoing.migration
    known = sent(record)
    if other and known is Sent.FAILED:
        known, other = Sent.NONE, False
    wanted = outgoing is not None and not other and not g.overdue and not g.shutdown_asked
    patient = g.held_age is None or g.held_age < handover.HOLD_PATIENCE
    return SourceSeen(known, g.gate, _qemu(g), wanted, patient)


def _qemu(g: Gathered) -> Qemu:
    if g.guest is None:
        return Qemu.GONE
    if g.guest.state is DomainState.PAUSED and g.guest.detail == "migration":
        return Qemu.STOPPED
    if not gathered.marked(g, g.guest) or g.guest.state not in (DomainState.RUNNING, DomainState.PAUSED):
        return Qemu.UNKNOWN
    return Qemu.RUNS


def _patience(g: Gathered) -> float:
    return LOOK_AGAIN if g.held_age is None else max(handover.HOLD_PATIENCE - g.held_age, ASK_AGAIN)


def _why(g: Gathered, order: Order | None) -> tuple[str, str]:
    if g.shutdown_asked:
        return "Stopped", "its pod is to end"
    if g.overdue:
        return "DeadlineExceeded", "it was not done by its deadline"
    if order is None or order.outgoing is None:
        return "Cancelled", "it is not ordered any more"
    if g.held_age is not None:
        return "TargetSilent", "the other node did not ask for the guest, which stood still meanwhile"
    return "Replaced", "another migration is ordered"


def is_copy(g: Gathered, guest: Guest) -> bool:
    """Whether this domain is a copy that has no right to run yet."""
    return guest.order.incoming is not None and gathered.never_ran(g, guest) and guest.state is DomainState.PAUSED


def target(g: Gathered, order: Order) -> Take:
    """What to do for an order with ``incoming``: without a domain, or with a copy. Where the two nodes cannot reach
    each other any more, the source's yes comes by way of the controller, in the order."""
    migration = order.incoming.migration if order.incoming is not None else ""
    released = order.incoming is not None and order.incoming.released
    answer = Answer.YES if released and g.answer is Answer.NONE else g.answer
    failed = g.handover is not None and g.handover.qemu is None and g.handover.migration == migration
    copy = Copy.NONE
    if g.guest is not None:
        copy = Copy.COMING if g.guest.detail in _COMING else Copy.COMPLETE
    taken = Taken.FAILED if failed else Taken.NONE
    return handover.target(TargetSeen(taken, copy, answer, g.listening, g.shutdown_asked))


def copy(g: Gathered, guest: Guest) -> Iterator[Step]:
    """Steps for a copy of a guest that comes from another node."""
    order = gathered.wanted(g, guest)
    order = order if order.incoming is not None else guest.order
    take = target(g, order)
    attached = g.network == order.machine.nics
    if take in (Take.RECEIVE, Take.ASK, Take.TAKE_OVER) and not attached:
        if order.berth.pod_uid not in g.present:
            yield steps.WaitFor(Awaited.BERTH, LOOK_AGAIN, "its berth is needed for its network")
            return
        yield steps.AttachNetwork(order, "its network is to be there before it runs", silent=True)
    match take:
        case Take.RECEIVE:
            yield steps.WaitFor(Awaited.MIGRATION, LOOK_AGAIN, "its memory comes from the other node")
        case Take.ASK:
            yield steps.AskSource(order, "all of it is here")
        case Take.TAKE_OVER:
            yield steps.Arrive(order, "the other node has let go")
            yield steps.MarkStarted(order, "from here on it is this node's")
            if order.power is OrderPower.RUNNING:
                yield steps.Resume("the other node has let go")
        case Take.THROW_AWAY:
            said = (
                "the source said no" if g.answer is Answer.NO else "its pod is to end, and its memory is not all here"
            )
            yield steps.FailReceiving(order, said)
            yield steps.Destroy("NotHandedOver", f"the guest runs on at the other node: {said}")
        case _:
            yield steps.WaitFor(Awaited.MIGRATION, LOOK_AGAIN, "libvirt is at work")


def report(g: Gathered, pause_ms: int | None) -> MigrationReport | None:
    """This side's word on the migration that concerns it last."""
    order = gathered.accepted(g)
    if g.guest is not None and order is not None and order.epoch != g.guest.order.epoch:
        order = None
    order = order or (g.guest.order if g.guest is not None else None)
    record = g.handover
    if (beforehand := _surveyed(g, order)) is not None:
        return beforehand
    if record is not None and record.qemu is not None:
        return _from_source(g, record)
    if order is None or order.incoming is None:
        return None
    said = MigrationReport(uid=order.incoming.migration, epoch=order.epoch, state=MigrationState.LISTENING)
    if record is not None and record.migration == said.uid:
        return said.model_copy(
            update={"state": MigrationState.FAILED, "reason": record.reason, "message": record.message}
        )
    if g.guest is None:
        return said if g.listening else None
    if not gathered.never_ran(g, g.guest):
        return said.model_copy(update={"state": MigrationState.ARRIVED, "pause_ms": pause_ms})
    if g.guest.detail in _COMING or not is_copy(g, g.guest):
        return said  # what libvirt takes down before it ran came to nothing: the source's libvirt went, or gave up
    words = "the other node does not answer; the copy waits, stopped" if g.source_silent else ""
    return said.model_copy(update={"state": MigrationState.RECEIVED, "alone": g.source_silent, "message": words})


def measured(before: TransferStats, now: TransferStats, least: int, seconds: float) -> TransferStats:
    """What libvirt says, made whole. It counts each disk from when its copy begins, and memory only after all of them;
    how fast it goes it knows of memory alone: of disks that is what has gone since it was last asked."""
    missing = max(least - now.total, 0)
    now = replace(now, total=now.total + missing, remaining=now.remaining + missing)
    if now.bytes_per_second or now.sent <= before.sent or seconds <= 0:
        return now
    return replace(now, bytes_per_second=int((now.sent - before.sent) / seconds))


def _disks(g: Gathered) -> tuple[copied.Copied, ...]:
    order = g.guest.order if g.guest is not None else gathered.accepted(g)
    return copied.of(order.machine) if order is not None else ()


def _surveyed(g: Gathered, order: Order | None) -> MigrationReport | None:
    """What is foretold, until the first byte goes."""
    if order is None or order.leaving is None or _survey(g, order.leaving.migration) is None:
        return None
    leaving = order.leaving
    if g.handover is not None and g.handover.migration == leaving.migration:
        return None
    known = _facts(g, order, leaving)
    how, foretold = method.choose(known), method.estimate(known)
    local = copied.of(order.machine)
    disks = sum(disk.size_bytes or 0 for disk in local)
    return MigrationReport(
        uid=leaving.migration,
        epoch=leaving.epoch,
        state=MigrationState.SURVEYED,
        total=known.memory + disks,
        remaining=known.memory + disks,
        bytes_per_second=known.rate or 0,
        dirty_bytes_per_second=known.dirty or 0,
        method=_with_disks(local, how),
        eta_seconds=_foretold(known, foretold, disks),
    )


def _foretold(known: method.Facts, memory: method.Estimate | None, disks: int) -> int | None:
    if memory is None or not known.rate:
        return None
    return round(method.SETUP_SECONDS + disks / known.rate + memory.seconds)


def _left(g: Gathered, survey: Survey | None) -> int | None:
    """Seconds until it is over, by the same rounds; the first round goes over empty pages, too. Its disks go before the
    first round, and are never compressed."""
    stats, pace = g.transfer, survey.pace if survey is not None else None
    copied_bytes, disks = _disk_bytes(g)
    left, dirty = stats.remaining - disks, stats.dirty_bytes_per_second
    if stats.rounds <= 1 and pace is not None:
        left, dirty = min(left, max(pace.memory - max(stats.sent - copied_bytes, 0), 0)), pace.dirty
    busy, working = (pace.busy, pace.working) if pace is not None else (1.0, None)
    dirty = int(dirty / method.slowed(busy, stats.throttle))
    known = method.Facts(left, stats.bytes_per_second, dirty, busy=busy, working=working)
    foretold = method.estimate(known, g.method, stats.throttle) if g.method is not None and stats.total else None
    return round(disks / stats.bytes_per_second + foretold.seconds) if foretold is not None else None


def _disk_bytes(g: Gathered) -> tuple[int, int]:
    """Of its disks in all, and of those that still go before the memory: none once that has begun."""
    if not _disks(g) or g.guest is None:
        return 0, 0
    stats, memory = g.transfer, g.guest.order.machine.memory_bytes
    return max(stats.total - memory, 0), max(stats.remaining - memory, 0) if not stats.rounds else 0


def _words(g: Gathered) -> str:
    if g.method is None:
        return ""
    slowed = f"; its CPUs are slowed down by {g.transfer.throttle} % now" if g.transfer.throttle else ""
    return _with_disks(_disks(g), g.method) + slowed


def _with_disks(disks: tuple[copied.Copied, ...], how: Method) -> str:
    if not disks:
        return how.words
    names = ", ".join(disk.name for disk in disks)
    return f"{how.words}; first its disks ({names}) are copied, and what it writes meanwhile follows"


def _from_source(g: Gathered, record: HandoverRecord) -> MigrationReport:
    stats = g.transfer
    return MigrationReport(
        uid=record.migration,
        epoch=record.epoch,
        state=_TOLD[record.state],
        total=stats.total,
        remaining=stats.remaining,
        sent=stats.sent,
        bytes_per_second=stats.bytes_per_second,
        dirty_bytes_per_second=stats.dirty_bytes_per_second,
        rounds=stats.rounds,
        throttle=stats.throttle,
        method=_words(g),
        eta_seconds=_left(g, _survey(g, record.migration)),
        reason=record.reason,
        message=record.message,
    )
