"""What an agent gathered of a machine that moves → its steps and its report, side by side with handover.py's words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from berth.api.handover import DoorOrder, Forward, Incoming, MigrationState, Outgoing, Peer
from berth.api.order import GuestState, Order, OrderPower
from berth.domain.host import Accelerator
from berth.domain.observed import (
    DomainState,
    Guest,
    HandoverRecord,
    HandoverState,
    Pace,
    QemuProcess,
    StartRecord,
    Survey,
    TransferStats,
)
from berth.plan import gathered, machine, moving, report, steps
from berth.plan.gathered import Gathered
from berth.plan.handover import HOLD_PATIENCE, Answer, Gate
from berth.plan.method import Kind, Method
from berth.plan.report import Progress
from berth.plan.steps import Awaited
from tests.unit.agent.orders import order, pod, uid

MIB = 1 << 20
THERE = Peer(node="node-b", address="10.0.0.2", port=8555)
OUTGOING = Outgoing(migration="m1", target=THERE, epoch=2)
INCOMING = Incoming(migration="m1", source=Peer(node="node-0", address="10.0.0.1", port=8555), epoch=1)
SENDING = HandoverRecord("m1", 2, "node-b", HandoverState.SENDING, QemuProcess(7, 70))
DOOR = DoorOrder(number=1, node="node-a", pod_uid=pod(), addresses=("10.1.0.5",))
FORWARD = Forward(door=DOOR, node="node-b", addresses=("10.1.1.6",))


def here(given: Order, state: DomainState = DomainState.RUNNING, detail: str = "") -> Gathered:
    """It runs here, and is served."""
    recorded = given.model_copy(update={"leaving": None, "outgoing": None, "forward": None})
    return Gathered(
        uid(),
        order=given,
        guest=Guest(uid(), state, recorded, 1_900_000_000, Accelerator.TCG, detail),
        record=StartRecord(given.epoch, given.berth.pod_uid, 1_900_000_000, "team", "vm-1"),
        folder=True,
        present=frozenset({given.berth.pod_uid}),
        linked=True,
        network=given.machine.nics,
    )


def sent_away(**more: Any) -> Gathered:
    return replace(here(order().model_copy(update={"outgoing": OUTGOING, "forward": FORWARD})), **more)


def kinds(g: Gathered) -> list[type]:
    return [type(step) for step in machine.plan(g).steps]


def state_of(record: HandoverRecord, state: HandoverState) -> HandoverRecord:
    return replace(record, state=state)


STOPPED = here(order(), DomainState.PAUSED, "migration").guest


def test_an_order_that_sends_it_away_begins_it_once() -> None:
    assert kinds(sent_away()) == [steps.BeginSending]
    assert kinds(sent_away(handover=SENDING, gate=Gate.OPEN)) == [steps.WaitFor]
    failed = state_of(SENDING, HandoverState.FAILED)
    assert steps.BeginSending not in kinds(sent_away(handover=failed))
    assert kinds(sent_away(handover=replace(failed, migration="m0"))) == [steps.BeginSending]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"order": order()}, "Cancelled"),
        ({"overdue": True}, "DeadlineExceeded"),
        ({"shutdown_asked": True}, "Stopped"),
        ({"gate": Gate.HELD, "held_age": HOLD_PATIENCE}, "TargetSilent"),
        ({"handover": replace(SENDING, migration="m0")}, "Replaced"),
    ],
)
def test_it_is_given_up(more: dict[str, Any], code: str) -> None:
    plan = machine.plan(sent_away(**{"handover": SENDING, "gate": Gate.OPEN, **more}))
    assert [step.code for step in plan.steps if isinstance(step, steps.GiveUp)] == [code]


def test_it_is_not_begun_when_it_is_to_end_or_too_late() -> None:
    for more in ({"overdue": True}, {"shutdown_asked": True}):
        assert steps.BeginSending not in kinds(sent_away(**more))


def test_a_restarted_agent_has_failed_and_lets_it_run_on() -> None:
    assert kinds(sent_away(handover=SENDING)) == [steps.FailSending]
    failed = state_of(SENDING, HandoverState.FAILED)
    assert kinds(sent_away(handover=failed, guest=STOPPED)) == [steps.RunOn]
    assert steps.WaitFor in kinds(sent_away(handover=failed, guest=STOPPED, gate=Gate.ENDED))


def test_nothing_of_it_is_changed_while_it_is_sent() -> None:
    """libvirt refuses changes then: NICs, metadata and power wait."""
    other = order(power=OrderPower.PAUSED).model_copy(update={"outgoing": OUTGOING})
    assert kinds(sent_away(order=other, handover=SENDING, gate=Gate.OPEN, network=None)) == [steps.WaitFor]


def test_what_was_promised_is_carried_out() -> None:
    letting_go = state_of(SENDING, HandoverState.LETTING_GO)
    assert kinds(sent_away(handover=letting_go, guest=STOPPED)) == [steps.LetGo]
    assert kinds(sent_away(handover=letting_go, guest=None)) == [steps.LetGo]
    assert kinds(sent_away(handover=letting_go, order=None)) == [steps.LetGo]


def door(**more: Any) -> Gathered:
    gone = state_of(SENDING, HandoverState.HANDED_OVER)
    return replace(sent_away(handover=gone, guest=None, forward=FORWARD), **more)


def test_a_berth_whose_guest_moved_is_a_door_until_its_pod_ends() -> None:
    g = door()
    assert gathered.state(g) is GuestState.MOVED
    assert kinds(g) == []
    assert kinds(door(forward=None)) == [steps.LeadOn]
    [end, _] = machine.plan(door(shutdown_asked=True)).steps
    assert isinstance(end, steps.ExitBerth)
    assert end.exit_code == 0
    assert kinds(door(present=frozenset(), lost=frozenset({pod()}))) == [steps.CleanUp]


def test_a_guest_that_comes_back_waits_for_its_old_berth() -> None:
    back = order(epoch=3).model_copy(update={"incoming": INCOMING})
    [wait] = machine.plan(door(order=back)).steps
    assert isinstance(wait, steps.WaitFor)
    assert wait.what is Awaited.OLD_BERTH


def test_a_moved_guests_report() -> None:
    said = report.report(door(), Progress(connections=3))
    assert said is not None
    assert (said.state, said.fate, said.connections) == (GuestState.MOVED, None, 3)
    assert said.migration is not None
    assert (said.migration.state, said.migration.epoch) == (MigrationState.HANDED_OVER, 2)


def test_how_far_it_is_is_told() -> None:
    g = sent_away(handover=SENDING, gate=Gate.OPEN, transfer=TransferStats(100, 40, 60, 10, 5, 2))
    said = report.report(g, Progress())
    assert said is not None
    assert said.migration is not None
    assert said.state is GuestState.RUNNING
    assert (said.migration.state, said.migration.total, said.migration.remaining) == (MigrationState.SENDING, 100, 40)


SURVEY = Survey("m1", Pace(64 * MIB, MIB), link=16 * MIB, free_cpus=2)


def test_it_is_sent_as_the_survey_of_this_very_migration_says() -> None:
    [begin] = machine.plan(sent_away(survey=SURVEY)).steps
    assert isinstance(begin, steps.BeginSending)
    assert begin.method.kind is Kind.PRECOPY
    assert begin.method.words in begin.reason
    [begin] = machine.plan(sent_away(survey=replace(SURVEY, migration="m0"))).steps
    assert isinstance(begin, steps.BeginSending)
    assert begin.method.kind is Kind.CONVERGE
    assert kinds(sent_away(surveying=True)) == [steps.WaitFor]


def test_memory_is_compressed_whether_disks_are_copied_or_not() -> None:
    """The disks go first, so that both never want the same CPUs and the same way."""
    busy = replace(SURVEY, pace=Pace(512 * MIB, MIB), free_cpus=8)
    with_disks = sent_away(survey=busy)
    for g in (with_disks, bare(with_disks)):
        [begin] = machine.plan(g).steps
        assert isinstance(begin, steps.BeginSending)
        assert (begin.method.kind, begin.method.channels) == (Kind.MULTIFD, 4)


def test_what_is_found_out_beforehand_is_told_until_it_begins() -> None:
    leaving = order().model_copy(update={"leaving": OUTGOING})
    assert report.report(here(leaving), Progress()).migration is None  # type: ignore[union-attr]
    g = replace(here(leaving), survey=SURVEY)
    assert kinds(g) == kinds(here(order()))
    said = report.report(g, Progress())
    assert said is not None
    assert said.migration is not None
    assert (said.migration.state, said.migration.epoch) == (MigrationState.SURVEYED, 2)
    assert said.migration.method.startswith("precopy: 1 MiB/s of its memory change, 6 % of what the way carries")
    assert said.migration.eta_seconds == 5
    assert told(replace(g, handover=state_of(SENDING, HandoverState.FAILED))) is MigrationState.FAILED
    earlier = replace(SENDING, migration="m0", state=HandoverState.FAILED)
    assert told(replace(g, handover=earlier)) is MigrationState.SURVEYED
    assert told(replace(g, handover=earlier, survey=replace(SURVEY, migration="m0"))) is MigrationState.FAILED


CALM = Method(Kind.PRECOPY, "it is calm", 100)
UNDERWAY = TransferStats(total=64 * MIB, remaining=16 * MIB, bytes_per_second=16 * MIB, rounds=2)


def bare(g: Gathered) -> Gathered:
    """Without disks that would be copied."""
    assert g.guest is not None
    machine_ = g.guest.order.machine.model_copy(update={"disks": ()})
    return replace(g, guest=replace(g.guest, order=g.guest.order.model_copy(update={"machine": machine_})))


def test_what_is_left_is_foretold_by_the_same_rounds() -> None:
    def left(stats: TransferStats, survey: Survey | None = None) -> int | None:
        g = bare(sent_away(handover=SENDING, gate=Gate.OPEN, method=CALM, transfer=stats, survey=survey))
        said = report.report(g, Progress())
        assert said is not None
        assert said.migration is not None
        return said.migration.eta_seconds

    assert left(UNDERWAY) == 1
    assert left(replace(UNDERWAY, remaining=64 * MIB)) == 4
    first = replace(UNDERWAY, rounds=1, remaining=256 * MIB, sent=32 * MIB)
    assert (left(first), left(first, SURVEY)) == (16, 2)  # most of it is empty
    assert left(first, replace(SURVEY, migration="m0")) == 16
    assert left(replace(UNDERWAY, bytes_per_second=0)) is None
    busy = replace(UNDERWAY, dirty_bytes_per_second=15 * MIB)
    assert (left(busy) or 0) > 3


def test_disks_that_go_first_are_foretold_as_they_are_and_memory_as_it_is_compressed() -> None:
    """All of the guest's memory is still counted then, and most of it is empty."""
    packed = replace(CALM, kind=Kind.MULTIFD, channels=2)

    memory, disks = order().machine.memory_bytes, 320 * MIB

    def left(rounds: int, sent: int, how: Method, survey: Survey | None = SURVEY) -> int | None:
        total = memory + disks
        stats = replace(UNDERWAY, rounds=rounds, total=total, sent=sent, remaining=total - sent)
        said = report.report(
            sent_away(handover=SENDING, gate=Gate.OPEN, method=how, transfer=stats, survey=survey), Progress()
        )
        assert said is not None
        assert said.migration is not None
        return said.migration.eta_seconds

    assert left(0, 160 * MIB, CALM) == 10 + 4
    assert left(0, 160 * MIB, packed) == 10 + 2
    assert left(0, 160 * MIB, packed, None) == 10 + memory // (32 * MIB)
    assert (left(1, disks, packed), left(1, disks + 32 * MIB, packed)) == (2, 1)
    assert left(2, disks + 64 * MIB, packed) == (memory - 64 * MIB) // (32 * MIB)


