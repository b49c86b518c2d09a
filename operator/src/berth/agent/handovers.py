"""A node's part in hand-overs: steps and calls of other agents in, transfers and promises out.

plan/handover.py decides, for steps (through plan/moving.py) and for the other agent's question alike; here what was
decided is done, in the order that keeps it sound: write down, then act, then say. What a machine promises is done under
its lock. Used by apply.py (in worker threads), by gather.py and by the tunnel's threads.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from berth.agent import claims, receiving
from berth.agent.machines import Machine, Machines
from berth.agent.questions import LET_GO, Ask, Released, Word
from berth.agent.sending import Sending
from berth.agent.world import Moving, World
from berth.api.handover import Flow, Outgoing
from berth.api.order import Order
from berth.domain import build
from berth.domain.observed import HandoverRecord, HandoverState
from berth.effects.tunnel import Hello, Line, Tunnel
from berth.errors import BerthError, HostFault, Refused, Unavailable
from berth.plan import handover, moving
from berth.plan.handover import Answer, Gate, Qemu, Reply, SourceSeen
from berth.plan.method import Method

LATER_SECONDS: Final = 5.0
"""How long a question waits for what is about to happen anyway."""

_log = logging.getLogger(__name__)


@dataclass
class _Promises:
    """One machine's: nothing is promised twice in different words."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    sending: Sending | None = None
    flows: tuple[Flow, ...] | None = None  # the guest's connections, since it was stopped
    line: Line | None = None  # to the source, kept for the moment when every millisecond counts
    line_for: str = ""  # the migration that it asks about

    def take_line(self, migration: str) -> Line | None:
        """The open connection of this migration; one of an earlier migration is closed."""
        line, self.line = self.line, None
        if line is None or self.line_for == migration:
            return line
        line.close()
        return None

    def keep_line(self, migration: str, line: Line) -> None:
        self.line, self.line_for = line, migration


