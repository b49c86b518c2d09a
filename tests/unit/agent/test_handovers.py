"""What an agent answers when it is asked to let a guest go, in which order it acts, and that it stays with that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from berth.agent.handovers import Handovers
from berth.agent.machines import Machines
from berth.agent.questions import Released, Word
from berth.agent.world import Moving
from berth.api.handover import Incoming, Outgoing, Peer
from berth.api.order import Order, Report
from berth.domain.observed import HandoverRecord, HandoverState, QemuProcess
from berth.effects import memory
from berth.effects.folders import MachineFolders
from berth.effects.memory_moving import MemoryQemus
from berth.effects.tunnel import Hello, Tunnel
from berth.errors import HostFault, Refused
from berth.plan.handover import HOLD_PATIENCE, Answer, Gate
from tests.unit.agent.orders import NODE, order, pod, uid
from tests.unit.agent.worlds import world_of

QEMU = QemuProcess(7, 70)
RECORD = HandoverRecord("m1", 2, "node-b", HandoverState.SENDING, QEMU)
OUTGOING = Outgoing(migration="m1", target=Peer(node="node-b", address="10.0.0.2", port=8555), epoch=2)
SENDS = order().model_copy(update={"outgoing": OUTGOING})


@dataclass
class Transfer:
    """A transfer whose answer is held, until it is not."""

    gate: Gate = Gate.HELD
    still: bool = True
    held_at: float | None = None
    finished: bool = False
    ended: list[bool] = field(default_factory=list)
    error: None = None

    def holds(self) -> bool:
        return self.still

    def end(self) -> None:
        self.ended.append(True)


class Bench:
    """``log`` of the node tells in which order the world was changed."""

    def __init__(self, folder: Path, record: HandoverRecord | None = RECORD, given: Order | None = SENDS) -> None:
        self.node = memory.MemoryNode()
        self.node.start_pod(pod())
        if record is not None:
            self.node.moving.records[uid()] = record
        self.folder = folder
        self.fresh(given)

    def fresh(self, given: Order | None = SENDS) -> None:
        """An agent that knows nothing yet but its order."""

        def run(call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
            raise AssertionError("these are blocking calls already")

        node = self.node
        moving = Moving(MemoryQemus(node.moving), MachineFolders(self.folder), "127.0.0.1", 1)
        world = world_of(node, run=run, moving=moving)
        machines = Machines(NODE, range(5, 9), lambda _uid: None, lambda: 0.0, _report)
        self.machine = machines.add(uid())
        self.machine.order = given
        self.machine.place(pod()).berth = node.pods[pod()].berth
        self.rung: list[str] = []
        self.handovers = Handovers(world, machines, self.rung.append)

    def held(self, transfer: Transfer | None = None) -> Transfer:
        made = transfer or Transfer()
        self.handovers.of(uid()).sending = made  # type: ignore[assignment]
        return made

    def ask(self, caller: str = "node-b", migration: str = "m1") -> Word:
        return self.handovers.let_go(uid(), migration, caller).word

    @property
    def state(self) -> HandoverState:
        return self.node.moving.records[uid()].state

    @property
    def dead(self) -> bool:
        return QEMU.pid in self.node.moving.gone

    @property
    def frozen(self) -> bool:
        return QEMU.pid in self.node.moving.frozen


def _report(_uid: str) -> Report:
    raise AssertionError("nobody orders here")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_yes_is_written_down_and_done_before_it_is_said(bench: Bench) -> None:
    bench.held()
    assert bench.ask() is Word.YES
    assert bench.dead
    assert bench.state is HandoverState.HANDED_OVER
    assert [line.split()[-1] for line in bench.node.log if "record" in line] == ["LettingGo", "HandedOver"]
    assert bench.rung
    for _ in range(2):
        bench.fresh(None)
        assert bench.ask() is Word.YES


def test_without_a_promise_on_paper_nothing_is_killed(bench: Bench) -> None:
    bench.held()
    bench.node.failing["record_handover"] = HostFault("the disk is full")
    with pytest.raises(HostFault):
        bench.ask()
    assert not bench.dead
    assert bench.state is HandoverState.SENDING
    bench.node.failing.clear()
    bench.fresh()
    assert bench.ask() is Word.NO
    assert not bench.frozen


def test_a_promise_on_paper_is_kept_by_the_next_agent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, replace(RECORD, state=HandoverState.LETTING_GO), None)
    bench.handovers.give_up(bench.machine, "Cancelled", "too late")
    assert bench.state is HandoverState.LETTING_GO
    assert bench.ask() is Word.YES
    assert bench.dead
    bench = Bench(tmp_path, replace(RECORD, state=HandoverState.LETTING_GO), None)
    bench.handovers.finish(bench.machine)
    assert bench.dead
    assert bench.state is HandoverState.HANDED_OVER


def test_libvirt_that_lets_it_run_on_at_the_last_moment(bench: Bench) -> None:
    transfer = bench.held(Transfer(still=False))
    assert bench.ask() is Word.NO
    assert (bench.dead, bench.frozen, bench.state) == (False, False, HandoverState.FAILED)
    assert transfer.ended
    transfer.still = True
    assert bench.ask() is Word.NO  # for ever


def test_no_is_for_ever_though_it_be_ordered_again(bench: Bench) -> None:
    bench.held()
    bench.machine.order = order()
    assert bench.ask() is Word.NO
    bench.machine.order = SENDS
    bench.held()
    assert bench.ask() is Word.NO
    assert not bench.dead


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b.handovers.give_up(b.machine, "Cancelled", "it is not ordered any more"),
        lambda b: b.handovers.fail(b.machine),
        lambda b: setattr(b.machine.place(pod()), "shutdown_asked", True),
        lambda b: setattr(b.handovers.of(uid()).sending, "held_at", -HOLD_PATIENCE),
        lambda b: setattr(b.machine, "order", order().model_copy(update={"outgoing": _late(OUTGOING)})),
    ],
)
def test_what_makes_it_a_no(bench: Bench, change: Callable[[Bench], None]) -> None:
    bench.held()
    change(bench)
    assert bench.ask() is Word.NO
    assert (bench.dead, bench.state) == (False, HandoverState.FAILED)


def _late(outgoing: Outgoing) -> Outgoing:
    return outgoing.model_copy(update={"deadline": "2025-12-31T23:59:59Z"})


def test_others_are_told_nothing(bench: Bench) -> None:
    bench.held()
    with pytest.raises(Refused):
        bench.ask("node-c")
    assert bench.ask(migration="m2") is Word.NO
    assert (bench.dead, bench.state) == (False, HandoverState.SENDING)
    assert bench.ask() is Word.YES


def test_a_node_that_never_sent_it_says_no(tmp_path: Path) -> None:
    bench = Bench(tmp_path, None)
    assert bench.ask() is Word.NO
    assert uid() not in bench.node.moving.records
    taken = HandoverRecord("m1", 2, "node-b", HandoverState.FAILED)  # of a guest that was to come here
    assert Bench(tmp_path, taken).ask() is Word.NO


class AnswerOf:
    """A connection to the source that always says the same."""

    def __init__(self, word: Word) -> None:
        self.word, self.closed = word, False

    def say(self, _ask: object) -> None:
        assert not self.closed

    def hear(self) -> bytes:
        return Released(word=self.word).model_dump_json(by_alias=True).encode()

    def close(self) -> None:
        self.closed = True


def test_a_connection_of_an_earlier_migration_is_not_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source would say no to that one for ever."""
    dialled: list[str] = []

    def dial(_tunnel: object, _peer: Peer, hello: Hello) -> AnswerOf:
        dialled.append(hello.migration)
        return AnswerOf(Word.NO if hello.migration == "m1" else Word.YES)

    monkeypatch.setattr(Tunnel, "dial", dial)
    incoming = Incoming(migration="m1", source=Peer(node="node-a", address="10.0.0.1", port=8555), epoch=1)
    first = order().model_copy(update={"incoming": incoming})
    again = order().model_copy(update={"incoming": incoming.model_copy(update={"migration": "m2"})})
    machine = bench.machine
    bench.handovers.ready_to_ask(machine, first)
    stale = bench.handovers.of(uid()).line
    bench.handovers.ready_to_ask(machine, again)
    bench.handovers.ask(machine, again)
    assert dialled == ["m1", "m2"]
    assert machine.answer is Answer.YES
    assert isinstance(stale, AnswerOf)
    assert stale.closed