def test_that_the_guest_is_slowed_down_is_told() -> None:
    stats = replace(UNDERWAY, throttle=40)
    said = report.report(bare(sent_away(handover=SENDING, gate=Gate.OPEN, method=CALM, transfer=stats)), Progress())
    assert said is not None
    assert said.migration is not None
    assert said.migration.throttle == 40
    assert said.migration.method == "precopy: it is calm; its CPUs are slowed down by 40 % now"


def test_a_move_that_does_not_end_is_allowed_a_longer_pause_once() -> None:
    long = replace(UNDERWAY, rounds=9)
    g = sent_away(handover=SENDING, gate=Gate.OPEN, method=CALM, transfer=long)
    [more] = machine.plan(g).steps
    assert isinstance(more, steps.AllowPause)
    assert more.method.downtime_ms == OUTGOING.downtime_ms
    assert "after 9 rounds it is not over" in more.method.words
    assert kinds(replace(g, method=more.method)) == [steps.WaitFor]
    assert kinds(replace(g, gate=Gate.HELD, held_age=1.0)) == [steps.WaitFor]
    assert kinds(replace(g, overdue=True)) == [steps.GiveUp, steps.WaitFor]


COMES = order(epoch=2).model_copy(update={"incoming": INCOMING})


def coming(**more: Any) -> Gathered:
    """The target, nothing prepared yet."""
    present = frozenset({COMES.berth.pod_uid})
    return replace(Gathered(uid(), order=COMES, present=present, linked=True, kvm_usable=True), **more)


