"""Snapshots taken and reverted to, on agents over nodes in memory: also with the agent killed at any call."""

from __future__ import annotations

import pytest

from berth.api.kept import Consistency, RevertOrder, SnapshotOrder, SnapshotReport, SnapshotState, StateOrder
from berth.api.order import DiskKind, DiskOrder, GuestState, Order, OrderPower, Report
from berth.errors import HostFault
from berth.plan import reverting
from tests.scenario.agent_scene import Scene, play
from tests.unit.agent.orders import order, pod, uid

FOLDER = "/berth/saved"
ONE, TWO = ("11111111-0000-4000-8000-000000000001", "11111111-0000-4000-8000-000000000002")
FULL = HostFault("libvirt did not write it: No space left on device", reason="VolumeFull")
TAKING_CALLS = range(1, 27)
REVERTING_CALLS = range(1, 27)


def told(epoch: int = 1, *, power: OrderPower = OrderPower.RUNNING, **state: object) -> Order:
    given = StateOrder(folder=FOLDER, **state)  # type: ignore[arg-type]
    return order(epoch=epoch, power=power).model_copy(update={"state": given})


def take(uid: str = ONE, *, memory: bool = True) -> SnapshotOrder:
    return SnapshotOrder(uid=uid, name="before", memory=memory)


def back(request: str = "r1", snapshot: str = ONE, *, memory: bool = True) -> RevertOrder:
    return RevertOrder(request=request, snapshot=snapshot, name="before", memory=memory)


async def runs(scene: Scene, epoch: int = 1, **state: object) -> None:
    scene.node.start_pod(pod(epoch=epoch))
    if scene.agent is None:
        await scene.start_agent()
    await scene.order(told(epoch, **state))
    await scene.state(GuestState.RUNNING)


def snapshot(scene: Scene) -> SnapshotReport | None:
    report = scene.report()
    return report.snapshot if report is not None else None


async def until(scene: Scene, state: SnapshotState, seconds: float = 120) -> SnapshotReport:
    def seen() -> bool:
        found = snapshot(scene)
        return found is not None and found.state is state

    await scene.until(seen, seconds, f"{state}, and not {snapshot(scene)}")
    found = snapshot(scene)
    assert found is not None
    return found


async def taken(scene: Scene, **more: object) -> SnapshotReport:
    await runs(scene)
    await scene.order(told(snapshot=take(**more)))  # type: ignore[arg-type]
    return await until(scene, SnapshotState.READY)


async def ended(scene: Scene, epoch: int = 1) -> None:
    scene.node.end(uid())
    await scene.gone()
    assert scene.node.exits[pod(epoch=epoch)] is not None


def nothing_left(scene: Scene) -> bool:
    drafts = [key for key, told in scene.volume.snapshots.items() if told is None]
    return not (drafts or scene.snapshots.marks or scene.backups.running or scene.backups.frozen)


def condition(report: Report, kind: str = "GuestRunning") -> str:
    return {c.type: c.reason for c in report.conditions}[kind]


def test_memory_is_saved_while_it_stands_still_and_disks_are_copied_while_it_runs() -> None:
    async def story(scene: Scene) -> None:
        ready = await taken(scene)
        log = [line for line in scene.log if line in ("suspend", "save", "activate", "backup", "resume")]
        assert log[-5:] == ["suspend", "save", "activate", "backup", "resume"]
        assert scene.log.index("finish_snapshot") > scene.log.index("backup")
        assert (ready.consistency, ready.memory_bytes, ready.uid) == (Consistency.MEMORY, 1, ONE)
        assert [(disk.name, disk.size_bytes) for disk in ready.disks] == [("data", 1 << 20)]
        assert ready.pause_ms is not None
        assert ready.taken_at is not None
        assert scene.runs()
        assert nothing_left(scene)
        await scene.wait(100)
        assert scene.log.count("draft_snapshot") == 1

    play(story)


def test_a_snapshot_that_is_there_is_told_by_the_next_agent_too() -> None:
    async def story(scene: Scene) -> None:
        ready = await taken(scene)
        await scene.restart_agent(told(snapshot=take()))
        assert await until(scene, SnapshotState.READY) == ready
        assert scene.log.count("draft_snapshot") == 1

    play(story)


