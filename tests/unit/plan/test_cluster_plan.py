"""An observed world becomes steps: one row per situation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from berth.api.order import Emulation, GuestState
from berth.api.virtualmachine import LastExit
from berth.plan.acts import AddFinalizer, CreateBerth, DeleteBerth, RemoveFinalizer, SendOrder, Withdraw
from berth.plan.cluster import UNSETTLED_POLL, plan
from berth.plan.orders import digest, order
from berth.plan.world import FINALIZER, World, parse_time
from tests.unit.plan.cluster_worlds import (
    CLUSTER,
    NODE,
    agent,
    ago,
    bound,
    machine,
    over,
    pod,
    report,
    running,
    silent,
    up,
    with_status,
    world,
)

HELD = {"finalizers": [FINALIZER]}
DELETED = {"finalizers": [FINALIZER], "deletionTimestamp": "2026-03-01T11:59:00Z"}


def steps(seen: World) -> list[str]:
    return [type(step).__name__ for step in plan(seen).steps]


ROWS = [
    ("new", world(), ["AddFinalizer", "CreateBerth"]),
    ("new, kept already", world(machine=machine(metadata=HELD)), ["CreateBerth"]),
    ("off", world(machine=machine(power="Off")), []),
    ("invalid", world(machine=machine(memory={"size": "-1"})), []),
    ("waits for the scheduler", world(pod=pod()), []),
    ("bound", world(pod=bound(), agent=agent()), ["SendOrder"]),
    ("bound, agent silent", world(pod=bound(), agent=silent(60)), []),
    ("runs", running(), ["SendOrder"]),
    ("the agent has told its end", world(pod=up(), agent=agent(report(GuestState.ENDED), present=False)), []),
    ("off while it waits", world(machine=machine(power="Off"), pod=pod()), ["DeleteBerth"]),
    ("off while it runs", world(machine=machine(power="Off"), pod=up(), agent=agent(report())), ["DeleteBerth"]),
    ("off, berth is ending", world(machine=machine(power="Off"), pod=up(deleted=ago(-30)), agent=agent(report())), []),
    ("a pod of somebody else", world(pod=replace(pod(), owner_uid="other")), ["AddFinalizer", "CreateBerth"]),
    ("deleted, with a berth", world(machine=machine(metadata=DELETED), pod=up(), agent=agent()), ["DeleteBerth"]),
    ("deleted, never placed", world(machine=machine(metadata=DELETED)), ["RemoveFinalizer"]),
    ("deleted, not kept by us", world(machine=machine(metadata={**DELETED, "finalizers": ["other"]})), []),
    (
        "order for a berth that has gone",
        world(departed=bound(), agent=agent(report(GuestState.WAITING))),
        ["Withdraw"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "seen", "wanted"), ROWS, ids=[row[0] for row in ROWS])
def test_steps(name: str, seen: World, wanted: list[str]) -> None:
    assert steps(seen) == wanted
    assert all(step.reason for step in plan(seen).steps)


def test_an_order_that_was_accepted_is_not_sent_again() -> None:
    seen = running()
    wanted = order(seen.machine, up(), CLUSTER)
    assert wanted is not None
    done = replace(seen, agent=agent(report(), sent=digest(wanted)))
    assert steps(done) == []
    assert steps(replace(done, machine=machine(power="Paused"))) == ["SendOrder"]


def test_the_place_is_written_down_before_an_order_goes_to_it() -> None:
    fresh = world(pod=bound(), agent=agent())
    assert plan(fresh).record
    assert not plan(with_status(fresh)).record


def test_an_end_is_written_down_before_anything_rests_on_it() -> None:
    seen = replace(running(), pod=over(1), agent=agent(report(GuestState.ENDED)))
    first = plan(seen)
    assert first.record
    assert first.steps == ()
    written = with_status(seen)
    assert steps(written) == []
    assert plan(written).look_again == pytest.approx(5, abs=0.1)  # it ended 5 s ago, the back-off is 10 s
    later = replace(written, now=ago(-10))
    assert steps(later) == ["DeleteBerth"]


def test_the_next_start_has_the_next_epoch() -> None:
    old = {"phase": "Failed", "epoch": 4}
    (_, create) = plan(world(machine=machine(status=old))).steps
    assert isinstance(create, CreateBerth)
    assert create.epoch == 5
    assert create.manifest["metadata"]["annotations"]["berth.dev/epoch"] == "5"
    lost = world(machine=machine(status=old), agent=agent(report(GuestState.ENDED, epoch=7, pod_uid="old")))
    (_, create) = plan(lost).steps
    assert isinstance(create, CreateBerth)
    assert create.epoch == 8


OUTDATED = [
    ("spec", world(machine=machine(memory={"size": "2Gi"}), pod=pod()), "spec.memory.size"),
    ("emulation", world(pod=pod(), cluster=replace(CLUSTER, emulation=Emulation.AUTO)), "emulation"),
    ("image", world(pod=pod(), cluster=replace(CLUSTER, berth_image="new")), "image"),
    ("annotation", world(pod=pod(machine="{")), "spoiled"),
    (
        "cannot start",
        world(machine=machine(boot={"kernel": {"image": "right"}}), pod=up(), agent=agent(report(GuestState.FAILED))),
        "spec.boot.kernel",
    ),
]


@pytest.mark.parametrize(("name", "seen", "why"), OUTDATED, ids=[row[0] for row in OUTDATED])
def test_a_berth_whose_guest_never_ran_is_made_anew(name: str, seen: World, why: str) -> None:
    (step,) = plan(seen).steps
    assert isinstance(step, DeleteBerth)
    assert why in step.reason


def test_a_berth_whose_guest_may_run_is_kept() -> None:
    changed = machine(memory={"size": "2Gi"})
    for said in (agent(report()), silent(3), agent(report(GuestState.STOPPING))):
        assert "DeleteBerth" not in steps(world(machine=changed, pod=up(), agent=said))


GONE = {"phase": "Running", "epoch": 1, "node": NODE, "startedAt": "2026-03-01T11:00:05Z", "berth": "berth-web"}
ASKED = {**GONE, "lastExit": {"reason": "ShutDown", "exitCode": 0, "at": "2026-03-01T11:59:00Z", "epoch": 0}}
ASKED.pop("startedAt")


@pytest.mark.parametrize(
    ("name", "changes", "free"),
    [
        ("the agent says it is not there", {"agent": agent()}, True),
        ("the agent says it has ended", {"agent": agent(report(GuestState.ENDED, pod_uid="old"))}, True),
        ("the agent says it runs", {"agent": agent(report(pod_uid="old"))}, False),
        ("the agent says it shuts down", {"agent": agent(report(GuestState.STOPPING, pod_uid="old"))}, False),
        ("the agent is silent", {"agent": silent(600)}, False),
        ("nobody knows the agent", {"agent": None}, False),
        ("kubelet said it had ended", {"agent": silent(600), "departed": over()}, True),
        ("kubelet never said so", {"agent": silent(600), "departed": up(deleted=ago(60))}, False),
        ("the node is gone", {"agent": silent(600), "node_exists": False}, True),
    ],
)
def test_another_guest_only_when_the_last_place_is_clear(name: str, changes: dict[str, object], free: bool) -> None:
    seen = world(machine=machine(status=ASKED, metadata=HELD), **changes)
    assert steps(seen) == (["CreateBerth"] if free else [])
    leaving = world(machine=machine(status=ASKED, metadata=DELETED), **changes)
    assert steps(leaving) == (["RemoveFinalizer"] if free else [])
    assert free or plan(seen).look_again is not None


def test_a_restart_is_asked_for_once() -> None:
    asked = {"annotations": {"berth.dev/restartedAt": "2026-03-01T11:30:00Z"}}
    seen = world(machine=machine(metadata=asked), pod=up(), agent=agent(report()))
    (step,) = plan(seen).steps
    assert isinstance(step, DeleteBerth)
    assert plan(seen).record
    answer = replace(seen, pod=up(owner=seen.machine, created=parse_time("2026-03-01T11:30:00Z")))
    assert steps(answer) == ["SendOrder"]


def test_a_restart_asked_for_in_the_second_in_which_the_berth_is_made_is_one_restart() -> None:
    """Kubernetes keeps creation times in whole seconds, so times cannot tell: the berth carries the request itself."""
    asked = {"annotations": {"berth.dev/restartedAt": "2026-03-01T11:30:00.750Z"}}
    made = parse_time("2026-03-01T11:30:00Z")
    seen = world(machine=machine(metadata=asked), agent=agent(report()))
    assert steps(replace(seen, pod=up(created=made))) == ["DeleteBerth"]
    assert steps(replace(seen, pod=up(owner=seen.machine, created=made))) == ["SendOrder"]


def test_an_exit_that_the_policy_leaves_alone_keeps_its_berth_for_the_log() -> None:
    ended = LastExit(reason="GuestPoweroff", exit_code=0, at="2026-03-01T11:59:55Z", epoch=1)
    stored = {"phase": "Stopped", "epoch": 1, "startedAt": "2026-03-01T11:00:05Z",
              "lastExit": ended.model_dump(by_alias=True)}  # fmt: skip
    seen = world(machine=machine(status=stored, restart="Never"), pod=over(), agent=agent(report(GuestState.ENDED)))
    assert steps(seen) == []
    asked = {"annotations": {"berth.dev/restartedAt": "2026-03-01T11:59:59Z"}}
    again = replace(seen, machine=machine(status=stored, restart="Never", metadata=asked))
    assert steps(again) == ["DeleteBerth"]
    off = with_status(replace(seen, machine=machine(status=stored, restart="Never", power="Off")))
    assert steps(off) == ["DeleteBerth"]


def test_every_kind_of_step_is_met_here() -> None:
    met = {type(step) for _, seen, _ in ROWS for step in plan(seen).steps}
    assert met == {AddFinalizer, RemoveFinalizer, CreateBerth, DeleteBerth, SendOrder, Withdraw}


def test_only_a_start_waits_for_agents_that_have_not_told() -> None:
    unsettled = replace(CLUSTER, settled=False)
    assert plan(world(cluster=unsettled)).look_again == UNSETTLED_POLL
    well = replace(running(), cluster=unsettled)
    assert plan(well).look_again is None, "ten thousand that run would be looked at twice a second"