def copy(detail: str, **more: Any) -> Gathered:
    guest = Guest(uid(), DomainState.PAUSED, COMES, 1_900_000_000, Accelerator.TCG, detail)
    return coming(**{"guest": guest, "folder": True, "listening": True, "network": COMES.machine.nics, **more})


def test_the_target_prepares_then_listens() -> None:
    assert kinds(coming()) == [steps.PrepareCgroup, steps.PrepareMedia, steps.CreateTaps, steps.AwaitGuest]
    assert kinds(coming(listening=True)) == [steps.WaitFor]
    assert steps.CreatePaused not in kinds(coming())


def told(g: Gathered) -> MigrationState | None:
    said = report.report(g, Progress(pause_ms=12))
    assert said is not None
    return said.migration.state if said.migration is not None else None


def test_the_targets_words() -> None:
    assert told(coming()) is None
    assert told(coming(listening=True)) is MigrationState.LISTENING
    assert told(copy("migration")) is MigrationState.LISTENING
    assert told(copy("user")) is MigrationState.RECEIVED
    arrived = replace(here(COMES), listening=True)
    assert told(arrived) is MigrationState.ARRIVED
    failed = HandoverRecord("m1", 2, "node-0", HandoverState.FAILED)
    assert told(coming(handover=failed)) is MigrationState.FAILED