def test_a_paused_guest_stays_so() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        await scene.order(told(power=OrderPower.PAUSED))
        await scene.state(GuestState.PAUSED)
        await scene.order(told(power=OrderPower.PAUSED, snapshot=take()))
        ready = await until(scene, SnapshotState.READY)
        assert ready.pause_ms is None
        assert scene.log.count("resume") == 1

    play(story)


@pytest.mark.parametrize("agent", [True, False])
def test_disks_alone_are_taken_without_a_pause_and_held_still_by_the_guests_agent(agent: bool) -> None:
    async def story(scene: Scene) -> None:
        scene.backups.agent = agent
        ready = await taken(scene, memory=False)
        assert "suspend" not in scene.log
        assert ready.consistency is (Consistency.FILESYSTEM if agent else Consistency.CRASH)
        assert (ready.memory_bytes, ready.pause_ms) == (0, None)
        if agent:
            assert scene.log.index("freeze") < scene.log.index("backup") < scene.log.index("thaw")
        assert nothing_left(scene)

    play(story)


def test_a_guest_whose_agent_falls_silent_is_thawed_when_it_answers() -> None:
    async def story(scene: Scene) -> None:
        scene.backups.silent = 20
        ready = await taken(scene, memory=False)
        assert ready.consistency is Consistency.CRASH
        assert nothing_left(scene)

    play(story)


@pytest.mark.parametrize("broken", ["draft_snapshot", "save", "activate", "backup", "finish_snapshot"])
def test_what_fails_costs_the_snapshot_alone(broken: str) -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.node.failing[broken] = FULL
        await scene.order(told(snapshot=take()))
        failed = await until(scene, SnapshotState.FAILED)
        assert failed.reason == "VolumeFull"
        assert "No space left" in failed.message
        await scene.until(scene.runs)
        assert nothing_left(scene)
        del scene.node.failing[broken]
        await scene.wait(400)
        assert await until(scene, SnapshotState.FAILED) == failed  # for ever: another attempt is another snapshot
        await scene.order(told(snapshot=take(TWO)))
        assert (await until(scene, SnapshotState.READY)).uid == TWO

    play(story)


def test_one_that_hangs_is_given_up_after_an_hour() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.hanging = {"save"}
        await scene.order(told(snapshot=take()))
        await scene.wait(3500)
        assert not scene.runs()
        await scene.until(scene.runs, seconds=200)
        assert (await until(scene, SnapshotState.FAILED)).reason == "DeadlineExceeded"
        assert nothing_left(scene)

    play(story)


def test_copies_that_go_on_are_not_given_up_however_long_they_take() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.backups.looks = 20_000  # nearly three hours
        await scene.order(told(snapshot=take()))
        await until(scene, SnapshotState.READY, 12_000)

    play(story)


@pytest.mark.parametrize("moment", ["draft_snapshot", "save", "backup"])
def test_one_that_is_not_ordered_any_more_is_given_up(moment: str) -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.backups.looks = 100
        await scene.order(told(snapshot=take()))
        await scene.until(lambda: moment in scene.log, step=0.0001)
        await scene.order(told())
        await scene.until(lambda: nothing_left(scene))
        await scene.until(scene.runs)
        assert not scene.volume.snapshots
        assert snapshot(scene) is None

    play(story)


def test_it_is_suspended_only_once_the_copies_are_given_up() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.backups.looks = 100
        await scene.order(told(snapshot=take()))
        await until(scene, SnapshotState.COPYING)
        await scene.order(told(snapshot=take(), save=True))
        await scene.gone()
        assert scene.log.index("abort_backup") < scene.log.index("draft")
        assert scene.volume.complete == {(uid(), 1)}
        assert nothing_left(scene)

    play(story)


def test_a_berth_that_is_to_end_meanwhile_gets_its_guest_shut_down() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.backups.looks = 10_000
        await scene.order(told(snapshot=take()))
        await until(scene, SnapshotState.COPYING)
        scene.node.terminate_pod(pod())
        await scene.gone()
        assert "press_power_button" in scene.log
        assert not scene.volume.complete

    play(story)


