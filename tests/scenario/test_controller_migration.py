"""Machines that move, through the real reconcile: to the end, given up, refused, the controller dead at any step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from berth.api.handover import MigrationState
from berth.api.order import FateReason
from berth.effects.ports_cluster import ApiRefused
from berth.plan.world import format_time
from tests.scenario.controller_world import KEY, POD
from tests.scenario.moving_world import MovingWorld


def up(**spec: Any) -> MovingWorld:
    world = MovingWorld()
    world.apply(**spec)
    world.settle(until=lambda: world.status.get("phase") == "Running")
    assert world.status["node"] == "a", world.status
    return world


def over(world: MovingWorld, name: str = "m") -> Callable[[], bool]:
    return lambda: world.migration(name).get("phase") in ("Succeeded", "Failed", "Cancelled")


def phases(world: MovingWorld, name: str = "m") -> list[str]:
    return [each["phase"] for each in world.migration(name)["phases"]]


def test_a_move_keeps_the_guest_and_its_past() -> None:
    world = up()
    world.advance(100)
    before = world.status
    world.move(deadline="10m")
    world.settle(until=over(world))
    told = world.migration()
    assert told["phase"] == "Succeeded", told
    assert phases(world) == ["Scheduling", "Preparing", "Running", "HandingOver", "Succeeded"]
    assert all(each["endedAt"] for each in told["phases"])
    assert (told["source"]["node"], told["target"]["node"], told["pauseMs"], told["percent"]) == ("a", "b", 120, 100)
    world.settle(8)
    after = world.status
    assert (after["phase"], after["node"], after["epoch"]) == ("Running", "b", 2)
    assert (after["startedAt"], after["restarts"]) == (before["startedAt"], before["restarts"])
    assert after["berth"] == told["target"]["berth"] != before["berth"]
    assert after["ip"] != before["ip"]
    assert "lastExit" not in after
    assert "migration" not in after
    assert world.phases[-3:] == ["Running", "Migrating", "Running"]
    assert world.starts == 1
    assert world.most_guests == 1
    assert world.moved  # its neighbours on Networks are told at once: no watch brings news of our own writes


def test_how_and_for_how_long_is_foretold_before_anything_is_sent() -> None:
    world = up()
    world.move()
    world.settle(until=lambda: bool(world.migration().get("method")))
    told = world.migration()
    assert (told["percent"], told["etaSeconds"]) == (0, 7)
    assert told["method"] == "precopy: it is calm"
    assert told["progress"] == "0%, 7 s left"
    world.settle(until=over(world))
    assert world.migration()["phase"] == "Succeeded"
    assert world.migration()["method"] == "precopy: it is calm"
    world.settle(20)
    assert all(order.leaving is None for node in world.nodes.values() for order in node.orders.values())


def test_the_old_berth_is_a_door_until_nothing_goes_through_it() -> None:
    world = up()
    old = world.pod_on("a")
    assert old is not None
    world.places["a"].connections[old["metadata"]["uid"]] = 3
    world.move()
    world.settle(until=over(world))
    world.settle(60)
    (order,) = world.nodes["a"].orders.values()
    new = world.pod_on("b")
    assert new is not None
    assert order.forward is not None
    assert (order.forward.node, order.forward.addresses) == ("b", (new["status"]["podIP"],))
    assert order.forward.door.pod_uid == old["metadata"]["uid"]
    (there,) = world.nodes["b"].orders.values()
    assert [door.number for door in there.doors] == [1]
    assert there.incoming is None
    world.places["a"].connections.clear()
    world.settle(9)
    assert world.pod_on("a") is not None
    world.settle(10)
    assert POD not in world.cluster.pods
    assert not world.nodes["a"].orders
    (there,) = world.nodes["b"].orders.values()
    assert there.doors == ()
    assert world.status["phase"] == "Running"
    writes = len(world.cluster.writes)
    world.settle(60)
    assert len(world.cluster.writes) == writes


def test_a_door_that_is_never_idle_is_closed_at_its_limit() -> None:
    world = up()
    old = world.pod_on("a")
    assert old is not None
    world.places["a"].connections[old["metadata"]["uid"]] = 3
    world.move()
    world.settle(until=over(world))
    world.advance(3500)
    world.settle(5)
    assert POD in world.cluster.pods
    world.advance(100)
    world.settle(10)
    assert POD not in world.cluster.pods


def test_there_and_on_and_back_again() -> None:
    """A→B→C→A with open connections everywhere: every door leads to where the guest is now. A node takes it back once
    its own door is closed: nobody's connection is cut for a move that can wait."""
    world = up()
    for number, node in enumerate("bca"):
        old = world.pod_on(world.status["node"])
        assert old is not None
        world.places[world.status["node"]].connections[old["metadata"]["uid"]] = 1
        world.move(f"m{number}", target={"nodeName": node})
        world.settle(until=over(world, f"m{number}"))
        if node == "a":
            told = world.migration("m2")
            assert (told["phase"], told["reason"]) == ("Preparing", "DoorOpen"), told
            assert world.status["node"] == "c"
            world.places["a"].connections.clear()
            world.settle(until=over(world, "m2"))
        assert world.migration(f"m{number}")["phase"] == "Succeeded", world.migration(f"m{number}")
        assert world.migration(f"m{number}")["pauseMs"] == 120
        world.settle(8)
        assert world.status["node"] == node
    assert world.history == ["b", "c", "a"]
    here = world.pod_on("a")
    assert here is not None
    order = world.nodes["a"].orders[world.guests[0].uid]
    assert [(door.number, door.node) for door in order.doors] == [(2, "b"), (3, "c")]
    for node in "bc":
        forward = world.nodes[node].orders[order.uid].forward
        assert forward is not None
        assert forward.addresses == (here["status"]["podIP"],)
        assert len(forward.others) == 1
    assert len(world.cluster.pods) == 3
    for place in world.places.values():
        place.connections.clear()
    world.settle(20)
    assert [pod["metadata"]["uid"] for pod in world.berths()] == [here["metadata"]["uid"]]
    assert world.most_guests == 1