@pytest.mark.parametrize("state", [DomainState.SHUTTING_DOWN, DomainState.CRASHED, DomainState.SHUTOFF])
def test_a_copy_that_libvirt_takes_down_has_not_arrived(state: DomainState) -> None:
    """As it does when the source's libvirt or agent is killed: the controller would take the guest for handed over."""
    seen = coming(guest=Guest(uid(), state, COMES, 1_900_000_000, Accelerator.TCG), folder=True, listening=True)
    assert told(seen) is MigrationState.LISTENING
    said = report.report(seen, Progress())
    assert said is not None
    assert said.state is GuestState.STARTING
    ran = replace(seen, record=here(COMES).record)
    assert told(ran) is MigrationState.ARRIVED
    assert gathered.state(ran) is GuestState.STOPPING


def test_the_report_tells_of_the_disks() -> None:
    seen = sent_away(handover=SENDING, gate=Gate.OPEN, method=CALM, transfer=TransferStats(total=1))
    said = report.report(seen, Progress())
    assert said is not None
    assert said.migration is not None
    assert "its disks (data) are copied" in said.migration.method
    said = report.report(bare(seen), Progress())
    assert said is not None
    assert said.migration is not None
    assert "disks" not in said.migration.method


@pytest.mark.parametrize(
    ("before", "now", "seconds", "rate"),
    [
        (TransferStats(), TransferStats(sent=300), 2.0, 150),
        (TransferStats(sent=100), TransferStats(sent=300), 2.0, 100),
        (TransferStats(sent=100), TransferStats(sent=300, bytes_per_second=7), 2.0, 7),  # libvirt knows
        (TransferStats(sent=300), TransferStats(sent=300), 2.0, 0),
        (TransferStats(), TransferStats(sent=300), 0.0, 0),
    ],
)
def test_how_fast_disks_go_is_measured(before: TransferStats, now: TransferStats, seconds: float, rate: int) -> None:
    assert moving.measured(before, now, 0, seconds).bytes_per_second == rate


