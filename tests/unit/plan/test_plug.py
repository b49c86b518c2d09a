"""NICs that come and go while a machine runs: the steps, their order, and that a cut at any point is finished."""

from __future__ import annotations

from dataclasses import replace

import pytest

from berth.api.order import GuestState, NicKind, NicOrder, Order, OrderPower, SegmentKind, SegmentOrder
from berth.api.virtualmachine import ConditionStatus
from berth.domain import xml
from berth.domain.observed import Guest
from berth.effects.memory import MemoryHypervisor, MemoryNode
from berth.plan import gathered, machine, plug, steps
from berth.plan.gathered import Unplug
from berth.plan.report import Progress, report
from berth.plan.steps import Awaited, Step
from tests.unit.agent.orders import order, pod, uid
from tests.unit.plan.node import Agent

SEGMENT = SegmentOrder(uid="s-1", name="team/lan", kind=SegmentKind.OVERLAY, vni=7)
POD = order().machine.nics[0]


def lan(name: str = "lan", mac: str = "52:54:00:00:00:aa", **more: object) -> NicOrder:
    return NicOrder.model_validate({"name": name, "mac": mac, "kind": NicKind.SEGMENT, "segment": SEGMENT} | more)


def with_nics(*nics: NicOrder, generation: int = 1, power: OrderPower = OrderPower.RUNNING) -> Order:
    given = order(generation=generation, power=power)
    return given.model_copy(update={"machine": given.machine.model_copy(update={"nics": nics})})


@pytest.fixture
def agent() -> Agent:
    made = Agent(uid(), MemoryNode())
    made.node.start_pod(pod())
    return made


def running(agent: Agent, *nics: NicOrder) -> Agent:
    agent.memory.order = with_nics(*nics)
    agent.settle()
    agent.node.log.clear()
    return agent


def guest(agent: Agent) -> Guest:
    found = MemoryHypervisor(agent.node).domain(uid())
    assert found is not None
    return xml.read(found)


def has(agent: Agent) -> dict[str, bool]:
    """The NICs of the guest, and whether each one's cable is in."""
    return {nic.name: nic.link_up for nic in guest(agent).nics}


def did(agent: Agent) -> list[str]:
    return [line.replace(f" {uid()}", "").replace("ua-nic-", "") for line in agent.node.log]


def planned(agent: Agent) -> list[Step]:
    return list(agent.plan().steps)


def test_a_nic_that_is_ordered_comes_with_its_cable_out_until_its_network_is_there(agent: Agent) -> None:
    running(agent, POD).memory.order = with_nics(POD, lan(), generation=2)
    [plugged] = planned(agent)
    assert isinstance(plugged, steps.PlugNic)
    assert plugged.slot == 2
    agent.act()
    assert has(agent) == {"default": True, "lan": False}
    agent.settle()
    assert did(agent) == ["create_taps", "plug_nic lan", "set_metadata", "serve", "set_link lan up"]
    assert agent.node.wired[uid()] == (POD, lan())
    assert has(agent) == {"default": True, "lan": True}
    assert guest(agent).order.machine.nics == (POD, lan())


def test_a_nic_that_is_ordered_no_more_loses_its_cable_then_its_guest_then_its_network(agent: Agent) -> None:
    running(agent, POD, lan()).memory.order = with_nics(POD, generation=2)
    agent.settle()
    assert did(agent) == ["set_link lan down", "unplug_nic lan", "set_metadata", "serve", "set_metadata"]
    assert agent.node.wired[uid()] == (POD,)
    assert has(agent) == {"default": True}
    assert guest(agent).order.machine.nics == (POD,)


def test_the_network_of_a_nic_stays_until_the_guest_lets_go(agent: Agent) -> None:
    agent.node.clinging_guests = True
    running(agent, POD, lan()).memory.order = with_nics(POD, generation=2)
    agent.settle()
    assert agent.node.wired[uid()] == (POD, lan())
    assert has(agent) == {"default": True, "lan": False}
    [wait] = planned(agent)
    assert isinstance(wait, steps.WaitFor)
    assert (wait.what, wait.seconds) == (Awaited.UNPLUG, plug.UNPLUG_PATIENCE)
    agent.node.let_go()
    agent.settle()
    assert agent.node.wired[uid()] == (POD,)
    assert planned(agent) == []