def test_two_nodes_suffice_to_go_back_and_forth() -> None:
    world = MovingWorld(("a", "b"))
    world.apply()
    world.settle(until=lambda: world.status.get("phase") == "Running")
    for number in range(6):
        world.move(f"m{number}")
        world.settle(until=over(world, f"m{number}"))
        assert world.migration(f"m{number}")["phase"] == "Succeeded", world.migration(f"m{number}")
    assert world.history == ["b", "a"] * 3
    assert world.status["epoch"] == 7
    assert (world.starts, world.most_guests) == (1, 1)


def test_services_send_to_the_berth_that_the_guest_is_in() -> None:
    world = MovingWorld()
    world.apply()
    world.cluster.machines[KEY]["metadata"]["labels"] = {"app": "shop"}
    world.apply(restart="Always")
    world.settle(until=lambda: world.status.get("phase") == "Running")
    world.settle(3)
    old = world.pod_on("a")
    assert old is not None
    world.places["a"].connections[old["metadata"]["uid"]] = 1
    assert _ready(old)
    world.move()
    for _ in range(60):
        world.turn()
        here = [p for p in world.berths() if _ready(p)]
        assert len(here) <= 1 or not world.guests or here[-1]["metadata"]["uid"] == world.guests[0].pod_uid
        world.advance(1)
    assert [pod["spec"]["nodeName"] for pod in world.berths() if _ready(pod)] == ["b"]
    assert all(pod["metadata"]["labels"]["app"] == "shop" for pod in world.berths())


def _ready(pod: dict[str, Any]) -> bool:
    return {"type": "Ready", "status": "True"} in pod["status"].get("conditions", [])


