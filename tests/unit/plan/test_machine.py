"""The plan of one machine: each life's steps, and the rules that hold in every world."""

from __future__ import annotations

import pytest

from berth.api.order import Emulation, GuestState, Order, OrderPower
from berth.domain.observed import DomainState
from berth.effects.memory import MemoryNode
from berth.effects.ports import KvmProbe
from berth.plan import gathered, machine, steps
from berth.plan.gathered import Gathered
from berth.plan.steps import Awaited
from tests.unit.agent.orders import order, pod, uid
from tests.unit.plan.node import Agent


@pytest.fixture
def node() -> MemoryNode:
    return MemoryNode()


@pytest.fixture
def agent(node: MemoryNode) -> Agent:
    return Agent(uid(), node)


def names(agent: Agent) -> list[str]:
    return [type(step).__name__ for step in agent.plan().steps]


def awaited(agent: Agent) -> list[Awaited]:
    return [step.what for step in agent.plan().steps if isinstance(step, steps.WaitFor)]


def running(agent: Agent, ordered: Order | None = None) -> Agent:
    ordered = ordered or order()
    agent.node.start_pod(ordered.berth.pod_uid)
    agent.memory.order = ordered
    agent.settle()
    return agent


def state(node: MemoryNode) -> DomainState | None:
    return node.domains[uid()].state if uid() in node.domains else None


def test_nothing_is_known_and_nothing_is_done(agent: Agent) -> None:
    assert agent.plan() == steps.Plan()
    assert gathered.gone(agent.gather())


def test_an_order_waits_for_its_berth(agent: Agent) -> None:
    agent.memory.order = order()
    assert names(agent) == ["WaitFor"]
    assert awaited(agent) == [Awaited.BERTH]
    assert gathered.state(agent.gather()) is GuestState.WAITING


def test_a_first_start(agent: Agent, node: MemoryNode) -> None:
    node.start_pod(pod())
    agent.memory.order = order()
    assert names(agent) == [
        "LinkBerth", "PrepareCgroup", "PrepareMedia", "CreateTaps", "CreatePaused", "AttachNetwork", "MarkStarted",
        "Resume",
    ]  # fmt: skip
    assert gathered.state(agent.gather()) is GuestState.PREPARING
    agent.settle()
    assert state(node) is DomainState.RUNNING
    assert gathered.state(agent.gather()) is GuestState.RUNNING


def test_the_same_order_twice_plans_nothing(agent: Agent) -> None:
    running(agent).memory.order = order()
    assert agent.plan() == steps.Plan()


def test_every_step_has_a_reason(agent: Agent, node: MemoryNode) -> None:
    node.start_pod(pod())
    agent.memory.order = order()
    assert all(step.reason for step in agent.plan().steps)


def test_a_start_that_is_ordered_paused_never_runs(agent: Agent, node: MemoryNode) -> None:
    running(agent, order(power=OrderPower.PAUSED))
    assert state(node) is DomainState.PAUSED
    assert agent.plan() == steps.Plan()
    assert gathered.state(agent.gather()) is GuestState.PAUSED
    agent.memory.order = order(generation=1)
    assert names(agent) == ["RecordOrder", "MarkStarted", "Resume"]


def test_pause_and_go_on(agent: Agent, node: MemoryNode) -> None:
    running(agent).memory.order = order(power=OrderPower.PAUSED, generation=1)
    assert names(agent) == ["Suspend", "RecordOrder"]
    agent.settle()
    assert state(node) is DomainState.PAUSED
    agent.memory.order = order(generation=2)
    assert names(agent) == ["Resume", "RecordOrder"]


def test_an_older_epoch_is_refused_and_changes_nothing(agent: Agent, node: MemoryNode) -> None:
    running(agent, order(epoch=2)).memory.order = order(epoch=1, power=OrderPower.PAUSED)
    [refused] = agent.plan().steps
    assert isinstance(refused, steps.RefuseOrder)
    assert refused.code == "StaleEpoch"
    assert "1" in refused.reason
    assert "2" in refused.reason


def test_another_berth_for_the_same_start_is_refused(agent: Agent) -> None:
    other = order().berth.model_copy(update={"pod_uid": "other"})
    running(agent).memory.order = order().model_copy(update={"berth": other})
    [refused] = agent.plan().steps
    assert isinstance(refused, steps.RefuseOrder)
    assert refused.code == "BerthMismatch"


def test_a_newer_start_waits_for_the_old_guest(agent: Agent, node: MemoryNode) -> None:
    running(agent).memory.order = order(epoch=2)
    node.start_pod(pod(epoch=2))
    assert awaited(agent) == [Awaited.OLD_BERTH]
    assert not agent.plan().acts
    node.kill_pod(pod())
    agent.settle()
    assert state(node) is DomainState.RUNNING
    record = node.folders[uid()]
    assert record is not None
    assert record.epoch == 2


def test_a_guest_without_a_controller_runs_on_and_can_be_shut_down(agent: Agent, node: MemoryNode) -> None:
    running(agent).restart()
    assert names(agent) == ["LinkBerth", "ServeNetwork"]
    agent.settle()
    assert agent.plan() == steps.Plan()
    node.terminate_pod(pod())
    agent.settle()
    assert node.exits == {pod(): 0}
    assert node.folders == {}
    assert gathered.gone(agent.gather())


def test_a_guest_whose_berth_is_gone_is_destroyed_and_nothing_is_left(agent: Agent, node: MemoryNode) -> None:
    running(agent)
    del node.pods[pod()]
    [destroy] = agent.plan().steps
    assert isinstance(destroy, steps.Destroy)
    assert destroy.code == "BerthGone"
    agent.settle()
    assert (node.domains, node.folders, node.taps) == ({}, {}, set())


