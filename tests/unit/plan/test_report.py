"""The Report of a machine, from what was gathered and what came of the plan: state by state, failure by failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from berth.api.order import Fate, FateReason, GuestState, NicReport, OrderPower, Report
from berth.api.virtualmachine import ConditionStatus, GuestInfo
from berth.domain.host import Accelerator
from berth.domain.observed import DomainState, Guest, StartRecord
from berth.plan import steps
from berth.plan.gathered import Gathered
from berth.plan.report import Failure, Progress, report
from berth.plan.steps import Plan, Step
from tests.unit.agent.orders import order, pod, uid

ORDER = order()
RECORD = StartRecord(1, pod(), 7, ORDER.namespace, ORDER.name, "2026-01-01T00:00:00Z")
RUNNING = Guest(uid(), DomainState.RUNNING, ORDER, 7, Accelerator.TCG)
FATE = Fate(reason=FateReason.GUEST_PANICKED, exit_code=1, message="it panicked", at="2026-01-01T00:01:00Z")

ABSENT = Gathered(uid(), order=ORDER, present=frozenset({pod()}))
UP = replace(ABSENT, guest=RUNNING, record=RECORD, network=ORDER.machine.nics, linked=True)
ENDED = replace(ABSENT, record=RECORD, fate=FATE)


def told(g: Gathered, p: Progress | None = None) -> Report:
    found = report(g, p or Progress())
    assert found is not None
    return found


def condition(found: Report, kind: str) -> tuple[ConditionStatus, str, str]:
    return next((c.status, c.reason, c.message) for c in found.conditions if c.type == kind)


def fails(step: Step, reason: str = "Broken") -> Progress:
    return Progress(plan=Plan((step,)), failure=Failure(step, reason, "why"))


@pytest.mark.parametrize(
    ("g", "state"),
    [
        (Gathered(uid(), order=ORDER), GuestState.WAITING),
        (ABSENT, GuestState.PREPARING),
        (UP, GuestState.RUNNING),
        (replace(UP, shutdown_asked=True), GuestState.STOPPING),
        (replace(UP, guest=replace(RUNNING, state=DomainState.PAUSED)), GuestState.PAUSED),
        (replace(UP, guest=replace(RUNNING, state=DomainState.PAUSED), record=None), GuestState.STARTING),
        (replace(UP, guest=replace(RUNNING, state=DomainState.SHUTTING_DOWN)), GuestState.STOPPING),
        (ENDED, GuestState.ENDED),
        (replace(ABSENT, hypervisor=False), GuestState.WAITING),
    ],
)
def test_the_state(g: Gathered, state: GuestState) -> None:
    found = told(g)
    assert (found.state, found.uid, found.name, found.pod_uid) == (state, uid(), "vm-1", pod())
    assert [c.type for c in found.conditions] == ["DisksReady", "NetworkReady", "GuestRunning"]


def test_a_running_guest() -> None:
    found = told(UP, Progress(guest=GuestInfo(agent_connected=True, hostname="web")))
    assert all(c.status is ConditionStatus.TRUE for c in found.conditions)
    assert (found.accelerator, found.started_at, found.fate) == ("tcg", RECORD.at, None)
    assert found.guest is not None
    assert found.guest.hostname == "web"


@pytest.mark.parametrize(
    ("step", "state"),
    [
        (steps.PrepareMedia(ORDER, ""), GuestState.PREPARING),
        (steps.CreatePaused(ORDER, ""), GuestState.STARTING),
        (steps.AttachNetwork(ORDER, ""), GuestState.STARTING),
    ],
)
def test_what_is_being_done(step: Step, state: GuestState) -> None:
    assert told(ABSENT, Progress(doing=step)).state is state


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (steps.PrepareMedia(ORDER, ""), "DisksReady"),
        (steps.CreateTaps(ORDER, ""), "NetworkReady"),
        (steps.AttachNetwork(ORDER, ""), "NetworkReady"),
        (steps.CreatePaused(ORDER, ""), "GuestRunning"),
        (steps.PrepareCgroup(ORDER, ""), "GuestRunning"),
    ],
)
def test_a_failure_is_told_where_it_belongs(step: Step, kind: str) -> None:
    found = told(ABSENT, fails(step))
    assert found.state is GuestState.FAILED
    assert condition(found, kind) == (ConditionStatus.FALSE, "Broken", "why")
    if kind != "GuestRunning":
        assert condition(found, "GuestRunning")[1] == "NotReady"


def test_a_network_that_fails_beside_a_running_guest_leaves_it_running() -> None:
    found = told(replace(UP, network=None), fails(steps.ServeNetwork(ORDER, "")))
    assert found.state is GuestState.RUNNING
    assert condition(found, "NetworkReady")[:2] == (ConditionStatus.FALSE, "Broken")


def test_a_guest_that_cannot_be_let_run_is_not_called_paused() -> None:
    g = replace(UP, guest=replace(RUNNING, state=DomainState.PAUSED))
    assert told(g, fails(steps.Resume(""))).state is GuestState.FAILED


def test_kvm_that_is_missing_is_told() -> None:
    found = told(ABSENT, Progress(plan=Plan((steps.CannotRun("KvmNotUsable", "no KVM here"),))))
    assert found.state is GuestState.FAILED
    assert condition(found, "GuestRunning") == (ConditionStatus.FALSE, "KvmNotUsable", "no KVM here")


def test_a_full_disk_is_told() -> None:
    found = told(replace(UP, guest=replace(RUNNING, state=DomainState.PAUSED, detail="ioerror")))
    assert condition(found, "DisksReady")[:2] == (ConditionStatus.FALSE, "IoError")


def test_an_end_is_told_with_its_cause() -> None:
    found = told(ENDED)
    assert found.fate == FATE
    assert condition(found, "GuestRunning") == (ConditionStatus.FALSE, "GuestPanicked", "it panicked")


def test_an_end_is_told_without_an_order_when_the_record_names_the_machine() -> None:
    found = told(replace(ENDED, order=None))
    assert (found.namespace, found.name, found.epoch) == (ORDER.namespace, ORDER.name, 1)
    assert report(replace(ENDED, order=None, record=StartRecord(1, pod(), 7)), Progress()) is None


def test_the_report_is_about_the_start_that_is_there() -> None:
    newer = order(epoch=2, power=OrderPower.PAUSED)
    found = told(replace(UP, order=newer))
    assert (found.epoch, found.pod_uid, found.state) == (1, pod(), GuestState.RUNNING)
    assert told(replace(ENDED, order=newer)).epoch == 1


@pytest.mark.parametrize(
    ("before", "state"),
    [
        (GuestState.RUNNING, GuestState.RUNNING),
        (GuestState.PAUSED, GuestState.PAUSED),
        (GuestState.ENDED, GuestState.ENDED),
        (GuestState.FAILED, GuestState.WAITING),
        (GuestState.PREPARING, GuestState.WAITING),
    ],
)
def test_without_libvirtd_what_was_seen_last_is_told(before: GuestState, state: GuestState) -> None:
    last = told(UP).model_copy(update={"state": before})
    found = told(replace(UP, hypervisor=False), Progress(before=last))
    assert found.state is state
    assert condition(found, "GuestRunning")[:2] == (ConditionStatus.UNKNOWN, "HypervisorDown")


def test_what_was_said_of_another_berth_does_not_count() -> None:
    last = told(UP).model_copy(update={"pod_uid": pod(9)})
    assert told(replace(ABSENT, hypervisor=False), Progress(before=last)).state is GuestState.WAITING


def test_nothing_is_told_of_a_machine_without_a_name() -> None:
    assert report(Gathered(uid()), Progress()) is None


ENDING = replace(UP, guest=replace(RUNNING, state=DomainState.CRASHED))


def test_a_guest_that_goes_by_itself_was_not_asked_to() -> None:
    running = told(UP)
    found = told(ENDING, Progress(before=running))
    assert found.state is GuestState.RUNNING  # until it is known how it ended
    assert condition(found, "GuestRunning")[:2] == (ConditionStatus.FALSE, "GuestEnding")
    assert "asked" not in condition(found, "GuestRunning")[2]
    assert told(ENDING).state is GuestState.STOPPING  # an agent that just came knows no better
    assert "asked" not in condition(told(ENDING), "GuestRunning")[2]


def test_a_guest_that_was_asked_to_go_is_said_to_be() -> None:
    found = told(replace(ENDING, shutdown_asked=True), Progress(before=told(UP)))
    assert (found.state, condition(found, "GuestRunning")[1]) == (GuestState.STOPPING, "ShuttingDown")


@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.PAUSED])
def test_what_the_guest_says_of_its_interfaces_is_told_while_it_lives(state: DomainState) -> None:
    said = Progress(guest_nics=(NicReport(mac="52:54:00:00:00:01", name="eth0", addresses=("10.0.2.2",)),))
    assert told(replace(UP, guest=replace(RUNNING, state=state)), said).guest_nics == said.guest_nics
    assert told(ENDED, said).guest_nics == ()
