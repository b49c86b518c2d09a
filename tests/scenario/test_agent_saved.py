"""A machine that is suspended and restored, on agents over nodes in memory: also with the agent killed at any call."""

from __future__ import annotations

import pytest

from berth.api.kept import StateOrder
from berth.api.order import FateReason, GuestState, Order, OrderPower
from berth.effects.memory import MemoryNode
from berth.errors import HostFault
from tests.scenario.agent_scene import Scene, play
from tests.unit.agent.orders import order, pod, uid

FOLDER = "/berth/saved"
KEPT = StateOrder(folder=FOLDER)
SAVE = StateOrder(folder=FOLDER, save=True)
FULL = HostFault("the volume for its state: No space left on device", reason="VolumeFull")
SAVING_CALLS = range(1, 41)
RESTORING_CALLS = range(1, 36)


def told(epoch: int = 1, state: StateOrder = KEPT, **changes: object) -> Order:
    return order(epoch=epoch).model_copy(update={"state": state, **changes})


def restore(saved: int = 1, *, sure: bool = True) -> StateOrder:
    return StateOrder(folder=FOLDER, restore=saved, sure=sure)


async def runs(scene: Scene, epoch: int = 1, state: StateOrder = KEPT) -> None:
    scene.node.start_pod(pod(epoch=epoch))
    if scene.agent is None:
        await scene.start_agent()
    await scene.order(told(epoch, state))
    await scene.state(GuestState.RUNNING)


async def saved(scene: Scene, epoch: int = 1) -> None:
    await runs(scene, epoch)
    await scene.order(told(epoch, SAVE))
    await scene.gone()


def nothing_left(scene: Scene) -> bool:
    return not (scene.volume.drafts or scene.volume.complete or scene.states.marks)


def other_node(scene: Scene) -> None:
    """The next node knows nothing; the volume is the same."""
    log, marks = scene.node.log, scene.node.folder_marks
    for kind in marks:
        kind.clear()
    scene.node = MemoryNode(log=log, folder_marks=marks)
    scene.states.did = scene.node.did


def test_it_is_saved_while_it_stands_still_and_its_berth_ends_as_saved() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        log = scene.log
        assert log.index("suspend") < log.index("save") < log.index("finish") < log.index("destroy") < log.index("exit")
        assert scene.volume.complete == {(uid(), 1)}
        assert scene.node.exits == {pod(): 0}
        assert [fate.reason for fate in scene.fates()] == [FateReason.SAVED]
        assert scene.clean()

    play(story)


def test_the_disk_that_only_its_node_has_goes_along() -> None:
    """It is copied while the guest stands still, and put back before its memory comes."""

    async def story(scene: Scene) -> None:
        await saved(scene)
        log = scene.log
        assert log.index("save") < log.index("activate") < log.index("backup") < log.index("finish")
        assert [disk.name for disk in scene.volume.state_disks[uid(), 1]] == ["data"]
        await scene.kill_agent()
        other_node(scene)
        before = len(scene.log)
        await runs(scene, 2, restore())
        log = scene.log[before:]
        assert log.index("put_back") < log.index("restore")
        assert scene.volume.disks[uid()] == "start 1"

    play(story)


def test_a_copy_that_fails_lets_it_run_on_and_leaves_nothing() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.node.failing["backup"] = HostFault("libvirt did not begin to copy", reason="SnapshotFailed")
        await scene.order(told(state=SAVE))
        await scene.until(lambda: "save" in scene.log)
        await scene.until(scene.runs)
        assert nothing_left(scene)
        assert not scene.backups.running

    play(story)


def test_another_node_restores_it_marks_the_state_used_before_it_runs_and_sets_its_clock() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        await scene.kill_agent()
        other_node(scene)
        before = len(scene.log)
        await runs(scene, 2, restore())
        log = scene.log[before:]
        assert "create_paused" not in log[: log.index("restore")]
        assert log.index("restore") < log.index("attach") < log.index("use") < log.index("record_start")
        assert log.index("record_start") < log.index("resume") < log.index("scrap")
        assert scene.volume.complete == set()
        assert scene.volume.used == {(uid(), 1)}
        await scene.until(lambda: "set_clock" in scene.log, seconds=60)
        assert not scene.states.clocks

    play(story)


def test_an_agent_that_does_not_set_the_clock_at_once_is_asked_again() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        scene.node.failing["set_clock"] = HostFault("not now")
        await runs(scene, 2, restore())
        await scene.wait(120)
        del scene.node.failing["set_clock"]
        await scene.until(lambda: "set_clock" in scene.log, seconds=120)

    play(story)


