"""A machine that is suspended and resumed through the real reconcile, also with a controller that dies at any write."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.controller_world import KEY, World
from tests.scenario.test_controller_life import moved

SPEC: dict[str, Any] = {"savedState": {"pvc": {"claimName": "states"}}}


def up(**spec: Any) -> World:
    world = World()
    world.apply(**{**SPEC, **spec})
    world.settle(until=lambda: world.status.get("phase") == "Running")
    return world


def suspended(**spec: Any) -> World:
    world = up(**spec)
    world.apply(power="Suspended", **{**SPEC, **spec})
    world.settle(until=lambda: world.status["phase"] == "Suspended" and world.pod is None)
    assert world.status["phase"] == "Suspended", world.status
    return world


def resume(world: World, node: str = "b", **spec: Any) -> None:
    world.apply(**{**SPEC, **spec})
    world.settle(node=node, until=lambda: world.status["phase"] == "Running")
    assert world.status["phase"] == "Running", world.status


def test_it_costs_no_pod_and_no_writes_and_goes_on_on_another_node() -> None:
    world = suspended()
    assert world.cluster.writes[4:] == ["status", "status", "status", "delete", "status"]
    assert not world.guests
    assert (world.status["savedState"]["epoch"], world.status["savedState"]["sure"]) == (1, True)
    assert world.condition("GuestRunning")["reason"] == "Suspended"
    assert world.status["message"].startswith("Its memory and devices are saved.")
    assert "node" not in world.status
    before = len(world.cluster.writes)
    world.settle(30)
    world.restart_controller()
    world.settle(30)
    assert len(world.cluster.writes) == before
    resume(world)
    assert [(guest.node, guest.boot, guest.epoch) for guest in world.guests] == [("b", 1, 2)]
    assert "savedState" not in world.status
    assert (world.status["restarts"], world.status["node"]) == (0, "b")
    assert moved(world)
    world.settle(30)
    order = world.nodes["b"].orders[world.guests[0].uid]
    assert order.state is not None
    assert order.state.restore is None


def test_the_order_names_the_state_and_the_volume() -> None:
    world = suspended()
    world.apply(**SPEC)
    world.settle(node="b", until=lambda: bool(world.nodes["b"].orders))
    [order] = world.nodes["b"].orders.values()
    assert order.state is not None
    assert (order.state.folder, order.state.save, order.state.restore) == ("/berth/saved", False, 1)
    assert world.pod is not None
    volumes = {volume["name"]: volume for volume in world.pod["spec"]["volumes"]}
    assert volumes["saved"] == {"name": "saved", "persistentVolumeClaim": {"claimName": "states"}}


def test_off_gives_the_state_up_and_the_next_start_boots() -> None:
    world = suspended()
    world.apply(power="Off", **SPEC)
    world.settle(until=lambda: world.status["phase"] == "Stopped")
    assert "savedState" not in world.status
    resume(world)
    assert [guest.boot for guest in world.guests] == [2]
    assert moved(world)


def test_one_without_a_volume_runs_on_and_says_what_to_do() -> None:
    world = World()
    world.apply()
    world.settle(until=lambda: world.status.get("phase") == "Running")
    world.apply(power="Suspended")
    world.settle(20)
    assert world.status["phase"] == "Running"
    assert world.guests
    assert world.condition("Suspendable")["reason"] == "NoSavedState"
    assert "Next: give spec.savedState" in world.status["message"]
    world.apply(power="Suspended", **SPEC)
    world.settle(20)
    assert world.status["phase"] == "Running"
    assert world.condition("Suspendable")["reason"] == "SavedStateNotMounted"


def test_an_older_agent_boots_nothing_that_is_to_be_restored() -> None:
    world = suspended()
    world.saves_states = False
    world.apply(**SPEC)
    world.settle(20)
    assert not world.guests
    assert world.states
    assert world.condition("GuestRunning")["reason"] == "AgentTooOld"
    assert world.condition("Suspendable")["reason"] == "AgentTooOld"
    world.saves_states = True
    world.settle(20, until=lambda: world.status["phase"] == "Running")
    assert [guest.boot for guest in world.guests] == [1]


def test_a_save_that_fails_leaves_it_running_and_tells_why() -> None:
    world = up()
    world.save_fails = "VolumeFull"
    world.apply(power="Suspended", **SPEC)
    world.settle(20)
    assert world.status["phase"] == "Running"
    assert world.condition("Suspendable")["reason"] == "VolumeFull"
    assert world.status["message"] == "No space is left."
    world.save_fails = ""
    world.settle(until=lambda: world.status["phase"] == "Suspended")
    assert world.states


def test_one_that_never_ran_has_nothing_to_save() -> None:
    world = World()
    world.apply(power="Suspended", **SPEC)
    world.settle(20)
    assert world.status["phase"] == "Stopped"
    assert world.starts == 0
    assert "nothing to save" in world.status["message"]


@pytest.mark.parametrize("far", ["no node", "a node", "an order"])
def test_suspended_again_before_its_state_was_used_it_keeps_it(far: str) -> None:
    world = suspended()
    world.apply(**SPEC)
    world.deliver()
    world.reconcile()
    if far != "no node":
        world.bind("a")
        world.deliver()
    if far == "an order":
        world.reconcile()
        assert world.nodes["a"].orders
    world.apply(power="Suspended", **SPEC)
    world.settle(30, until=lambda: world.status["phase"] == "Suspended" and world.pod is None)
    assert world.status["savedState"]["epoch"] == 1
    assert (world.status["restarts"], world.starts) == (0, 1)
    resume(world)
    assert [guest.boot for guest in world.guests] == [1]
    assert moved(world)


def test_a_node_that_is_lost_while_it_saves_leaves_a_state_of_which_nobody_is_sure() -> None:
    world = up()
    world.save_fails = "VolumeSlow"
    world.apply(power="Suspended", **SPEC)
    world.settle(3)
    world.power_loss("a")
    world.settle(40)
    world.delete_node("a")
    world.settle(40, node="b", until=lambda: world.status["phase"] == "Suspended")
    assert world.status["savedState"]["sure"] is False
    assert world.condition("GuestRunning")["reason"] == "SuspendedPerhaps"
    world.save_fails = ""
    world.apply(**SPEC)
    world.settle(40, node="b", until=lambda: world.status["phase"] == "Running")
    assert [(guest.node, guest.boot) for guest in world.guests] == [("b", 2)]


def test_the_berths_last_words_tell_when_its_agent_cannot() -> None:
    world = up()
    world.apply(power="Suspended", **SPEC)
    world.settle(until=lambda: not world.guests)
    world.nodes["a"].known.clear()
    world.disconnect("a")
    world.step_node("a")
    world.settle(40, until=lambda: world.status["phase"] == "Suspended")
    assert (world.status["savedState"]["epoch"], world.status["savedState"]["sure"]) == (1, True)


def test_it_comes_back_with_the_hardware_that_it_was_saved_with() -> None:
    world = suspended()
    resume(world, memory={"size": "4Gi"})
    [order] = world.nodes["b"].orders.values()
    assert order.machine.memory_bytes == 512 << 20
    assert world.status["pendingChanges"] == ["spec.memory.size"]
    world.settle(30)
    assert [guest.boot for guest in world.guests] == [1]


def test_its_own_claim_is_made_once_and_belongs_to_it() -> None:
    own = {"savedState": {"claim": {"storageClassName": "fast"}}}
    world = World()
    world.apply(**own)
    world.settle(until=lambda: world.status.get("phase") == "Running")
    [(key, claim)] = world.cluster.claims.items()
    assert key == ("default", "web-saved-state")
    assert world.machine is not None
    assert claim["metadata"]["ownerReferences"][0]["uid"] == world.machine["metadata"]["uid"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "768Mi"}}
    assert claim["spec"]["storageClassName"] == "fast"
    assert world.cluster.writes == ["finalize", "claim", "create", "status", "status"]
    world.cluster.delete(*KEY)
    world.settle(30)
    assert world.machine is None


def test_a_claim_of_somebody_else_is_not_used() -> None:
    world = World()
    world.cluster.claims["default", "web-saved-state"] = {"metadata": {"name": "web-saved-state"}}
    world.apply(savedState={"claim": {}})
    world.settle(20)
    assert world.pod is None
    assert "is not this machine's" in world.status["message"]


@pytest.mark.parametrize("effects", range(12))
@pytest.mark.parametrize("resumes", [False, True])
def test_a_controller_that_dies_at_any_step(effects: int, resumes: bool) -> None:
    world = suspended() if resumes else up()
    world.crash_in = effects
    world.apply(power="On" if resumes else "Suspended", **SPEC)
    goal = "Running" if resumes else "Suspended"
    world.settle(60, node="b", until=lambda: world.status["phase"] == goal)
    world.crash_in = None
    world.settle(10, node="b")
    assert world.status["phase"] == goal
    assert world.most_guests == 1
    assert world.starts == 1
    assert bool(world.states) is not resumes
