"""kill -9 of the agent, libvirtd gone, the berth gone: at every single call of start and stop. It converges."""

from __future__ import annotations

import pytest

from berth.api.order import FateReason
from tests.scenario.agent_scene import Scene, play
from tests.unit.agent.orders import order, pod, uid

CALLS = range(1, 26)
"""A start, or a stop, is at most so many calls of ports; the tests below check that."""


def started_once(scene: Scene) -> None:
    """Whatever was interrupted: one QEMU was made per start, its network was there before it ran."""
    log = scene.log
    assert log.index("attach") < log.index("resume")
    assert log.index("record_start") < log.index("resume")
    assert scene.runs()
    assert "destroy" not in log


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", CALLS)
def test_killed_at_any_call_of_a_start(at: int, after: bool) -> None:
    async def story(scene: Scene) -> None:
        scene.node.start_pod(pod())
        agent = await scene.start_agent()
        await agent.hub.opened()
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        await scene.order(order())
        await scene.wait(5)
        await scene.restart_agent(order())
        await scene.until(scene.runs, seconds=10)
        await scene.wait(100)
        started_once(scene)
        assert scene.log.count("create_paused") == 1

    play(story)


def test_a_start_is_no_more_calls_than_are_tried() -> None:
    async def story(scene: Scene) -> None:
        scene.node.start_pod(pod())
        agent = await scene.start_agent()
        await agent.hub.opened()
        scene.calls = 0
        await scene.order(order())
        await scene.until(scene.runs)
        assert scene.calls < max(CALLS)

    play(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", CALLS)
def test_killed_at_any_call_of_a_stop(at: int, after: bool) -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        scene.node.terminate_pod(pod())
        await scene.wait(5)
        await scene.kill_agent()
        await scene.start_agent()
        await scene.until(scene.clean, seconds=20)
        assert scene.log.count("create_paused") == 1
        assert list(scene.node.exits) == [pod()]
        assert "destroy" not in scene.log

    play(story)


@pytest.mark.parametrize("at", CALLS)
def test_libvirtd_gone_at_any_call_of_a_start(at: int) -> None:
    async def story(scene: Scene) -> None:
        scene.node.start_pod(pod())
        agent = await scene.start_agent()
        await agent.hub.opened()
        scene.calls = 0
        await scene.order(order())
        await scene.until(lambda: scene.calls >= at or scene.runs())
        scene.node.set_up(False)
        await scene.wait(7)
        scene.node.set_up(True)
        await scene.until(scene.runs, seconds=10)
        await scene.wait(100)
        started_once(scene)

    play(story)


@pytest.mark.parametrize("at", CALLS)
def test_the_berth_gone_at_any_call_of_a_start(at: int) -> None:
    async def story(scene: Scene) -> None:
        scene.node.start_pod(pod())
        agent = await scene.start_agent()
        await agent.hub.opened()
        scene.calls = 0
        await scene.order(order())
        await scene.until(lambda: scene.calls >= at or scene.runs())
        scene.node.kill_pod(pod())
        await scene.until(scene.clean, seconds=30)
        await scene.gone(seconds=30)
        assert scene.node.domains == {}

    play(story)


@pytest.mark.parametrize("at", CALLS)
def test_the_guest_ends_at_any_call_and_the_agent_is_killed_just_then(at: int) -> None:
    async def story(scene: Scene) -> None:
        given = await scene.running()
        scene.calls, scene.freeze_at = 0, at
        scene.node.end(uid(), "crashed")
        await scene.wait(5)
        await scene.restart_agent(given)
        await scene.until(scene.clean, seconds=20)
        assert scene.log.count("create_paused") == 1
        assert scene.node.exits == {pod(): 1}
        assert {fate.reason for fate in scene.fates()} <= {FateReason.GUEST_PANICKED, FateReason.UNKNOWN}

    play(story)