def test_a_failed_save_lets_it_run_on_says_why_and_is_tried_again_when_it_is_asked_for_anew() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.node.failing["save"] = FULL
        await scene.order(told(state=SAVE))
        await scene.until(lambda: "suspend" in scene.log)
        await scene.until(scene.runs)
        report = await scene.state(GuestState.RUNNING)
        assert scene.runs()
        said = {c.type: c for c in report.conditions}["Suspendable"]
        assert (said.status, said.reason) == ("False", "VolumeFull")
        assert "No space left" in said.message
        assert nothing_left(scene)
        await scene.wait(100)
        assert scene.log.count("suspend") == 1
        del scene.node.failing["save"]
        await scene.order(told())
        await scene.wait(1)
        await scene.order(told(state=SAVE))
        await scene.gone()
        assert scene.volume.complete == {(uid(), 1)}

    play(story)


@pytest.mark.parametrize("broken", ["draft", "finish", "scrap"])
def test_a_broken_volume_holds_no_guest_that_was_certainly_not_saved(broken: str) -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.node.failing[broken] = FULL
        if broken == "scrap":
            scene.node.failing["save"] = FULL
        await scene.order(told(state=SAVE))
        await scene.wait(1)
        await scene.until(scene.runs)
        assert not scene.volume.complete

    play(story)


def test_a_guest_of_which_nobody_knows_whether_it_is_saved_stands_still_until_its_volume_tells() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.node.failing |= {"finish": FULL, "scrap": FULL}
        await scene.order(told(state=SAVE))
        await scene.until(lambda: "save" in scene.log)
        await scene.wait(30)
        assert not scene.runs()
        del scene.node.failing["scrap"]
        await scene.until(scene.runs)

    play(story)


def test_a_save_that_does_not_come_back_is_given_up_after_an_hour() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.hanging = {"save"}
        await scene.order(told(state=SAVE))
        await scene.wait(3500)
        assert not scene.runs()
        await scene.until(scene.runs, seconds=200)
        report = await scene.state(GuestState.RUNNING)
        assert {c.type: c.reason for c in report.conditions}["Suspendable"] == "DeadlineExceeded"
        assert nothing_left(scene)

    play(story)


def test_two_are_saved_at_a_time_and_one_that_waits_runs() -> None:
    async def story(scene: Scene) -> None:
        for number in (1, 2, 3):
            scene.node.start_pod(pod(number))
        await scene.start_agent()
        scene.hanging = {"save"}
        for number in (1, 2, 3):
            given = order(number).model_copy(update={"state": KEPT})
            await scene.order(given)
            await scene.state(GuestState.RUNNING, number)
            await scene.order(given.model_copy(update={"state": SAVE}))
        await scene.wait(60)
        assert [scene.runs(number) for number in (1, 2, 3)] == [False, False, True]
        await scene.order(order(3).model_copy(update={"state": KEPT}))
        await scene.wait(10)
        assert scene.runs(3)
        assert not scene.volume.complete

    play(story)


def test_power_on_while_it_is_saved_lets_it_run_on() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        await scene.order(told(state=SAVE))
        await scene.until(lambda: "draft" in scene.log, step=0.0001)
        await scene.order(told())
        await scene.wait(5)
        assert scene.runs()
        assert nothing_left(scene)

    play(story)


def test_a_berth_that_is_to_end_meanwhile_gets_its_guest_shut_down() -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        await scene.order(told(state=SAVE))
        await scene.until(lambda: "draft" in scene.log, step=0.0001)
        scene.node.terminate_pod(pod())
        await scene.gone()
        assert scene.fates()[-1].reason in (FateReason.SHUT_DOWN, FateReason.SAVED)
        assert bool(scene.volume.complete) == (scene.fates()[-1].reason is FateReason.SAVED)

    play(story)


def test_a_state_that_is_corrupt_is_refused_and_left_as_it_is() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        scene.volume.corrupt = {(uid(), 1)}
        scene.node.start_pod(pod(epoch=2))
        await scene.order(told(2, restore()))
        report = await scene.state(GuestState.FAILED)
        assert {c.type: c.reason for c in report.conditions}["GuestRunning"] == "StateCorrupt"
        await scene.wait(60)
        assert scene.volume.complete == {(uid(), 1)}
        assert not scene.node.domains

    play(story)


def test_a_restore_that_fails_is_tried_again_and_loses_nothing() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        scene.node.failing["restore"] = HostFault("libvirt did not restore it", reason="RestoreFailed")
        scene.node.start_pod(pod(epoch=2))
        await scene.order(told(2, restore()))
        await scene.state(GuestState.FAILED)
        assert scene.volume.complete == {(uid(), 1)}
        del scene.node.failing["restore"]
        await scene.state(GuestState.RUNNING)
        assert scene.log.count("use") == 1

    play(story)


