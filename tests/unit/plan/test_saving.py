"""Saving and restoring as plans: in every world, no guest runs on beside its state, and none is used without a mark."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from berth.api.kept import StateOrder
from berth.api.order import Order
from berth.domain.host import Accelerator
from berth.domain.observed import DomainState, Guest, KeptStates, StartRecord
from berth.plan import machine, steps
from berth.plan.gathered import Gathered, Saving
from tests.unit.agent.orders import order, pod, uid

FOLDER = "/berth/saved"
WHOLE, OLD, EMPTY = KeptStates(frozenset({2})), KeptStates(frozenset({1})), KeptStates()
USED = KeptStates(used=frozenset({1}))


def told(*, save: bool = False, restore: int | None = None, sure: bool = True) -> Order:
    state = StateOrder(folder=FOLDER, save=save, restore=restore, sure=sure)
    return order(epoch=2).model_copy(update={"state": state})


def guest(state: DomainState, detail: str = "", *, restore: int | None = None) -> Guest:
    return Guest(uid(), state, told(restore=restore), 1000, Accelerator.TCG, detail)


RECORD = StartRecord(2, pod(epoch=2), 1000)


def world(**more: object) -> Gathered:
    given: dict[str, object] = {"uid": uid(), "present": frozenset({pod(epoch=2)}), "linked": True, "kvm_usable": True}
    return Gathered(**{**given, **more})  # type: ignore[arg-type]


def names(g: Gathered) -> list[str]:
    return [type(step).__name__ for step in machine.plan(g).steps]


def worlds() -> Iterator[Gathered]:
    """Of a guest that ran."""
    orders = (told(save=True), told(), None)
    states = ((DomainState.RUNNING, ""), (DomainState.PAUSED, "user"), (DomainState.PAUSED, "migration"))
    kept = (None, EMPTY, WHOLE, OLD)
    for given, (state, detail), what, begun, saving, ends in itertools.product(
        orders, states, kept, (False, True), Saving, (False, True)
    ):
        yield world(
            order=given,
            guest=guest(state, detail),
            record=RECORD,
            kept=what,
            save_begun=begun,
            saving=saving,
            shutdown_asked=ends,
        )


@pytest.mark.parametrize("saving", Saving)
def test_no_guest_runs_on_that_is_saved_or_may_be(saving: Saving) -> None:
    for g in worlds():
        if g.saving is not saving:
            continue
        done = names(g)
        may_be_whole = g.save_begun and (g.kept is None or 2 in g.kept.complete)
        if g.saving is Saving.BUSY or may_be_whole:
            assert "Resume" not in done, g
            assert "PressPowerButton" not in done, g
        destroyed = [step for step in machine.plan(g).steps if isinstance(step, steps.Destroy) and step.code == "Saved"]
        if destroyed:
            assert g.save_begun, g
            assert g.kept is not None, g
            assert 2 in g.kept.complete, g


def test_it_is_saved_once_and_not_again_right_after_a_failure() -> None:
    asked = {"order": told(save=True), "guest": guest(DomainState.RUNNING), "record": RECORD}
    assert "BeginSave" in names(world(**asked))
    assert "BeginSave" not in names(world(**asked, saving=Saving.BUSY))
    assert "BeginSave" not in names(world(**asked, saving=Saving.FAILED))
    assert names(world(**asked, save_begun=True, kept=EMPTY)) == ["ScrapState"]
    assert names(world(**asked, save_begun=True, kept=WHOLE)) == ["Destroy"]
    assert names(world(**asked, save_begun=True)) == ["WaitFor"]


def test_a_failed_save_lets_it_run_on() -> None:
    stopped = guest(DomainState.PAUSED, "user")
    assert "Resume" in names(world(order=told(save=True), guest=stopped, record=RECORD, saving=Saving.FAILED))


def test_a_whole_state_goes_when_its_guest_is_to_run_on_and_stays_while_nobody_says_so() -> None:
    begun = {"guest": guest(DomainState.PAUSED, "user"), "record": RECORD, "save_begun": True, "kept": WHOLE}
    assert names(world(order=told(), **begun)) == ["ScrapState"]
    assert names(world(**begun)) == ["Destroy"]
    assert names(world(order=told(), shutdown_asked=True, **begun)) == ["Destroy"]


@pytest.mark.parametrize("detail", ["migration", "starting up"])
def test_a_restored_guest_is_marked_before_it_runs_and_not_before_all_of_it_is_here(detail: str) -> None:
    g = world(order=told(restore=1), guest=guest(DomainState.PAUSED, detail, restore=1), kept=OLD)
    done = names(g)
    if detail == "starting up":
        assert done == ["WaitFor"]
    else:
        assert done.index("AttachNetwork") < done.index("UseState") < done.index("MarkStarted") < done.index("Resume")
        assert done.index("Resume") < done.index("ScrapState")


def test_a_restored_guest_does_not_run_while_its_state_cannot_be_marked() -> None:
    done = names(world(order=told(restore=1), guest=guest(DomainState.PAUSED, "migration", restore=1)))
    assert "Resume" not in done
    assert "MarkStarted" not in done


def test_a_restored_guest_that_was_marked_and_not_resumed_is_resumed() -> None:
    stands = guest(DomainState.PAUSED, "migration", restore=1)
    assert "Resume" in names(world(order=told(restore=1), guest=stands, record=RECORD))
    other = guest(DomainState.PAUSED, "migration")
    assert "Resume" not in names(world(order=told(), guest=other, record=RECORD))


@pytest.mark.parametrize(
    ("kept", "sure", "first"),
    [
        (OLD, True, "BeginRestore"),
        (USED, True, "CreatePaused"),
        (EMPTY, False, "CreatePaused"),
        (EMPTY, True, "CannotRun"),
        (None, True, "CannotRun"),
        (WHOLE, False, "ScrapState"),
    ],
)
def test_what_a_start_begins_with(kept: KeptStates | None, sure: bool, first: str) -> None:
    done = names(world(order=told(restore=1, sure=sure), kept=kept))
    prepared = ("LinkBerth", "PrepareCgroup", "PrepareMedia", "CreateTaps")
    assert next(name for name in done if name not in prepared) == first
    if first == "BeginRestore":
        assert done[-1] == "WaitFor"


def test_a_restore_that_failed_waits_and_one_under_way_is_ended_with_its_pod() -> None:
    failed = world(order=told(restore=1), kept=OLD, restore_failure=("RestoreFailed", "no"))
    assert names(failed) == ["CannotRun", "WaitFor"]
    reads = world(order=told(restore=1), kept=OLD, saving=Saving.RESTORING)
    assert names(reads) == ["WaitFor"]
    ends = world(order=told(restore=1), kept=OLD, saving=Saving.RESTORING, shutdown_asked=True)
    assert names(ends)[:2] == ["AbortSave", "ExitBerth"]