@pytest.mark.parametrize(
    ("asked", "again", "seconds"),
    [(Unplug(0, 0), False, 5.0), (Unplug(6, 6), False, 4.0), (Unplug(10, 10), True, 0.0), (Unplug(30, 3), False, 7.0)],
)
def test_a_guest_that_keeps_a_nic_is_asked_again_now_and_then(
    agent: Agent, asked: Unplug, again: bool, seconds: float
) -> None:
    agent.node.clinging_guests = True
    running(agent, POD, lan()).memory.order = with_nics(POD, generation=2)
    agent.settle()
    seen = replace(agent.gather(), unplugs={"lan": asked})
    found = machine.plan(seen).steps
    assert any(isinstance(step, steps.UnplugNic) for step in found) is again
    assert [step.seconds for step in found if isinstance(step, steps.WaitFor)] == [seconds]
    told = report(seen, Progress())
    assert told is not None
    network = next(c for c in told.conditions if c.type == "NetworkReady")
    assert (network.status, network.reason) == (
        ConditionStatus.TRUE,
        "UnplugPending" if asked.since >= plug.UNPLUG_PATIENCE else "Ready",
    )
    assert told.state is GuestState.RUNNING


def test_a_nic_that_is_wanted_after_all_gets_its_cable_back(agent: Agent) -> None:
    agent.node.clinging_guests = True
    running(agent, POD, lan()).memory.order = with_nics(POD, generation=2)
    agent.settle()
    agent.memory.order = with_nics(POD, lan(), generation=3)
    agent.settle()
    assert has(agent) == {"default": True, "lan": True}
    agent.node.let_go()  # the guest did what it had been asked to: then it comes anew
    agent.settle()
    assert has(agent) == {"default": True, "lan": True}
    assert agent.node.log.count(f"plug_nic {uid()} ua-nic-lan") == 1


def test_another_card_under_the_same_name_replaces_the_first(agent: Agent) -> None:
    other = lan(mac="52:54:00:00:00:bb")
    running(agent, POD, lan()).memory.order = with_nics(POD, other, generation=2)
    agent.settle()
    assert [nic.mac for nic in guest(agent).nics] == [POD.mac, other.mac]
    assert agent.node.wired[uid()] == (POD, other)
    assert has(agent) == {"default": True, "lan": True}


def test_links_go_up_and_down_as_ordered(agent: Agent) -> None:
    down = POD.model_copy(update={"link_up": False})
    running(agent, POD).memory.order = with_nics(down, generation=2)
    agent.settle()
    assert has(agent) == {"default": False}
    agent.memory.order = with_nics(POD, generation=3)
    agent.settle()
    assert has(agent) == {"default": True}
    assert "unplug_nic default" not in did(agent)


def test_a_nic_that_is_ordered_without_a_cable_stays_so(agent: Agent) -> None:
    running(agent, POD).memory.order = with_nics(POD, lan(link_up=False), generation=2)
    agent.settle()
    assert has(agent) == {"default": True, "lan": False}
    assert planned(agent) == []


def test_what_is_ordered_otherwise_is_served_otherwise(agent: Agent) -> None:
    open_door = lan(anti_spoofing=False)
    running(agent, POD, lan()).memory.order = with_nics(POD, open_door, generation=2)
    agent.settle()
    assert did(agent) == ["serve", "set_metadata"]
    assert agent.node.wired[uid()] == (POD, open_door)