@pytest.mark.parametrize(
    ("spec", "move", "reason"),
    [
        ({"power": "Off"}, {}, "MachineNotRunning"),
        ({}, {"target": {"nodeName": "a"}}, "SameNode"),
        ({}, {"target": {"nodeName": "z"}}, "TargetMissing"),
        ({}, {"deadline": "0s"}, "InvalidSpec"),
        ({}, {"vm": "other"}, "MachineMissing"),
        ({"nics": [{"name": "x", "device": {"resource": "example.org/vf"}}]}, {}, "HostDevice"),
        ({"nics": [{"name": "x", "multus": {"name": "lan"}}]}, {}, "PodInterface"),
    ],
)
def test_what_cannot_become_of_it_is_told_at_once(spec: Any, move: Any, reason: str) -> None:
    world = MovingWorld()
    world.apply(**spec)
    world.settle(until=lambda: world.status.get("phase") in ("Running", "Stopped"))
    pods = len(world.cluster.pods)
    world.move(**move)
    world.deliver()
    key = ("default", move.get("vm", KEY[1]))
    import asyncio

    asyncio.run(world.reconciler.reconcile(key))
    told = world.migration()
    assert (told["phase"], told["reason"]) == ("Failed", reason), told
    assert told["message"].endswith((".", "again"))
    assert len(world.cluster.pods) == pods
    if reason in ("HostDevice", "PodInterface"):
        assert (world.condition("Migratable")["status"], world.condition("Migratable")["reason"]) == ("False", reason)
        assert world.condition("Ready")["status"] == "True"


def test_agents_that_serve_no_others_move_nothing() -> None:
    world = up()
    world.peer_port = 0
    world.move()
    world.settle(5, until=over(world))
    assert world.migration()["reason"] == "AgentTooOld"
    assert len(world.cluster.pods) == 1


LOCAL = [{"name": "x", "empty": {}, "size": "1Gi"}, {"name": "y", "container": {"image": "i"}}]


def test_disks_of_the_node_go_along_and_it_says_so_before() -> None:
    world = up(disks=LOCAL)
    told = world.condition("Migratable")
    assert (told["status"], told["reason"]) == ("True", "CopiesDisks")
    assert "x (1Gi), y (as large as its image)" in told["message"]
    world.move()
    world.settle(until=over(world))
    assert world.migration()["phase"] == "Succeeded", world.migration()
    assert world.most_guests == 1


def test_agents_that_would_leave_disks_behind_do_not_move_them() -> None:
    world = up(disks=LOCAL)
    world.copies_disks = False
    world.move()
    world.settle(5, until=over(world))
    assert world.migration()["reason"] == "AgentTooOld"
    assert len(world.cluster.pods) == 1
    world = up()
    world.copies_disks = False
    world.move()
    world.settle(until=over(world))
    assert world.migration()["phase"] == "Succeeded", world.migration()


def test_one_at_a_time_for_one_machine() -> None:
    world = up()
    world.move("m")
    world.settle(until=lambda: world.migration("m").get("phase") == "Running")
    world.move("n")
    world.settle(until=over(world, "n"))
    assert (world.migration("n")["phase"], world.migration("n")["reason"]) == ("Failed", "AlreadyMigrating")
    world.settle(until=over(world))
    assert world.migration("m")["phase"] == "Succeeded"


def test_a_node_without_room_is_told_at_once_when_it_was_named_and_waited_for_when_not() -> None:
    world = up()
    for place in world.places.values():
        place.room = False
    world.move("named", target={"nodeName": "b"})
    world.settle(10, until=over(world, "named"))
    assert (world.migration("named")["phase"], world.migration("named")["reason"]) == ("Failed", "InsufficientMemory")
    assert len(world.cluster.pods) == 1
    world.move("any")
    world.settle(10)
    told = world.migration("any")
    assert (told["phase"], told["reason"]) == ("Scheduling", "InsufficientMemory")
    assert "Insufficient memory" in told["message"]
    migratable = world.condition("Migratable")
    assert migratable["reason"] == "InsufficientMemory"
    assert "Migration any" in migratable["message"]
    assert world.status["phase"] == "Running"
    world.places["c"].room = True
    world.settle(until=over(world, "any"))
    assert world.migration("any")["phase"] == "Succeeded"
    world.settle(3)
    assert world.condition("Migratable")["status"] == "True"