class Handovers:
    def __init__(self, world: World, machines: Machines, ring: Callable[[str], None]) -> None:
        self._world = world
        self._machines = machines
        self._ring = ring  # from any thread
        self._all: dict[str, _Promises] = {}
        self.tunnel: Tunnel | None = None
        if world.moving is not None:
            self.tunnel = Tunnel(world.moving.host, world.moving.port, self._on_call)

    def of(self, uid: str) -> _Promises:
        return self._all.setdefault(uid, _Promises())

    def gate(self, uid: str) -> Gate:
        sending = self.of(uid).sending
        return Gate.NONE if sending is None else sending.gate

    def held_since(self, uid: str) -> float | None:
        sending = self.of(uid).sending
        return None if sending is None or sending.finished else sending.held_at

    def sending(self) -> list[str]:
        """The machines whose memory is on its way."""
        return [uid for uid, one in self._all.items() if one.sending is not None and not one.sending.finished]

    def watch(self, uid: str) -> int:
        """Now and then, while it is sent; how many bytes that is at least, of its memory and its disks."""
        sending = self.of(uid).sending
        if sending is None:
            return 0
        sending.watch()
        return sending.machine.memory_bytes + sending.disk_bytes

    # --- the source's steps

    def begin(self, machine: Machine, order: Order, method: Method) -> None:
        outgoing, parts = order.outgoing, self._parts()
        if outgoing is None:
            raise HostFault("the plan sends a guest that is not ordered away", reason="InternalError")
        qemu = parts.qemus.find(machine.uid, build.domain_name(order))
        if qemu is None:
            raise HostFault("QEMU of this machine is not found on this node", reason="QemuMissing")
        promises = self.of(machine.uid)
        record = HandoverRecord(outgoing.migration, outgoing.epoch, outgoing.target.node, HandoverState.SENDING, qemu)
        with promises.lock:
            self._world.berths.record_handover(machine.uid, record)
            guest_uid = self._machines.guest_uid(machine)
            folder, promises.flows = parts.folders.moving(machine.uid, passing=guest_uid), None
            promises.sending = Sending(
                machine.uid,
                outgoing,
                folder,
                self._tunnel(),
                self._world.hypervisor,
                lambda: self._ring(machine.uid),
                order.machine,
                method,
                guest_uid,
                functools.partial(self._check_claims, machine, order),
            )
            promises.sending.start()
        berth = machine.place(order.berth.pod_uid).berth
        if order.forward is not None and berth is not None:
            self._world.network.prepare_departure(machine.uid, berth, order.forward)

    def _check_claims(self, machine: Machine, order: Order, marks: Mapping[str, str]) -> None:
        berth = machine.place(order.berth.pod_uid).berth
        if berth is None:
            raise HostFault("the machine's own berth is not found on this node", reason="BerthGone")
        claims.check(self._world.media, berth, order.machine, marks)

    def method(self, uid: str) -> Method | None:
        sending = self.of(uid).sending
        return None if sending is None or sending.finished else sending.method

    def allow_pause(self, uid: str, method: Method) -> None:
        sending = self.of(uid).sending
        if sending is not None:
            self._world.hypervisor.allow_pause(uid, method.downtime_ms)
            sending.method = method

    def stopped(self, uid: str) -> None:
        """libvirt has just stopped the guest, in the middle of its migration: what comes for it waits at the target."""
        promises = self.of(uid)
        if promises.sending is not None:
            promises.sending.hurry()
        with promises.lock:
            record = self._world.berths.handover_record(uid)
            if moving.sent(record) is handover.Sent.SENDING and self.gate(uid) in (Gate.OPEN, Gate.HELD):
                try:
                    promises.flows = self._flows(uid)
                except BerthError as error:  # it is tried again when the target asks, and then it matters
                    _log.warning("the network did not leave", extra={"uid": uid, "error": str(error)})

    def give_up(self, machine: Machine, reason: str, message: str) -> None:
        """No from here on, and libvirt lets the guest run on."""
        self._fail(machine.uid, reason, message)

    def fail(self, machine: Machine) -> None:
        """It has failed already, by itself or with an agent that is dead now."""
        sending = self.of(machine.uid).sending
        cause = sending.error if sending is not None else None
        if cause is not None:
            self._fail(machine.uid, cause.reason, str(cause))
        else:
            self._fail(machine.uid, "Interrupted", "an agent or libvirtd was restarted while the guest was sent")

    def run_on(self, machine: Machine) -> None:
        record = self._world.berths.handover_record(machine.uid)
        if record is not None and record.qemu is not None and record.state is HandoverState.FAILED:
            self._parts().qemus.thaw(record.qemu)
            self._world.hypervisor.resume(machine.uid)

    def finish(self, machine: Machine) -> None:
        with self.of(machine.uid).lock:
            record = self._world.berths.handover_record(machine.uid)
            if record is not None and record.state is HandoverState.LETTING_GO:
                self._finish(machine.uid, record)

    def lead_on(self, machine: Machine, order: Order) -> None:
        place = machine.place(order.berth.pod_uid)
        if order.forward is not None and place.berth is not None:
            self._world.network.depart(machine.uid, place.berth, order.machine.nics, order.forward)
            place.forward = order.forward

    # --- the question

    def let_go(self, uid: str, migration: str, caller: str) -> Released:
        """The answer to the target's agent; it may take a while when it is about to change by itself."""
        deadline = time.monotonic() + LATER_SECONDS
        while True:
            with self.of(uid).lock:
                said = self._answer(uid, migration, caller)
                sending = self.of(uid).sending
            if said.word is not Word.LATER or sending is None or time.monotonic() > deadline:
                return said
            sending.changed.wait(0.05)

    def _answer(self, uid: str, migration: str, caller: str) -> Released:
        record = self._world.berths.handover_record(uid)
        if record is None or record.qemu is None or record.migration != migration:
            return Released(word=Word.NO, reason="MigrationUnknown", message="no such migration goes out from here")
        if record.peer != caller:
            raise Refused(f"this migration goes to node {record.peer}, not {caller}", reason="MigrationUnknown")
        machine = self._machines.get(uid)
        alive = self._parts().qemus.alive(record.qemu)
        seen = SourceSeen(
            moving.sent(record),
            self.gate(uid),
            Qemu.STOPPED if alive else Qemu.GONE,
            machine is not None and self._wanted(machine, migration),
            self._patient(uid),
        )
        match handover.let_go(seen):
            case Reply.YES:
                return self._yes(uid)
            case Reply.NO:
                return self._no(uid, "NotHandedOver", "it is not ordered any more, or was not asked for in time")
            case Reply.LATER:
                return Released(word=Word.LATER)
            case Reply.FINISH:
                self._finish(uid, record)
                return self._yes(uid)
            case Reply.ACT:
                return self._act(uid, record)

    def _act(self, uid: str, record: HandoverRecord) -> Released:
        sending, qemus = self.of(uid).sending, self._parts().qemus
        assert record.qemu is not None  # the caller's condition
        assert sending is not None  # of a gate that holds
        known = self.of(uid).flows
        flows = self._flows(uid) if known is None else known
        qemus.freeze(record.qemu)
        if not sending.holds():
            return self._no(uid, "Interrupted", "libvirt's connection ended at the last moment")
        letting_go = replace(record, state=HandoverState.LETTING_GO)
        self._world.berths.record_handover(uid, letting_go)
        self._finish(uid, letting_go)
        return self._yes(uid, flows)

    def _finish(self, uid: str, record: HandoverRecord) -> None:
        if record.qemu is not None:
            self._parts().qemus.kill(record.qemu)
        self._world.berths.record_handover(uid, replace(record, state=HandoverState.HANDED_OVER))
        sending = self.of(uid).sending
        if sending is not None:
            sending.end()
        self._ring(uid)

    def _yes(self, uid: str, flows: tuple[Flow, ...] | None = None) -> Released:
        machine = self._machines.get(uid)
        stopped_at = machine.stopped_at if machine is not None else None
        stopped = 0 if stopped_at is None else int((time.monotonic() - stopped_at) * 1000)
        return Released(word=Word.YES, stopped_ms=stopped, flows=self._flows(uid) if flows is None else flows)

    def _no(self, uid: str, reason: str, message: str) -> Released:
        self._fail(uid, reason, message)
        record = self._world.berths.handover_record(uid)
        said = (record.reason, record.message) if record is not None else (reason, message)
        return Released(word=Word.NO, reason=said[0], message=said[1])

    def _flows(self, uid: str) -> tuple[Flow, ...]:
        """The guest stands still: what comes for it goes to the target from now on, and these are its connections."""
        machine = self._machines.get(uid)
        order = machine.order if machine is not None else None
        if machine is None or order is None or order.forward is None:
            return ()
        place = machine.place(order.berth.pod_uid)
        if place.berth is None:
            return ()
        flows = self._world.network.depart(uid, place.berth, order.machine.nics, order.forward)
        place.forward = order.forward
        return flows

    def _fail(self, uid: str, reason: str, message: str) -> None:
        """Written down first: from then on the answer is no. Then the guest may run on."""
        promises = self.of(uid)
        with promises.lock:
            record = self._world.berths.handover_record(uid)
            if record is None or record.qemu is None:
                return
            if record.state in (HandoverState.LETTING_GO, HandoverState.HANDED_OVER):
                return  # too late
            if record.state is HandoverState.SENDING:
                failed = replace(record, state=HandoverState.FAILED, reason=reason, message=message)
                self._world.berths.record_handover(uid, failed)
                _log.warning("the guest stays here", extra={"uid": uid, "reason": reason, "error": message})
            promises.flows = None
            self._stay(uid)
            if promises.sending is not None:
                promises.sending.end()
            self._parts().qemus.thaw(record.qemu)
        self._ring(uid)

    def _stay(self, uid: str) -> None:
        machine = self._machines.get(uid)
        order = machine.order if machine is not None else None
        place = machine.places.get(order.berth.pod_uid) if machine is not None and order is not None else None
        if order is not None and place is not None and place.berth is not None:
            self._world.network.stay(uid, place.berth, order.machine.nics)
            place.forward = None

    def _wanted(self, machine: Machine, migration: str) -> bool:
        order = machine.order
        outgoing = order.outgoing if order is not None else None
        if order is None or outgoing is None or outgoing.migration != migration or overdue(outgoing, self._world.now()):
            return False
        return not machine.place(order.berth.pod_uid).shutdown_asked

    def _patient(self, uid: str) -> bool:
        since = self.held_since(uid)
        return since is None or time.monotonic() - since < handover.HOLD_PATIENCE

    # --- the target's steps

    def ask(self, machine: Machine, order: Order) -> None:
        """Whether the copy is ours now; Unavailable when the source says nothing."""
        incoming = order.incoming
        if incoming is None:
            raise HostFault("the plan asks for a guest that does not come", reason="InternalError")
        hello = Hello(migration=incoming.migration, uid=machine.uid, channel=LET_GO)
        promises = self.of(machine.uid)
        machine.source_silent = True
        try:
            line = promises.take_line(incoming.migration) or self._tunnel().dial(incoming.source, hello)
            line.say(Ask())
            said = Released.model_validate_json(line.hear())
        except (OSError, ValueError) as error:
            raise Unavailable(f"the source's agent ended the connection: {error}", reason="PeerGone") from error
        machine.source_silent = False
        if said.word is Word.LATER:
            promises.keep_line(incoming.migration, line)
            raise Unavailable("the source is not done with its own part yet", reason="SourceBusy")
        line.close()
        machine.released = said if said.word is Word.YES else None
        machine.released_at = time.monotonic()
        machine.answer = Answer.YES if said.word is Word.YES else Answer.NO

    def ready_to_ask(self, machine: Machine, order: Order) -> None:
        """Open the connection while the memory still comes in: it takes time that the guest would stand still for."""
        promises, incoming = self.of(machine.uid), order.incoming
        if incoming is None:
            return
        hello = Hello(migration=incoming.migration, uid=machine.uid, channel=LET_GO)
        with contextlib.suppress(Unavailable, Refused):  # it is tried again when it matters
            line = promises.take_line(incoming.migration) or self._tunnel().dial(incoming.source, hello)
            promises.keep_line(incoming.migration, line)

    def fail_receiving(self, machine: Machine, order: Order, message: str) -> None:
        if order.incoming is not None:
            peer = order.incoming.source.node
            record = HandoverRecord(order.incoming.migration, order.epoch, peer, HandoverState.FAILED)
            self._world.berths.record_handover(machine.uid, replace(record, reason="NotHandedOver", message=message))

    # --- calls of other agents

    def _on_call(self, node: str, hello: Hello) -> Callable[[Line], None]:
        if hello.channel == LET_GO:
            return lambda line: self._questions(line, node, hello)
        machine = self._machines.get(hello.uid)
        return receiving.server(self._world, self._parts(), machine, node, hello)

    def _questions(self, line: Line, node: str, hello: Hello) -> None:
        while True:
            Ask.model_validate_json(line.hear())
            line.say(self.let_go(hello.uid, hello.migration, node))

    def _parts(self) -> Moving:
        if self._world.moving is None:
            raise HostFault("this agent cannot move guests", reason="MoveUnsupported")
        return self._world.moving

    def _tunnel(self) -> Tunnel:
        if self.tunnel is None:
            raise HostFault("this agent cannot move guests", reason="MoveUnsupported")
        return self.tunnel


def overdue(outgoing: Outgoing, now: datetime) -> bool:
    if outgoing.deadline is None:
        return False
    deadline = datetime.fromisoformat(outgoing.deadline)
    return now >= (deadline if deadline.tzinfo else deadline.replace(tzinfo=UTC))
