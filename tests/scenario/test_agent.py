"""The agent against everything that can happen to it on a node, in a world in memory."""

from __future__ import annotations

import pytest

from berth.api.order import GuestState, OrderPower
from berth.api.virtualmachine import ConditionStatus
from berth.errors import HostFault, InvalidSpec, Refused, StaleEpoch
from tests.scenario.agent_scene import Scene, play
from tests.unit.agent.orders import order, pod, uid

START = ["prepare_cgroup", "prepare", "create_taps", "create_paused", "attach", "record_start", "resume"]


def condition(scene: Scene, kind: str, number: int = 1) -> tuple[ConditionStatus, str]:
    report = scene.report(number)
    assert report is not None
    return next((c.status, c.reason) for c in report.conditions if c.type == kind)


def test_an_order_becomes_a_running_guest() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        assert sorted(scene.log[:3]) == sorted(START[:3])
        assert scene.log[3:] == START[3:]
        report = scene.report()
        assert report is not None
        assert (report.accelerator, report.started_at is None) == ("tcg", False)
        assert all(c.status is ConditionStatus.TRUE for c in report.conditions)

    play(story)


def test_the_same_order_twice_changes_nothing() -> None:
    async def story(scene: Scene) -> None:
        given = await scene.running()
        await scene.wait(60)  # until the guest's agent has been asked
        before = (list(scene.node.log), list(scene.said))
        for _ in range(3):
            await scene.order(given)
            await scene.wait(200)
        assert (scene.node.log, scene.said) == before

    play(story)


def test_an_order_that_comes_before_its_berth_waits_and_then_hurries() -> None:
    async def story(scene: Scene) -> None:
        await scene.start_agent()
        await scene.order(order())
        assert (await scene.state(GuestState.WAITING)).conditions[-1].reason == "Waiting"
        await scene.wait(7)
        scene.node.start_pod(pod())
        assert await scene.until(scene.runs) < 0.15

    play(story)


def test_an_order_whose_berth_never_comes_is_forgotten_at_last() -> None:
    async def story(scene: Scene) -> None:
        await scene.start_agent()
        await scene.order(order())
        await scene.wait(3500)
        assert scene.known()
        await scene.gone(seconds=300)

    play(story)


def test_pause_and_resume() -> None:
    async def story(scene: Scene) -> None:
        given = await scene.running()
        await scene.order(given.model_copy(update={"power": OrderPower.PAUSED}))
        await scene.state(GuestState.PAUSED)
        assert condition(scene, "GuestRunning") == (ConditionStatus.FALSE, "Paused")
        await scene.restart_agent(given.model_copy(update={"power": OrderPower.PAUSED}))
        await scene.state(GuestState.PAUSED)
        await scene.order(given)
        await scene.state(GuestState.RUNNING)

    play(story)


def test_a_machine_ordered_paused_is_loaded_and_waits() -> None:
    async def story(scene: Scene) -> None:
        scene.node.start_pod(pod())
        await scene.start_agent()
        await scene.order(order(power=OrderPower.PAUSED))
        await scene.state(GuestState.PAUSED)
        assert "resume" not in scene.log
        await scene.order(order())
        await scene.state(GuestState.RUNNING)
        scene.node.terminate_pod(pod())
        await scene.gone()
        assert scene.node.exits == {pod(): 0}

    play(story)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("prepare", "DisksReady"),
        ("create_taps", "NetworkReady"),
        ("attach", "NetworkReady"),
        ("prepare_cgroup", "GuestRunning"),
        ("create_paused", "GuestRunning"),
        ("record_start", "GuestRunning"),
        ("resume", "GuestRunning"),
    ],
)
def test_a_step_that_fails_is_named_and_tried_again(method: str, kind: str) -> None:
    async def story(scene: Scene) -> None:
        scene.node.failing[method] = HostFault(f"{method} does not work here", reason="Broken")
        scene.node.start_pod(pod())
        await scene.start_agent()
        await scene.order(order())
        report = await scene.state(GuestState.FAILED, seconds=2)
        assert condition(scene, kind) == (ConditionStatus.FALSE, "Broken")
        assert any(f"{method} does not work here" in c.message for c in report.conditions)
        told = len(scene.said)
        await scene.wait(300)
        assert len(scene.said) - told <= 1  # a fault that lasts is told once
        scene.node.failing.clear()
        assert (await scene.state(GuestState.RUNNING, seconds=31)).state is GuestState.RUNNING
        assert not scene.report() or condition(scene, kind)[0] is ConditionStatus.TRUE

    play(story)


def test_what_only_the_user_can_mend_is_looked_at_seldom() -> None:
    async def story(scene: Scene) -> None:
        scene.node.failing["prepare"] = InvalidSpec("disks[0].path", "there is no such file", reason="ImageFileMissing")
        scene.node.start_pod(pod())
        await scene.start_agent()
        await scene.order(order())
        await scene.state(GuestState.FAILED)
        before = scene.calls
        await scene.wait(29)
        assert scene.calls - before < 20

    play(story)