def test_a_quota_is_named_and_tried_again() -> None:
    world = up()
    world.cluster.refuse_pods = ApiRefused(403, 'pods "x" is forbidden: exceeded quota: team, requested: pods=1')
    world.move()
    world.settle(10)
    told = world.migration()
    assert (told["phase"], told["reason"]) == ("Scheduling", "QuotaExceeded")
    assert "exceeded quota: team" in told["message"]
    assert world.condition("Migratable")["reason"] == "QuotaExceeded"
    world.cluster.refuse_pods = None
    world.settle(until=over(world))
    assert world.migration()["phase"] == "Succeeded"


def test_the_deadline_ends_it_and_the_machine_stays() -> None:
    world = up()
    for place in world.places.values():
        place.room = False
    world.move(deadline="60s")
    world.settle(90, until=over(world))
    told = world.migration()
    assert (told["phase"], told["reason"]) == ("Failed", "DeadlineExceeded")
    assert "Insufficient memory" in told["message"]
    assert [pod["metadata"]["name"] for pod in world.berths()] == [POD[1]]


@pytest.mark.parametrize("phase", ["Scheduling", "Preparing", "Running", "HandingOver"])
@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_a_cancelled_move_leaves_nothing_behind(phase: str, how: str) -> None:
    """At any moment: it either stays where it was, or has been handed over already."""
    world = up()
    world.move()
    world.settle(until=lambda: world.migration().get("phase") == phase)
    if how == "cancel":
        world.move(cancel=True)
        world.settle(until=over(world))
    else:
        world.cluster.delete_migration("default", "m")
    world.settle(40)
    if how == "cancel":
        told = world.migration()["phase"]
        assert told == ("Succeeded" if world.status["node"] == "b" else "Cancelled")
    assert world.status["phase"] == "Running"
    assert len(world.cluster.pods) == 1
    (guest,) = world.guests
    assert guest.node == world.status["node"]
    assert (world.starts, world.most_guests) == (1, 1)
    assert world.nodes[guest.node].orders[guest.uid].outgoing is None
    if phase in ("Scheduling", "Preparing", "Running"):
        assert guest.node == "a"


def test_the_target_dies_while_memory_goes_over() -> None:
    world = up()
    world.move()
    world.settle(until=lambda: world.migration().get("phase") == "Running")
    world.power_loss("b")
    world.delete_node("b")
    world.settle(until=over(world))
    assert world.migration()["phase"] == "Failed"
    world.settle(5)
    assert (world.status["phase"], world.status["node"]) == ("Running", "a")
    assert world.starts == 1


def test_nodes_that_do_not_reach_each_other_any_more_hear_the_last_word_from_the_controller() -> None:
    world = up()
    world.move()
    world.settle(until=lambda: any(s.state is MigrationState.HANDED_OVER for s in world.sendings.values()))
    assert not world.guests
    world.cut = True
    world.settle(until=over(world))
    assert world.migration()["phase"] == "Succeeded", world.migration()
    assert [guest.node for guest in world.guests] == ["b"]
    assert world.most_guests == 1
    world.settle(8)
    (order,) = world.nodes["b"].orders.values()
    assert order.incoming is None


def test_a_source_that_was_not_asked_keeps_its_guest_though_the_nodes_are_cut_off() -> None:
    world = up()
    world.move()
    world.settle(until=lambda: any(copy.told for copy in world.copies.values()))
    world.cut = True
    world.settle(until=over(world))
    assert world.migration()["phase"] == "Failed", world.migration()
    world.settle(20)
    assert [guest.node for guest in world.guests] == ["a"]
    assert world.pod_on("b") is None


def test_the_source_dies_while_memory_goes_over_and_the_machine_is_started_anew() -> None:
    world = up()
    world.move()
    world.settle(until=lambda: world.migration().get("phase") == "Running")
    world.power_loss("a")
    world.settle(30)
    assert not world.guests
    assert len(world.cluster.pods) == 2  # nobody knows yet what became of the source
    world.delete_node("a")
    world.settle(60, until=lambda: world.status["phase"] == "Running")
    assert world.status["phase"] == "Running"
    assert world.migration()["phase"] == "Failed"
    assert (world.starts, world.most_guests) == (2, 1)


