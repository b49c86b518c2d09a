"""Taking snapshots as plans: in every world a guest loses a snapshot at worst, and never anything else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from berth.api.handover import Outgoing
from berth.api.kept import SnapshotOrder, SnapshotReport, SnapshotState, StateOrder
from berth.api.order import ConditionStatus, GuestState, Order, OrderPower
from berth.domain.host import Accelerator
from berth.domain.observed import DomainState, Guest, GuestNic, KeptSnapshots, StartRecord
from berth.plan import machine, report, snapshots, steps
from berth.plan.gathered import Gathered
from berth.plan.report import Progress
from tests.unit.agent.orders import order, pod, uid

FOLDER = "/berth/saved"
ONE, TWO = ("11111111-0000-4000-8000-000000000001", "11111111-0000-4000-8000-000000000002")
RECORD = StartRecord(2, pod(epoch=2), 1000)
NOTHING = KeptSnapshots()
NIC = GuestNic("default", "ua-nic-default", "52:54:00:00:00:01")
BUSY = (SnapshotState.WAITING, SnapshotState.SAVING, SnapshotState.COPYING)


def told(
    snapshot: str | None = ONE,
    *,
    save: bool = False,
    power: OrderPower = OrderPower.RUNNING,
    forget: tuple[str, ...] = (),
) -> Order:
    taken = SnapshotOrder(uid=snapshot, name="before") if snapshot is not None else None
    state = StateOrder(folder=FOLDER, save=save, snapshot=taken, forget=forget)
    return order(epoch=2, power=power).model_copy(update={"state": state})


def work(state: SnapshotState, uid: str = ONE) -> SnapshotReport:
    return SnapshotReport(uid=uid, state=state)


def guest(state: DomainState = DomainState.RUNNING, detail: str = "") -> Guest:
    return Guest(uid(), state, told(None), 1000, Accelerator.TCG, detail, nics=(NIC,))


def world(**more: object) -> Gathered:
    given: dict[str, object] = {"uid": uid(), "present": frozenset({pod(epoch=2)}), "linked": True, "kvm_usable": True}
    given |= {"guest": guest(), "record": RECORD, "snapshots": NOTHING, "network": told().machine.nics}
    return Gathered(**{**given, **more})  # type: ignore[arg-type]


def names(g: Gathered) -> list[str]:
    return [type(step).__name__ for step in machine.plan(g).steps]


def worlds() -> Iterator[Gathered]:
    orders = (told(), told(None), told(TWO), told(save=True), None)
    guests = (guest(), guest(DomainState.PAUSED, "user"), guest(DomainState.PAUSED, "migration"))
    works = (None, *(work(state) for state in SnapshotState if state is not SnapshotState.READY))
    kept = (None, NOTHING, KeptSnapshots(frozenset({ONE}), SnapshotReport(uid=ONE, state=SnapshotState.READY)))
    for given, there, taking, begun, ends, asked, held in itertools.product(
        orders, guests, works, (False, True), (False, True), (False, True), kept
    ):
        yield world(
            order=given,
            guest=there,
            taking=taking,
            snapshot_begun=begun,
            taking_ends=ends,
            shutdown_asked=asked,
            snapshots=held,
        )


def test_no_snapshot_ends_a_guest_and_none_runs_on_while_its_memory_is_written() -> None:
    for g in worlds():
        done = names(g)
        assert "Destroy" not in done, g
        assert "ExitBerth" not in done, g
        if g.taking is not None and g.taking.state is SnapshotState.SAVING:
            assert set(done) <= {"AbortSnapshot", "WaitFor"}, g
        if g.taking is not None and g.taking.state in BUSY:
            assert not {"BeginSnapshot", "ScrapSnapshot", "BeginSave", "ForgetSnapshots"} & set(done), g
        if "BeginSnapshot" in done:
            assert not g.snapshot_begun, g
            assert g.snapshots == NOTHING, g
        if g.taking_ends:
            assert "AbortSnapshot" not in done, g


def test_it_is_begun_once_and_not_again_when_it_failed_or_is_there() -> None:
    assert names(world(order=told())) == ["BeginSnapshot"]
    assert names(world(order=told(), taking=work(SnapshotState.COPYING))) == []
    assert names(world(order=told(), taking=work(SnapshotState.FAILED))) == []
    assert names(world(order=told(TWO), taking=work(SnapshotState.FAILED))) == ["BeginSnapshot"]
    ready = KeptSnapshots(frozenset({ONE}), SnapshotReport(uid=ONE, state=SnapshotState.READY))
    assert names(world(order=told(), snapshots=ready)) == []
    assert names(world(order=told(), snapshots=None)) == []


@pytest.mark.parametrize(
    ("state", "detail", "power", "begins"),
    [
        (DomainState.PAUSED, "user", OrderPower.PAUSED, True),
        (DomainState.PAUSED, "user", OrderPower.RUNNING, False),  # it is about to run
        (DomainState.PAUSED, "ioerror", OrderPower.PAUSED, False),
        (DomainState.CRASHED, "", OrderPower.RUNNING, False),
    ],
)
def test_of_which_guests_it_is_begun(state: DomainState, detail: str, power: OrderPower, begins: bool) -> None:
    done = names(world(order=told(power=power), guest=guest(state, detail)))
    assert ("BeginSnapshot" in done) is begins


def test_one_that_has_not_run_is_not_taken() -> None:
    g = world(order=told(), guest=guest(DomainState.PAUSED, "user"), record=None)
    assert "BeginSnapshot" not in names(g)
    found = snapshots.report(g)
    assert found is not None
    assert found.message == "the guest has not run yet"


def test_a_move_waits_for_the_end_of_it_and_it_is_begun_after_the_move() -> None:
    moving = told().model_copy(update={"outgoing": Outgoing.model_construct(migration="m1")})
    assert names(world(order=moving, taking=work(SnapshotState.COPYING))) == ["AbortSnapshot", "WaitFor"]
    assert names(world(order=moving, taking=work(SnapshotState.COPYING), taking_ends=True)) == ["WaitFor"]
    assert "BeginSnapshot" not in names(world(order=moving))


def test_a_pod_that_is_to_end_does_not_wait_for_copies() -> None:
    done = names(world(order=told(), taking=work(SnapshotState.COPYING), shutdown_asked=True, stop_age=0.0))
    assert done[:2] == ["AbortSnapshot", "PressPowerButton"]
    done = names(world(order=told(), taking=work(SnapshotState.SAVING), shutdown_asked=True, stop_age=0.0))
    assert done == ["AbortSnapshot", "WaitFor"]


def test_what_an_agent_left_is_removed_and_the_guest_runs_on_whatever_libvirt_calls_its_pause() -> None:
    def runs(given: Order, there: Guest) -> bool:
        [step] = machine.plan(world(order=given, guest=there, snapshot_begun=True)).steps
        assert isinstance(step, steps.ScrapSnapshot)
        return step.runs

    for detail in ("user", "migration", "snapshot", "save"):
        assert runs(told(), guest(DomainState.PAUSED, detail))
    assert not runs(told(power=OrderPower.PAUSED), guest(DomainState.PAUSED, "user"))
    assert not runs(told(), guest(DomainState.PAUSED, "ioerror"))
    assert not runs(told(), guest())


def test_deleted_ones_go_and_are_told_when_they_are_gone() -> None:
    there = KeptSnapshots(frozenset({ONE}))
    g = world(order=told(None, forget=(ONE, TWO)), snapshots=there)
    assert names(g) == ["ForgetSnapshots"]
    assert snapshots.forgotten(g) == (TWO,)
    assert names(world(order=told(None, forget=(ONE, TWO)), snapshots=there, forgets=False)) == []
    assert snapshots.forgotten(world(order=told(None, forget=(ONE,)), snapshots=None)) == ()
    assert names(world(order=told(ONE, forget=(ONE,)), snapshots=there)) == ["BeginSnapshot"]


def test_the_report_says_that_it_stands_still_and_how_far_it_is() -> None:
    g = world(order=told(), guest=guest(DomainState.PAUSED, "user"), taking=work(SnapshotState.SAVING))
    found = report.report(g, Progress())
    assert found is not None
    assert found.snapshot == work(SnapshotState.SAVING)
    running = {c.type: c for c in found.conditions}["GuestRunning"]
    assert (running.status, running.reason) == (ConditionStatus.TRUE, "Running")
    assert running.message == "It stands still while its memory is written to a snapshot."
    assert found.state is GuestState.RUNNING, "a moment's stop is no pause"
    paused = world(
        order=told(power=OrderPower.PAUSED),
        guest=guest(DomainState.PAUSED, "user"),
        taking=work(SnapshotState.SAVING),
    )
    said = report.report(paused, Progress())
    assert said is not None
    assert said.state is GuestState.PAUSED


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"snapshots": None, "snapshots_error": "stale handle"}, "its volume cannot be read: stale handle"),
        ({"shutdown_asked": True}, "shut down first"),
        ({"guest": None}, "the guest does not run"),
    ],
)
def test_the_report_says_what_it_waits_for(more: dict[str, object], said: str) -> None:
    found = snapshots.report(world(order=told(), **more))
    assert found is not None
    assert found.state is SnapshotState.WAITING
    assert said in found.message