@pytest.mark.parametrize("sure", [True, False])
def test_a_state_that_is_not_there_is_missed_only_when_it_was_sure(sure: bool) -> None:
    async def story(scene: Scene) -> None:
        scene.node.start_pod(pod(epoch=2))
        await scene.start_agent()
        await scene.order(told(2, restore(sure=sure)))
        if not sure:
            await scene.state(GuestState.RUNNING)
            return
        report = await scene.state(GuestState.FAILED)
        assert {c.type: c.reason for c in report.conditions}["GuestRunning"] == "StateMissing"

    play(story)


def test_a_state_that_was_used_is_not_missed_and_the_machine_boots() -> None:
    async def story(scene: Scene) -> None:
        scene.volume.used = {(uid(), 1)}
        await runs(scene, 3, restore())
        assert "restore" not in scene.log

    play(story)


def test_a_machine_that_boots_anew_throws_what_was_saved_away_before_it_runs() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        await runs(scene, 2)
        assert scene.log.index("scrap") < len(scene.log) - scene.log[::-1].index("create_paused")
        assert not scene.volume.complete

    play(story)


def test_a_restored_machine_that_is_to_stay_paused_keeps_its_state() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        scene.node.start_pod(pod(epoch=2))
        await scene.order(told(2, restore(), power=OrderPower.PAUSED))
        await scene.state(GuestState.PAUSED)
        assert scene.volume.complete == {(uid(), 1)}
        await scene.order(told(2, restore()))
        await scene.state(GuestState.RUNNING)
        assert scene.volume.used == {(uid(), 1)}

    play(story)


def test_a_berth_whose_guest_has_not_run_just_ends_and_the_state_stays() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        scene.node.start_pod(pod(epoch=2))
        await scene.order(told(2, StateOrder(folder=FOLDER, save=True, restore=1)))
        await scene.gone()
        assert scene.node.exits[pod(epoch=2)] == 0
        assert scene.volume.complete == {(uid(), 1)}
        assert "restore" not in scene.log

    play(story)


def test_a_restored_guest_that_has_not_run_is_saved_again() -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        scene.node.start_pod(pod(epoch=2))
        await scene.order(told(2, restore(), power=OrderPower.PAUSED))
        await scene.state(GuestState.PAUSED)
        await scene.order(told(2, StateOrder(folder=FOLDER, save=True, restore=1)))
        await scene.gone()
        assert scene.volume.complete == {(uid(), 2)}
        assert "resume" not in scene.log[scene.log.index("restore") :]

    play(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", SAVING_CALLS)
def test_killed_at_any_call_of_a_save(at: int, after: bool) -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        await scene.order(told(state=SAVE))
        await scene.wait(5)
        await scene.restart_agent()
        await scene.wait(1)
        await scene.order(*([told(state=SAVE)] if scene.node.pods else []))  # none is sent to a berth that has ended
        await scene.gone()
        assert scene.volume.complete == {(uid(), 1)}
        assert scene.node.exits == {pod(): 0}
        assert scene.clean()
        destroyed = scene.log.index("destroy")
        assert "resume" not in scene.log[scene.log.index("finish") : destroyed]

    play(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", SAVING_CALLS)
def test_whose_state_is_whole_ends_as_saved_though_nobody_orders_anything_any_more(at: int, after: bool) -> None:
    async def story(scene: Scene) -> None:
        await runs(scene)
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        await scene.order(told(state=SAVE))
        await scene.wait(5)
        whole = bool(scene.volume.complete)
        await scene.restart_agent()
        await scene.wait(1)
        await scene.order(*([told(state=SAVE)] if not whole else []))
        await scene.gone()
        assert scene.node.exits == {pod(): 0}
        assert scene.clean()

    play(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", RESTORING_CALLS)
def test_killed_at_any_call_of_a_restore(at: int, after: bool) -> None:
    async def story(scene: Scene) -> None:
        await saved(scene)
        scene.node.start_pod(pod(epoch=2))
        before = len(scene.log)
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        await scene.order(told(2, restore()))
        await scene.wait(5)
        await scene.restart_agent(told(2, restore()))
        await scene.state(GuestState.RUNNING)
        await scene.wait(100)
        log = scene.log[before:]
        assert log.count("restore") == 1
        assert log.index("use") < log.index("resume")
        assert scene.runs()
        assert scene.volume.used == {(uid(), 1)}
        assert not scene.volume.complete
        assert not scene.states.clocks

    play(story)
