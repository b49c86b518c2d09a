"""NICs that come and go under a whole agent, which is killed at any call; what guests say of them; lost networks."""

from __future__ import annotations

import pytest

from berth.api.order import FateReason, NicOrder, NicReport, Order
from berth.domain import xml
from berth.effects.memory import MemoryHypervisor
from berth.errors import HostFault
from tests.scenario.agent_scene import Scene, play
from tests.unit.agent.orders import order, pod, uid
from tests.unit.plan.test_plug import POD, lan

OLD, NEW = lan("old", "52:54:00:00:00:01"), lan("new", "52:54:00:00:00:02")
CALLS = range(1, 31)
"""A change of NICs is at most so many calls of ports: a test below checks that."""


def ordered(*nics: NicOrder, generation: int = 1) -> Order:
    given = order(generation=generation)
    return given.model_copy(update={"machine": given.machine.model_copy(update={"nics": nics})})


async def running(scene: Scene, *nics: NicOrder) -> None:
    scene.node.start_pod(pod())
    await scene.start_agent()
    await scene.order(ordered(*nics))
    await scene.until(scene.runs)
    await scene.wait(1)


def has(scene: Scene) -> dict[str, bool]:
    found = MemoryHypervisor(scene.node).domain(uid())
    return {nic.name: nic.link_up for nic in xml.read(found).nics} if found is not None else {}


def wired(scene: Scene) -> list[str]:
    return [nic.name for nic in scene.node.wired[uid()]]


def network(scene: Scene) -> tuple[str, str]:
    report = scene.report()
    assert report is not None
    return next((c.reason, c.message) for c in report.conditions if c.type == "NetworkReady")


def test_a_nic_is_exchanged_on_a_running_machine() -> None:
    async def story(scene: Scene) -> None:
        await running(scene, POD, OLD)
        await scene.order(ordered(POD, NEW, generation=2))
        await scene.until(lambda: has(scene) == {"default": True, "new": True}, seconds=5)
        await scene.until(lambda: wired(scene) == ["default", "new"], seconds=5)
        assert network(scene)[0] == "Ready"
        before = list(scene.node.log)
        await scene.wait(300)
        assert scene.node.log == before
        assert "resume" not in scene.log[7:]

    play(story)


def test_a_guest_that_keeps_a_nic_is_told_of_and_asked_again() -> None:
    async def story(scene: Scene) -> None:
        scene.node.clinging_guests = True
        await running(scene, POD, OLD)
        await scene.order(ordered(POD, generation=2))
        await scene.until(lambda: network(scene)[0] == "UnplugPending", seconds=8)
        assert "NIC old" in network(scene)[1]
        told = len(scene.said)
        await scene.wait(60)
        assert 5 <= scene.log.count("unplug_nic") <= 8
        assert len(scene.said) - told <= 1  # that it lasts is no news
        assert wired(scene) == ["default", "old"]
        scene.node.let_go()
        await scene.until(lambda: wired(scene) == ["default"], seconds=2)
        await scene.until(lambda: network(scene)[0] == "Ready", seconds=2)

    play(story)


def test_a_nic_that_cannot_be_plugged_in_is_named_and_holds_nothing_else_up() -> None:
    async def story(scene: Scene) -> None:
        await running(scene, POD)
        scene.node.failing["plug_nic"] = HostFault("no such bus", reason="HypervisorError")
        await scene.order(ordered(POD.model_copy(update={"anti_spoofing": False}), NEW, generation=2))
        await scene.until(lambda: network(scene) == ("HypervisorError", "no such bus"), seconds=5)
        assert scene.runs()
        assert scene.node.wired[uid()][0].anti_spoofing is False
        scene.node.failing.clear()
        await scene.until(lambda: has(scene) == {"default": True, "new": True}, seconds=40)

    play(story)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("silence", [0, 3], ids=["", "silence"])
@pytest.mark.parametrize("at", CALLS)
def test_killed_at_any_call_of_a_change(at: int, silence: int, after: bool) -> None:
    async def story(scene: Scene) -> None:
        await running(scene, POD, OLD)
        scene.calls, scene.freeze_at, scene.freeze_after = 0, at, after
        wanted = ordered(POD, NEW, generation=2)
        await scene.order(wanted)
        await scene.wait(5)
        await scene.restart_agent()
        await scene.wait(silence)
        await scene.order(wanted)
        await scene.until(lambda: has(scene) == {"default": True, "new": True}, seconds=30)
        await scene.until(lambda: wired(scene) == ["default", "new"], seconds=5)
        assert scene.log.count("plug_nic") == 1
        assert scene.log.count("unplug_nic") == 1
        assert scene.node.torn == []
        assert scene.runs()

    play(story)


def test_a_change_is_no_more_calls_than_are_tried() -> None:
    async def story(scene: Scene) -> None:
        await running(scene, POD, OLD)
        scene.calls = 0
        await scene.order(ordered(POD, NEW, generation=2))
        await scene.wait(2)
        assert has(scene) == {"default": True, "new": True}
        assert scene.calls < max(CALLS)

    play(story)


def test_what_a_guest_says_of_its_nics_is_told() -> None:
    async def story(scene: Scene) -> None:
        scene.node.said = (NicReport(mac=POD.mac, name="eth0", addresses=("10.0.2.2",)),)
        await scene.running()
        await scene.until(lambda: (r := scene.report()) is not None and r.guest_nics == scene.node.said, seconds=40)

    play(story)


def test_functions_of_the_hosts_card_are_those_of_the_pod() -> None:
    async def story(scene: Scene) -> None:
        fast = NicOrder(name="fast", mac="52:54:00:00:00:09", kind="Device", resource="example.com/vf")
        scene.node.start_pod(pod())
        await scene.start_agent()
        await scene.order(ordered(fast))
        await scene.until(lambda: (r := scene.report()) is not None and r.state == "Failed", seconds=5)
        report = scene.report()
        assert report is not None
        assert report.conditions[-1].reason == "DeviceMissing"
        scene.node.functions = {"example.com/vf": ("0000:03:02.1",)}
        await scene.until(scene.runs, seconds=40)
        assert 'function="0x1"' in scene.node.domains[uid()].xml

    play(story)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_guest_whose_pod_got_another_network_is_ended_with_that_reason(restarted: bool) -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        if restarted:
            await scene.kill_agent()
        scene.node.change_network(pod())
        if restarted:
            await scene.start_agent()
        else:
            assert scene.agent is not None
            scene.agent.bell.ring(uid())
        await scene.until(lambda: scene.node.exits == {pod(): 1}, seconds=10)
        await scene.until(scene.fates, seconds=5)
        [fate] = scene.fates()
        assert fate.reason is FateReason.FORCED_OFF
        assert "network" in fate.message
        await scene.gone()
        assert scene.clean()

    play(story)