@pytest.mark.parametrize("kind", [NicKind.POD, NicKind.ATTACHMENT, NicKind.DEVICE])
def test_nics_of_the_pod_do_not_come_or_go_before_the_next_start(agent: Agent, kind: NicKind) -> None:
    fixed = NicOrder(name="fixed", mac="52:54:00:00:00:cc", kind=kind, interface="net1", resource="example.com/vf")
    running(agent, POD).memory.order = with_nics(POD, fixed, generation=2)
    agent.settle()
    assert has(agent) == {"default": True}
    agent.memory.order = with_nics(generation=3)
    agent.settle()
    assert has(agent) == {"default": True}
    assert planned(agent) == []
    assert not [line for line in did(agent) if "plug" in line]


def test_without_the_controllers_word_nothing_comes_or_goes(agent: Agent) -> None:
    """What is recorded may be half of a change."""
    agent.node.clinging_guests = True
    running(agent, POD, lan()).memory.order = with_nics(POD, generation=2)
    agent.settle()
    agent.restart()
    agent.node.let_go()
    agent.settle()
    assert has(agent) == {"default": True}
    assert agent.node.wired[uid()] == (POD,)


def test_a_machine_that_is_to_end_is_left_as_it_is(agent: Agent) -> None:
    agent.node.deaf_guests = True
    running(agent, POD).memory.order = with_nics(POD, lan(), generation=2)
    agent.node.terminate_pod(pod())
    agent.settle()
    assert has(agent) == {"default": True}


def test_slots_are_those_of_the_list_unless_they_are_taken(agent: Agent) -> None:
    nics = [lan(f"lan-{n}", f"52:54:00:00:01:0{n}") for n in range(7)]
    running(agent, POD, *nics[:3]).memory.order = with_nics(POD, nics[2], *nics[3:], generation=2)
    agent.settle()
    places = {nic.name: nic.slot for nic in guest(agent).nics}
    assert places == {"default": None, "lan-2": 4, "lan-3": 1, "lan-4": 5, "lan-5": 6, "lan-6": 7}


def test_a_machine_without_slots_says_so(agent: Agent) -> None:
    running(agent, POD).memory.order = with_nics(POD, lan(), generation=2)
    seen = agent.gather()
    assert seen.guest is not None
    full = replace(seen, guest=replace(seen.guest, free_slots=()))
    assert not [step for step in machine.plan(full).steps if isinstance(step, steps.PlugNic)]
    told = report(full, Progress())
    assert told is not None
    network = next(c for c in told.conditions if c.type == "NetworkReady")
    assert (network.status, network.reason) == (ConditionStatus.FALSE, "NoFreeSlot")
    assert "lan" in network.message


def test_a_guest_in_another_network_than_its_berth_is_ended(agent: Agent) -> None:
    running(agent, POD)
    lost = replace(agent.gather(), network_lost=True)
    [destroy] = machine.plan(lost).steps
    assert isinstance(destroy, steps.Destroy)
    assert destroy.code == "NetworkLost"
    assert not machine.plan(replace(lost, present=frozenset())).acts  # nor is it, while nobody knows of its berth


@pytest.mark.parametrize("power", OrderPower)
@pytest.mark.parametrize("clinging", [False, True])
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("cut", range(1, 10))
def test_a_change_that_is_cut_off_after_any_step_is_finished(
    agent: Agent, cut: int, silent: bool, clinging: bool, power: OrderPower
) -> None:
    """``silent``: the agent that takes over has no order at first."""
    gone, new = lan("gone", "52:54:00:00:00:01"), lan("new", "52:54:00:00:00:02")
    agent.node.clinging_guests = clinging
    running(agent, POD, gone)
    wanted = with_nics(POD, new, generation=2, power=power)
    agent.memory.order = wanted
    left = cut
    while left > 0 and (taken := agent.act(limit=left)):
        left -= taken
    agent.restart()
    if silent:
        agent.settle()
    agent.memory.order = wanted
    agent.settle()
    agent.node.let_go()
    agent.settle()
    assert has(agent) == {"default": True, "new": True}
    assert agent.node.wired[uid()] == (POD, new)
    assert guest(agent).order.machine.nics == (POD, new)
    assert agent.node.log.count(f"plug_nic {uid()} ua-nic-new") == 1
    assert agent.node.torn == []
    assert not gathered.gone(agent.gather())
    assert planned(agent) == []