def test_kvm_that_does_not_work_is_told() -> None:
    async def story(scene: Scene) -> None:
        scene.node.kvm = scene.node.kvm.__class__(False, "the probe's guest did not start")
        scene.node.start_pod(pod())
        await scene.start_agent()
        await scene.order(order().model_copy(update={"emulation": "Never"}))
        report = await scene.state(GuestState.FAILED)
        assert condition(scene, "GuestRunning") == (ConditionStatus.FALSE, "KvmNotUsable")
        assert "the probe's guest did not start" in report.conditions[-1].message
        assert scene.log == []

    play(story)


def test_libvirtd_that_goes_and_comes_harms_nothing() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        scene.node.set_up(False)
        await scene.wait(30)
        report = scene.report()
        assert report is not None
        assert report.state is GuestState.RUNNING
        assert condition(scene, "GuestRunning") == (ConditionStatus.UNKNOWN, "HypervisorDown")
        assert scene.agent is not None
        assert not scene.agent.hub.facts.hypervisor_connected
        scene.node.set_up(True)
        await scene.until(lambda: condition(scene, "GuestRunning")[0] is ConditionStatus.TRUE, seconds=2)
        assert scene.agent.hub.facts.hypervisor_connected
        assert len(scene.log) == 7

    play(story)


def test_an_agent_that_starts_without_libvirtd_says_hello_and_waits() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        await scene.kill_agent()
        scene.node.up = False
        agent = await scene.start_agent()
        await scene.wait(20)
        assert agent.hub.has_facts
        assert not agent.hub.is_open
        scene.node.set_up(True)
        await scene.state(GuestState.RUNNING, seconds=2)
        await scene.until(lambda: agent.hub.is_open, seconds=1)

    play(story)


def test_a_stopped_agent_touches_nothing() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        before = list(scene.node.log)
        assert scene.agent is not None
        await scene.agent.stop()
        assert (scene.node.log, scene.runs(), scene.node.exits) == (before, True, {})

    play(story)


def test_a_fresh_agent_serves_what_runs_without_any_order() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        await scene.kill_agent()
        scene.node.served.clear()
        await scene.start_agent()
        await scene.state(GuestState.RUNNING)
        assert scene.log[7:] == ["serve"]

    play(story)


def test_orders_of_the_past_are_refused() -> None:
    async def story(scene: Scene) -> None:
        given = await scene.running(epoch=2)
        with pytest.raises(StaleEpoch):
            await scene.order(order(epoch=1))
        await scene.kill_agent()
        await scene.start_agent()
        with pytest.raises(StaleEpoch):
            await scene.order(order(epoch=1))
        with pytest.raises(Refused) as other:
            await scene.order(given.model_copy(update={"berth": order(epoch=3).berth}))
        assert other.value.reason == "BerthMismatch"
        with pytest.raises(Refused) as wrong:
            await scene.order(given.model_copy(update={"berth": given.berth.model_copy(update={"node": "node-b"})}))
        assert wrong.value.reason == "WrongNode"
        assert scene.runs()

    play(story)


def test_the_next_start_waits_until_nothing_is_left_of_the_last() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        scene.node.start_pod(pod(epoch=2))
        await scene.order(order(epoch=2))
        await scene.wait(30)
        assert scene.log.count("create_paused") == 1
        scene.node.terminate_pod(pod())
        await scene.until(lambda: scene.log.count("create_paused") == 2, seconds=10)
        await scene.until(scene.runs)
        await scene.until(lambda: (r := scene.report()) is not None and r.epoch == 2)
        assert list(scene.node.exits) == [pod()]

    play(story)


def test_an_order_that_came_to_nothing_can_be_withdrawn() -> None:
    async def story(scene: Scene) -> None:
        await scene.start_agent()
        await scene.order(order(1))
        await scene.running(2)
        assert scene.agent is not None
        scene.agent.machines.withdraw(uid(1))
        scene.agent.machines.withdraw(uid(7))  # nothing is known of it
        await scene.gone(1, seconds=10)
        with pytest.raises(Refused, match="on this node"):
            scene.agent.machines.withdraw(uid(2))

    play(story)


def test_twenty_machines_at_once_get_uids_of_their_own() -> None:
    async def story(scene: Scene) -> None:
        await scene.start_agent()
        for number in range(1, 21):
            scene.node.start_pod(pod(number))
            await scene.order(order(number))
        await scene.until(lambda: sum(scene.runs(n) for n in range(1, 21)) == 20)
        labels = {domain.xml.partition("<label>")[2].partition("</label>")[0] for domain in scene.node.domains.values()}
        assert len(labels) == 20
        await scene.restart_agent()
        await scene.until(lambda: scene.agent is not None and len(scene.agent.hub.reports) == 20)
        scene.node.start_pod(pod(21))
        await scene.order(order(21))
        await scene.until(lambda: scene.runs(21))

    play(story)


def test_guest_info_is_asked_for_and_told() -> None:
    async def story(scene: Scene) -> None:
        await scene.running()
        await scene.until(lambda: (r := scene.report()) is not None and r.guest is not None, seconds=40)
        report = scene.report()
        assert report is not None
        assert report.guest is not None
        assert report.guest.hostname == "guest"

    play(story)
