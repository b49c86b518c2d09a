"""How guests and their berths end: asked, by themselves, cut off, or with nobody looking; in a world in memory."""

from __future__ import annotations

import pytest

from berth.api.order import FateReason, GuestState, OrderPower
from berth.errors import HostFault
from tests.scenario.agent_scene import Scene, play
from tests.unit.agent.orders import order, pod, uid


def test_sigterm_of_the_berth_is_the_power_button() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        scene.node.terminate_pod(pod())
        await scene.gone()
        assert scene.log[7:] == ["press_power_button", "exit", "detach", "forget"]
        assert (scene.node.exits, scene.clean()) == ({pod(): 0}, True)
        assert [fate.reason for fate in scene.fates()] == [FateReason.SHUT_DOWN]

    play(story)


def test_sigterm_while_the_agent_is_away_is_heard_later() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        await scene.kill_agent()
        scene.node.terminate_pod(pod())
        await scene.start_agent()
        await scene.until(lambda: scene.node.exits == {pod(): 0})
        await scene.gone()
        assert [fate.reason for fate in scene.fates()] == [FateReason.SHUT_DOWN]

    play(story)


def test_a_berth_that_is_to_end_before_the_guest_was_started_ends_at_once() -> None:
    async def story(scene: Scene) -> None:
        scene.node.failing["create_paused"] = HostFault("no")
        scene.node.start_pod(pod())
        await scene.start_agent()
        await scene.order(order())
        await scene.state(GuestState.FAILED)
        scene.node.terminate_pod(pod())
        assert await scene.until(lambda: scene.node.exits == {pod(): 0}) < 1
        await scene.gone()
        assert scene.clean()

    play(story)


def test_a_deaf_guest_is_cut_off_when_its_grace_is_over() -> None:
    async def story(scene: Scene) -> None:
        scene.node.deaf_guests = True
        await scene.running()
        scene.node.terminate_pod(pod())
        await scene.wait(59)
        assert (scene.log.count("press_power_button"), scene.runs()) == (7, True)
        await scene.gone(seconds=5)
        assert [fate.reason for fate in scene.fates()] == [FateReason.FORCED_OFF]
        assert (scene.node.exits, scene.clean()) == ({pod(): 1}, True)

    play(story)


def test_a_paused_guest_without_any_grace_is_cut_off_at_once() -> None:
    async def story(scene: Scene) -> None:
        given = (await scene.running()).model_copy(update={"power": OrderPower.PAUSED, "grace_seconds": 0})
        await scene.order(given)
        await scene.state(GuestState.PAUSED)
        scene.node.terminate_pod(pod())
        await scene.gone(seconds=5)
        assert [fate.reason for fate in scene.fates()] == [FateReason.FORCED_OFF]
        assert scene.log.count("resume") == 1

    play(story)


def test_a_deaf_guest_is_cut_off_by_kubelet_when_the_agent_is_too_late() -> None:
    async def story(scene: Scene) -> None:
        scene.node.deaf_guests = True
        await scene.running()
        scene.node.terminate_pod(pod())
        await scene.wait(35)
        assert scene.log.count("press_power_button") == 5
        assert scene.report() is not None
        assert (await scene.state(GuestState.STOPPING)).fate is None
        scene.node.kill_pod(pod())
        await scene.gone()
        assert scene.clean()
        assert [fate.reason for fate in scene.fates()][-1:] in ([], [FateReason.FORCED_OFF])

    play(story)


@pytest.mark.parametrize(
    ("detail", "words", "reason", "code"),
    [
        ("shutdown", "", FateReason.GUEST_POWEROFF, 0),
        ("failed", "", FateReason.KILLED, 1),
        ("failed", "qemu: assertion failed", FateReason.QEMU_CRASHED, 1),
        ("crashed", "", FateReason.GUEST_PANICKED, 1),
        ("destroyed", "", FateReason.KILLED, 1),
    ],
)
def test_a_guest_that_ends_ends_its_berth(detail: str, words: str, reason: FateReason, code: int) -> None:
    async def story(scene: Scene) -> None:
        scene.words = words
        await scene.running()
        scene.node.end(uid(), detail)
        await scene.until(lambda: scene.node.exits == {pod(): code}, seconds=1)
        await scene.gone()
        assert ([fate.reason for fate in scene.fates()], scene.clean()) == ([reason], True)

    play(story)


def test_a_guest_that_ended_while_nobody_looked_is_not_started_again() -> None:
    async def story(scene: Scene) -> None:
        given = await scene.running()
        await scene.kill_agent()
        scene.node.end(uid(), "failed")
        await scene.start_agent()
        await scene.order(given)
        await scene.until(lambda: scene.node.exits == {pod(): 1})
        await scene.gone()
        assert scene.log.count("create_paused") == 1
        assert [fate.reason for fate in scene.fates()] == [FateReason.UNKNOWN]

    play(story)


def test_a_fate_is_kept_for_a_controller_that_does_not_listen_yet() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        assert scene.agent is not None
        scene.agent.hub._on_told = lambda _report: None
        scene.node.end(uid(), "crashed")
        await scene.wait(60)
        assert (await scene.state(GuestState.ENDED)).fate is not None
        await scene.gone(seconds=700)

    play(story)


def test_without_its_berth_a_guest_has_no_right_to_run() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        pod_gone = scene.node.pods.pop(pod())  # its cgroup is left behind: the guest runs on for a moment
        for call in pod_gone.on_lost:
            call()
        await scene.gone(seconds=5)
        assert "destroy" in scene.log
        assert scene.clean()

    play(story)


def test_a_berth_that_went_while_the_agent_was_away_is_found_lost_soon() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        await scene.kill_agent()
        scene.node.pods.pop(pod())
        await scene.start_agent()
        await scene.until(scene.clean, seconds=3)

    play(story)


def test_a_berth_that_is_to_end_in_the_middle_of_a_start_ends_without_a_boot() -> None:
    async def story(scene: Scene) -> None:
        scene.node.start_pod(pod())
        await scene.start_agent()
        await scene.order(order())
        await scene.until(lambda: "create_paused" in scene.log, step=0.0002)
        scene.node.terminate_pod(pod())
        await scene.gone(seconds=5)
        assert scene.node.exits == {pod(): 0}
        assert "resume" not in scene.log

    play(story)


def test_a_berth_that_is_not_found_once_is_not_lost() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        await scene.kill_agent()
        kept = scene.node.pods.pop(pod())
        await scene.start_agent()
        await scene.wait(0.5)
        scene.node.pods[pod()] = kept
        await scene.wait(120)
        assert scene.runs()
        assert "destroy" not in scene.log

    play(story)