def test_what_libvirt_does_not_count_yet_is_counted() -> None:
    def seen(total: int, remaining: int, least: int) -> tuple[int, int]:
        found = moving.measured(TransferStats(), TransferStats(total=total, remaining=remaining), least, 1.0)
        return found.total, found.remaining

    assert seen(0, 0, 500) == (500, 500)  # nothing has begun
    assert seen(100, 30, 500) == (500, 430)  # one disk has
    assert seen(510, 30, 500) == (510, 30)  # memory goes, with what firmware has of it


def test_its_network_is_there_silently_before_the_source_is_asked() -> None:
    for detail in ("migration", "user"):
        first = machine.plan(copy(detail, network=None)).steps[0]
        assert isinstance(first, steps.AttachNetwork)
        assert first.silent
    assert kinds(copy("user")) == [steps.AskSource]


def test_it_is_ours_before_it_runs() -> None:
    assert kinds(copy("user", answer=Answer.YES)) == [steps.Arrive, steps.MarkStarted, steps.Resume]
    paused = COMES.model_copy(update={"power": OrderPower.PAUSED})
    assert kinds(copy("user", answer=Answer.YES, order=paused)) == [steps.Arrive, steps.MarkStarted]


def test_a_copy_is_thrown_away_on_evidence_only() -> None:
    assert kinds(copy("user", answer=Answer.NO)) == [steps.FailReceiving, steps.Destroy]
    assert kinds(copy("migration", shutdown_asked=True)) == [steps.FailReceiving, steps.Destroy]
    assert kinds(copy("user", shutdown_asked=True)) == [steps.AskSource]  # it may be ours already
    assert kinds(copy("user", order=None)) == [steps.AskSource]  # a silent controller changes nothing
    failed = HandoverRecord("m1", 2, "node-0", HandoverState.FAILED)
    assert kinds(copy("user", handover=failed)) == [steps.FailReceiving, steps.Destroy]
    assert kinds(coming(handover=failed)) == [steps.WaitFor]


def test_the_source_s_yes_may_come_by_way_of_the_controller() -> None:
    """The two nodes do not reach each other; that the machine's status names this berth is the proof."""
    assert COMES.incoming is not None
    released = COMES.model_copy(update={"incoming": COMES.incoming.model_copy(update={"released": True})})
    assert kinds(copy("user", order=released)) == [steps.Arrive, steps.MarkStarted, steps.Resume]
    assert kinds(copy("migration", order=released)) == [steps.WaitFor]  # its memory is not all here
    assert kinds(copy("user", order=released, answer=Answer.NO)) == [steps.FailReceiving, steps.Destroy]
    said = moving.report(copy("user", source_silent=True), None)
    assert said is not None
    assert said.alone


def test_a_copy_is_no_guest_yet() -> None:
    paused = COMES.model_copy(update={"power": OrderPower.PAUSED})
    assert gathered.state(copy("user", order=paused)) is GuestState.STARTING