def test_a_guest_that_ends_meanwhile_ends_as_any_other() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.backups.looks = 10_000
        await scene.order(told(snapshot=take()))
        await until(scene, SnapshotState.COPYING)
        scene.node.end(uid())
        await scene.gone()
        assert [fate.reason.value for fate in scene.fates()] == ["GuestPoweroff"]
        assert not [told for told in scene.volume.snapshots.values() if told is not None]

    play(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("memory", [True, False], ids=["memory", "disks"])
@pytest.mark.parametrize("at", TAKING_CALLS)
def test_killed_at_any_call_of_taking_one(at: int, memory: bool, after: bool) -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        await scene.order(told(snapshot=take(memory=memory)))
        await scene.wait(5)
        await scene.restart_agent(told(snapshot=take(memory=memory)))
        await until(scene, SnapshotState.READY)
        await scene.until(scene.runs)
        assert nothing_left(scene)
        assert not scene.fates()

    play(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", TAKING_CALLS)
def test_killed_at_any_call_and_not_ordered_by_anybody_any_more(at: int, after: bool) -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        await scene.order(told(snapshot=take(memory=at % 2 == 0)))
        await scene.wait(5)
        await scene.restart_agent()
        await scene.until(scene.runs)
        await scene.until(lambda: nothing_left(scene))
        assert not scene.fates()

    play(story)


def test_deleted_ones_are_removed_and_told_when_nothing_is_there_any_more() -> None:
    async def story(scene: Scene) -> None:
        await taken(scene)
        scene.node.failing["forget_snapshots"] = FULL
        await scene.order(told(forget=(ONE, TWO)))
        await scene.wait(1)
        report = scene.report()
        assert report is not None
        assert report.forgotten == (TWO,)
        assert report.state is GuestState.RUNNING
        del scene.node.failing["forget_snapshots"]
        await scene.until(lambda: (scene.report() or report).forgotten == (ONE, TWO))
        assert not scene.volume.snapshots

    play(story)


def test_a_start_begins_with_a_snapshot_once() -> None:
    async def story(scene: Scene) -> None:
        await taken(scene)
        await ended(scene)
        scene.volume.complete = {(uid(), 1)}  # a state that must never meet these disks
        before = len(scene.log)
        await runs(scene, 2, revert=back(), restore=1)
        log = scene.log[before:]
        assert "create_paused" not in log[: log.index("restore")]
        order = ["begin_revert", "put_back", "restore", "attach", "use_revert", "record_start", "resume"]
        assert [line for line in log if line in order] == order
        assert scene.volume.disks == {uid(): ONE}
        assert not scene.volume.complete
        assert not scene.volume.reverting
        report = scene.report()
        assert report is not None
        assert report.reverted == "r1"
        await scene.until(lambda: "set_clock" in scene.log)
        await scene.restart_agent(told(2, revert=back()))
        await scene.until(lambda: (scene.report() or report).reverted == "r1")
        await ended(scene, 2)
        await runs(scene, 3, revert=back())
        assert scene.log.count("put_back") == 1
        await ended(scene, 3)
        await runs(scene, 4, revert=back("r2"))
        assert scene.log.count("put_back") == 2

    play(story)


def test_disks_alone_are_put_back_and_it_boots() -> None:
    async def story(scene: Scene) -> None:
        await taken(scene, memory=False)
        await ended(scene)
        await runs(scene, 2, revert=back(memory=False))
        assert "restore" not in scene.log
        assert scene.log.count("put_back") == 1
        assert scene.volume.reverted == {uid(): "r1"}
        assert not scene.states.clocks

    play(story)


def test_a_reverted_machine_that_is_to_stay_paused_may_be_reverted_again() -> None:
    async def story(scene: Scene) -> None:
        await taken(scene)
        await ended(scene)
        scene.node.start_pod(pod(epoch=2))
        await scene.order(told(2, power=OrderPower.PAUSED, revert=back()))
        await scene.state(GuestState.PAUSED)
        assert scene.volume.reverting
        await scene.order(told(2, power=OrderPower.PAUSED, revert=back("r2")))
        await scene.until(lambda: scene.log.count("put_back") == 2)
        await scene.order(told(2, revert=back("r2")))
        await scene.state(GuestState.RUNNING)
        assert scene.volume.reverted == {uid(): "r2"}

    play(story)


def test_one_that_is_not_there_or_not_what_was_taken_stops_the_start_and_changes_nothing() -> None:
    async def story(scene: Scene) -> None:
        await taken(scene)
        await ended(scene)
        scene.node.start_pod(pod(epoch=2))
        await scene.order(told(2, revert=back(snapshot=TWO)))
        assert condition(await scene.state(GuestState.FAILED)) == "SnapshotMissing"
        scene.volume.spoiled = {ONE}
        await scene.order(told(2, revert=back()))
        await scene.until(lambda: condition(scene.report()) == "SnapshotCorrupt")  # type: ignore[arg-type]
        assert not scene.volume.reverting
        assert "put_back" not in scene.log
        scene.volume.spoiled = set()
        await scene.until(scene.runs, seconds=reverting.RESTORE_AGAIN + 10)

    play(story)


def test_disks_that_the_machine_has_not_any_more_are_missed_before_anything_is_written() -> None:
    async def story(scene: Scene) -> None:
        await taken(scene)
        await ended(scene)
        scene.node.start_pod(pod(epoch=2))
        given = told(2, revert=back())
        await scene.order(given.model_copy(update={"machine": given.machine.model_copy(update={"disks": ()})}))
        assert condition(await scene.state(GuestState.FAILED)) == "DiskMissing"
        assert not scene.volume.reverting

    play(story)


def test_a_disk_that_the_memory_knows_nothing_of_is_refused_before_anything_is_written() -> None:
    async def story(scene: Scene) -> None:
        await taken(scene)
        await ended(scene)
        scene.node.start_pod(pod(epoch=2))
        given = told(2, revert=back())
        disks = (*given.machine.disks, DiskOrder(name="more", kind=DiskKind.EMPTY, size_bytes=1 << 20))
        await scene.order(given.model_copy(update={"machine": given.machine.model_copy(update={"disks": disks})}))
        assert condition(await scene.state(GuestState.FAILED)) == "DiskAdded"
        assert not scene.volume.reverting

    play(story)


def test_disks_that_are_half_put_back_are_started_by_a_revert_alone() -> None:
    async def story(scene: Scene) -> None:
        await taken(scene)
        await ended(scene)
        scene.node.failing["put_back"] = FULL
        scene.node.start_pod(pod(epoch=2))
        await scene.order(told(2, revert=back()))
        assert condition(await scene.state(GuestState.FAILED)) == "VolumeFull"
        await scene.order(told(2))
        await scene.until(lambda: condition(scene.report()) == "RevertUnfinished")  # type: ignore[arg-type]
        assert "create_paused" not in scene.log[scene.log.index("exit") :]
        del scene.node.failing["put_back"]
        await scene.order(told(2, revert=back("r2")))
        await scene.state(GuestState.RUNNING)
        assert scene.volume.reverted == {uid(): "r2"}
        assert scene.volume.disks == {uid(): ONE}

    play(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("memory", [True, False], ids=["memory", "disks"])
@pytest.mark.parametrize("at", REVERTING_CALLS)
def test_killed_at_any_call_of_a_revert(at: int, memory: bool, after: bool) -> None:
    async def story(scene: Scene) -> None:
        await taken(scene)
        await ended(scene)
        scene.node.start_pod(pod(epoch=2))
        before = len(scene.log)
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        await scene.order(told(2, revert=back(memory=memory)))
        await scene.wait(5)
        await scene.restart_agent(told(2, revert=back(memory=memory)))
        await scene.state(GuestState.RUNNING)
        await scene.wait(100)
        log = scene.log[before:]
        assert log.count("restore") == (1 if memory else 0)
        assert log.index("use_revert") < log.index("resume")
        assert scene.volume.disks == {uid(): ONE}
        assert scene.volume.reverted == {uid(): "r1"}
        assert not scene.volume.reverting
        assert not scene.states.clocks
        report = scene.report()
        assert report is not None
        assert report.reverted == "r1"

    play(story)
