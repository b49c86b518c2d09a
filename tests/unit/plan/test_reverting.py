"""Starts that begin with a snapshot as plans: none from disks half put back, none twice, none without a mark."""

from __future__ import annotations

import itertools

import pytest

from berth.api.kept import RevertOrder, StateOrder
from berth.api.order import Order, OrderPower
from berth.domain.host import Accelerator
from berth.domain.observed import DomainState, Guest, KeptSnapshots, KeptStates, StartRecord
from berth.plan import machine, reverting, steps
from berth.plan.gathered import Gathered, Saving
from tests.unit.agent.orders import order, pod, uid

ONE = "11111111-0000-4000-8000-000000000001"
R1 = RevertOrder(request="r1", snapshot=ONE, name="before")
R2 = R1.model_copy(update={"request": "r2"})
DISKS = R1.model_copy(update={"memory": False})
THERE = KeptStates(snapshots=frozenset({ONE}))
HALF = KeptStates(snapshots=frozenset({ONE}), reverting=R1)
DONE = KeptStates(snapshots=frozenset({ONE}), reverted="r1")


def told(
    revert: RevertOrder | None = R1, *, save: bool = False, restore: int | None = None, paused: bool = False
) -> Order:
    state = StateOrder(folder="/berth/saved", save=save, restore=restore, revert=revert)
    power = OrderPower.PAUSED if paused else OrderPower.RUNNING
    return order(epoch=2, power=power).model_copy(update={"state": state})


def world(**more: object) -> Gathered:
    given: dict[str, object] = {"uid": uid(), "present": frozenset({pod(epoch=2)}), "linked": True, "kvm_usable": True}
    return Gathered(**{**given, **more})  # type: ignore[arg-type]


def loaded(detail: str = "migration", revert: RevertOrder | None = R1) -> Guest:
    return Guest(uid(), DomainState.PAUSED, told(revert), 1000, Accelerator.TCG, detail)


def names(g: Gathered) -> list[str]:
    return [type(step).__name__ for step in machine.plan(g).steps]


def first(g: Gathered) -> str:
    prepared = ("LinkBerth", "PrepareCgroup", "PrepareMedia", "CreateTaps")
    return next(name for name in names(g) if name not in prepared)


def refusal(g: Gathered) -> str:
    return next(step.code for step in machine.plan(g).steps if isinstance(step, steps.CannotRun))


@pytest.mark.parametrize(
    ("ordered", "kept", "saving", "begins"),
    [
        (told(), THERE, Saving.NONE, "BeginRevert"),
        (told(restore=1), KeptStates(frozenset({1}), snapshots=frozenset({ONE})), Saving.NONE, "BeginRevert"),
        (told(), HALF, Saving.NONE, "BeginRevert"),
        (told(R2), HALF, Saving.NONE, "BeginRevert"),
        (told(R2), DONE, Saving.NONE, "BeginRevert"),
        (told(), DONE, Saving.NONE, "CreatePaused"),
        (told(DISKS), HALF, Saving.REVERTED, "CreatePaused"),
        (told(), THERE, Saving.REVERTING, "WaitFor"),
        (told(None), HALF, Saving.REVERTING, "AbortSave"),
        (told(), THERE, Saving.RESTORING, "AbortSave"),
        (told(save=True), THERE, Saving.REVERTING, "AbortSave"),
        (told(save=True), THERE, Saving.NONE, "ExitBerth"),
    ],
)
def test_what_a_start_begins_with(ordered: Order, kept: KeptStates, saving: Saving, begins: str) -> None:
    assert first(world(order=ordered, kept=kept, saving=saving)) == begins


@pytest.mark.parametrize(
    ("ordered", "kept", "code"),
    [
        (told(), KeptStates(), "SnapshotMissing"),
        (told(None), HALF, "RevertUnfinished"),
        (told(None, restore=1), HALF, "RevertUnfinished"),
        (told(), None, "StateUnreadable"),
    ],
)
def test_what_stops_a_start(ordered: Order, kept: KeptStates | None, code: str) -> None:
    assert refusal(world(order=ordered, kept=kept)) == code


def test_a_revert_that_failed_waits() -> None:
    g = world(order=told(), kept=THERE, restore_failure=("SnapshotCorrupt", "no"))
    assert names(g) == ["CannotRun", "WaitFor"]
    assert refusal(g) == "SnapshotCorrupt"


def test_how_far_it_is_is_told() -> None:
    g = world(order=told(), kept=HALF, saving=Saving.REVERTING, put_back=40)
    assert machine.plan(g).steps[-1].reason.endswith("40 %")


def test_a_domain_that_has_not_run_is_marked_before_it_does() -> None:
    for detail, kept in itertools.product(("migration", "user"), (HALF,)):
        done = names(world(order=told(), guest=loaded(detail), kept=kept))
        assert done.index("UseRevert") < done.index("MarkStarted") < done.index("Resume")


def test_it_runs_when_nobody_orders_the_revert_any_more_and_is_still_marked() -> None:
    done = names(world(order=told(None), guest=loaded(), kept=HALF))
    assert done.index("UseRevert") < done.index("Resume")


def test_it_waits_while_libvirt_reads_or_the_volume_cannot_be_read() -> None:
    assert names(world(order=told(), guest=loaded("starting up"), kept=HALF)) == ["WaitFor"]
    assert names(world(order=told(), guest=loaded("user"), kept=HALF, saving=Saving.REVERTING)) == ["WaitFor"]
    for ordered in (told(), told(None)):
        done = names(world(order=ordered, guest=loaded(), kept=None))
        assert "Resume" not in done
        assert "MarkStarted" not in done


def test_one_that_is_to_stay_paused_is_left_standing() -> None:
    done = names(world(order=told(paused=True), guest=loaded(), kept=HALF))
    assert not {"UseRevert", "Resume"} & set(done)


def test_a_domain_made_without_the_revert_that_is_wanted_goes() -> None:
    assert names(world(order=told(R2), guest=loaded(), kept=HALF)) == ["Destroy"]
    assert names(world(order=told(), guest=loaded("user", None), kept=THERE)) == ["Destroy"]


def test_a_domain_that_was_marked_and_not_resumed_runs() -> None:
    record = StartRecord(2, pod(epoch=2), 1000)
    assert "Resume" in names(world(order=told(), guest=loaded(), record=record))


def test_a_request_is_told_as_carried_out_once_it_is() -> None:
    assert reverting.done(world(kept=HALF), told()) == ""
    assert reverting.done(world(kept=DONE), told()) == "r1"
    assert reverting.done(world(snapshots=KeptSnapshots(reverted="r1")), told()) == "r1"
    assert reverting.done(world(kept=DONE), told(R2)) == ""
    assert reverting.done(world(kept=DONE), told(None)) == ""