def test_a_berth_that_is_merely_not_seen_ends_nothing(agent: Agent) -> None:
    running(agent)
    unseen = agent.gather()
    seen = Gathered(unseen.uid, guest=unseen.guest, record=unseen.record, folder=True)
    assert not machine.plan(seen).acts
    absent = Gathered(unseen.uid, record=unseen.record, folder=True)
    assert not machine.plan(absent).acts


def test_without_libvirt_nothing_is_decided(agent: Agent, node: MemoryNode) -> None:
    running(agent)
    node.up = False
    assert awaited(agent) == [Awaited.HYPERVISOR]
    assert not gathered.gone(agent.gather())
    node.pods.clear()
    assert not agent.plan().acts


def test_a_deaf_guest_is_asked_again_and_never_destroyed(agent: Agent, node: MemoryNode) -> None:
    node.deaf_guests = True
    running(agent)
    node.terminate_pod(pod())
    assert names(agent) == ["PressPowerButton", "WaitFor"]
    agent.settle()
    assert state(node) is DomainState.RUNNING
    assert awaited(agent) == [Awaited.GUEST]
    agent.memory.pressed = False  # ten seconds later
    assert names(agent) == ["PressPowerButton", "WaitFor"]
    assert gathered.state(agent.gather()) is GuestState.STOPPING


def test_a_paused_guest_is_woken_to_be_shut_down(agent: Agent, node: MemoryNode) -> None:
    running(agent).memory.order = order(power=OrderPower.PAUSED)
    agent.settle()
    node.terminate_pod(pod())
    assert names(agent) == ["Resume", "PressPowerButton", "WaitFor"]
    agent.settle()
    assert node.exits == {pod(): 0}


def test_a_guest_that_never_ran_is_not_asked(agent: Agent, node: MemoryNode) -> None:
    running(agent, order(power=OrderPower.PAUSED))
    node.terminate_pod(pod())
    assert names(agent) == ["Destroy"]
    agent.settle()
    assert node.exits == {pod(): 0}


def test_a_pod_that_ends_before_the_start_is_let_go(agent: Agent, node: MemoryNode) -> None:
    node.start_pod(pod())
    agent.memory.order = order()
    agent.act(limit=1)  # the link
    node.terminate_pod(pod())
    agent.settle()
    assert node.exits == {pod(): 0}
    assert node.domains == {}


@pytest.mark.parametrize(("detail", "code"), [("shutdown", 0), ("failed", 1), ("crashed", 1), ("destroyed", 1)])
def test_the_berth_ends_as_its_guest_did(agent: Agent, node: MemoryNode, detail: str, code: int) -> None:
    running(agent)
    node.end(uid(), detail)
    agent.settle()
    assert node.exits == {pod(): code}
    assert state(node) is None  # and it was not started again in the same berth


def test_a_guest_that_ended_while_nobody_looked_is_not_started_again(agent: Agent, node: MemoryNode) -> None:
    running(agent)
    node.on_event = None
    node.end(uid())
    agent.restart()
    agent.memory.order = order()
    agent.settle()
    assert node.exits == {pod(): 1}
    assert "create_paused " + uid() not in node.log[node.log.index("resume " + uid()) :]


def test_kvm_is_demanded_and_not_there(agent: Agent, node: MemoryNode) -> None:
    node.kvm = KvmProbe(False, "the host says no")
    node.start_pod(pod())
    agent.memory.order = order().model_copy(update={"emulation": Emulation.NEVER})
    cannot = agent.plan().steps[-1]
    assert isinstance(cannot, steps.CannotRun)
    assert cannot.code == "KvmNotUsable"
    agent.memory.order = order().model_copy(update={"emulation": Emulation.AUTO})
    agent.settle()
    assert state(node) is DomainState.RUNNING


def test_a_full_disk_is_tried_again_but_not_at_once(agent: Agent, node: MemoryNode) -> None:
    running(agent)
    node.domains[uid()].state, node.domains[uid()].detail = DomainState.PAUSED, "ioerror"
    seen = agent.gather()
    assert machine.plan(seen).acts
    young = Gathered(
        seen.uid,
        seen.order,
        True,
        seen.guest,
        seen.record,
        True,
        seen.present,
        linked=True,
        network=seen.network,
        resume_age=1,
    )
    [wait] = machine.plan(young).steps
    assert isinstance(wait, steps.WaitFor)
    assert wait.what is Awaited.DISK


@pytest.mark.parametrize("left", [DomainState.CRASHED, DomainState.SHUTOFF])
def test_the_remains_of_a_crash_are_removed(agent: Agent, node: MemoryNode, left: DomainState) -> None:
    running(agent)
    node.domains[uid()].state = left
    assert names(agent) == ["Destroy"]
    agent.settle()
    assert node.exits == {pod(): 1}


def test_an_order_for_a_berth_that_is_gone_is_void(agent: Agent, node: MemoryNode) -> None:
    running(agent)
    node.end(uid())
    agent.settle()
    assert node.pods == {}
    assert agent.plan() == steps.Plan()
    assert gathered.gone(agent.gather())


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_start_that_is_cut_off_after_any_step_is_finished(agent: Agent, node: MemoryNode, cut: int) -> None:
    node.start_pod(pod())
    agent.memory.order = order()
    agent.act(limit=cut)
    agent.restart()
    agent.memory.order = order()
    agent.settle()
    assert state(node) is DomainState.RUNNING
    assert node.log.count(f"create_paused {uid()}") == 1
    assert agent.plan() == steps.Plan()