def test_the_guest_ends_while_its_memory_goes_over() -> None:
    world = up(restart="Never")
    world.move()
    world.settle(until=lambda: world.migration().get("phase") == "Running")
    world.end_guest(world.guests[0], FateReason.GUEST_POWEROFF, 0)
    world.settle(40)
    assert (world.migration()["phase"], world.migration()["reason"]) == ("Failed", "GuestEnded")
    assert world.status["phase"] == "Stopped"
    assert len(world.cluster.pods) == 1


@pytest.mark.parametrize("phase", ["Scheduling", "Preparing", "Running", "HandingOver"])
def test_switched_off_while_it_moves(phase: str) -> None:
    world = up()
    world.move()
    world.settle(until=lambda: world.migration().get("phase") == phase)
    world.apply(power="Off")
    world.settle(60, until=lambda: world.status["phase"] == "Stopped")
    assert world.status["phase"] == "Stopped"
    assert not world.guests
    world.settle(5)
    assert world.cluster.pods == {}
    assert world.migration()["phase"] in ("Cancelled", "Failed", "Succeeded")
    world.apply(power="On")
    world.settle(60, until=lambda: world.status["phase"] == "Running")
    assert (world.starts, world.most_guests) == (2, 1)
    assert world.status["berth"] == POD[1]


def test_a_moved_machine_is_restarted_under_its_lock() -> None:
    world = up()
    world.move()
    world.settle(until=over(world))
    world.apply({"berth.dev/restartedAt": format_time(world.now)})
    world.settle(60, until=lambda: world.starts == 2 and world.status["phase"] == "Running")
    assert world.status["berth"] == POD[1]
    assert world.status["epoch"] == 3
    assert world.most_guests == 1


@pytest.mark.parametrize("effects", range(44))
def test_the_controller_dies_at_any_step(effects: int) -> None:
    """Before and after every write and every order of a whole move."""
    world = up()
    world.move()
    world.crash_in = effects
    world.settle(80, until=over(world))
    assert world.migration()["phase"] == "Succeeded", world.migration()
    world.crash_in = None
    world.settle(30)
    assert (world.status["phase"], world.status["node"]) == ("Running", "b")
    assert (world.starts, world.most_guests, len(world.cluster.pods)) == (1, 1, 1)


def test_a_move_has_about_as_many_effects_as_the_test_above_thinks() -> None:
    world = up()
    world.crash_in = 1000
    world.move()
    world.settle(until=over(world))
    assert world.crash_in is not None
    assert 30 <= 1000 - world.crash_in <= 44


def test_a_controller_that_was_behind_makes_no_second_copy() -> None:
    """It saw the machine's berth end, and sleeps; another one leads, starts and moves the machine; then it wakes."""
    world = up(restart="Always")
    world.end_guest(world.guests[0], FateReason.GUEST_POWEROFF, 0)
    world.settle(40, until=lambda: world.status["phase"] == "Failed" and not world.cluster.pods)
    stale_cache, stale_moves, stale = world.cache, world.moves, world.reconciler
    world.restart_controller()
    world.settle(60, until=lambda: world.status["phase"] == "Running")
    world.move()
    world.settle(60, until=over(world))
    world.settle(40)
    assert POD not in world.cluster.pods
    fresh = world.cache, world.moves, world.reconciler
    world.cache, world.moves, world.reconciler = stale_cache, stale_moves, stale
    for _ in range(5):
        world.reconcile()  # no watch has told it anything
        world.schedule()
        world.kubelets()
        for name in world.nodes:
            world.step_node(name)
    assert world.most_guests == 1
    world.cache, world.moves, world.reconciler = fresh
    world.settle(60)
    assert (world.status["phase"], world.status["node"], world.most_guests) == ("Running", "b", 1)
    assert len(world.cluster.pods) == 1
