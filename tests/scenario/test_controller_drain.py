"""Draining a node, as kubectl does it: machines that may move do, others are shut down or hold it up, as they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from berth.plan.evacuation import GUARD_NAME, guard
from tests.scenario.controller_world import KEY, POD
from tests.scenario.moving_world import MovingWorld


def up(**spec: Any) -> MovingWorld:
    world = MovingWorld()
    world.apply(**spec)
    world.settle(until=lambda: world.status.get("phase") == "Running")
    assert world.status["node"] == "a", world.status
    return world


def moves(world: MovingWorld) -> list[Any]:
    return list(world.cluster.migrations.values())


def test_a_drain_moves_a_machine_and_comes_to_its_end() -> None:
    world = up()
    old = world.pod_on("a")
    assert old is not None
    world.places["a"].connections[old["metadata"]["uid"]] = 5  # its door is no reason to wait
    assert world.drain("a")
    world.settle(10)
    (move,) = moves(world)
    assert (move["spec"]["priority"], move["status"]["phase"]) == ("Drain", "Succeeded")
    assert (world.status["phase"], world.status["node"], world.starts) == ("Running", "b", 1)
    assert world.pod_on("b")["metadata"]["labels"]["berth.dev/eviction"] == "guarded"  # type: ignore[index]
    writes = len(world.cluster.writes)
    world.settle(120)
    assert len(world.cluster.writes) == writes


def test_a_drain_does_not_wait_for_old_connections_through_the_only_other_node() -> None:
    world = MovingWorld(("a", "b"))
    world.apply()
    world.settle(until=lambda: world.status.get("phase") == "Running")
    old = world.pod_on("a")
    assert old is not None
    world.places["a"].connections[old["metadata"]["uid"]] = 5
    world.move("user")
    world.settle(until=lambda: world.migration("user").get("phase") == "Succeeded")
    world.settle(5)
    assert len(world.cluster.pods) == 2
    assert world.drain("b")
    assert (world.status["node"], world.starts, world.most_guests) == ("a", 1, 1)


def test_one_that_is_to_be_shut_down_is_and_starts_elsewhere() -> None:
    world = up(eviction="Shutdown")
    assert world.drain("a")
    world.settle(60, until=lambda: world.status["phase"] == "Running")
    assert (world.status["node"], world.starts, moves(world)) == ("b", 2, [])


def test_one_that_cannot_move_is_shut_down() -> None:
    world = up(nics=[{"name": "x", "device": {"resource": "example.org/vf"}}])
    assert world.drain("a")
    world.settle(60, until=lambda: world.status["phase"] == "Running")
    assert (world.status["node"], world.starts, moves(world)) == ("b", 2, [])


def test_one_with_disks_of_its_node_moves_with_them() -> None:
    world = up(disks=[{"name": "x", "empty": {}, "size": "1Gi"}])
    assert world.drain("a")
    assert (world.status["node"], world.starts) == ("b", 1)
    assert [move["status"]["phase"] for move in moves(world)] == ["Succeeded"]


def test_one_that_blocks_holds_the_drain_up() -> None:
    world = up(eviction="Block")
    assert not world.drain("a", rounds=30)
    assert (world.status["phase"], world.status["node"], world.starts, moves(world)) == ("Running", "a", 1, [])


def test_a_drain_waits_for_room() -> None:
    world = up()
    for place in world.places.values():
        place.room = False
    assert not world.drain("a", rounds=30)
    (move,) = moves(world)
    assert (move["status"]["phase"], move["status"]["reason"]) == ("Scheduling", "InsufficientMemory")
    assert world.status["phase"] == "Running"
    world.places["c"].room = True
    assert world.drain("a")
    assert len(moves(world)) == 1
    assert (world.status["node"], world.starts) == ("c", 1)


def test_what_eviction_means_can_be_changed_while_it_runs() -> None:
    world = up()
    assert not world.cluster.writes.count("guard")
    world.apply(eviction="Shutdown")
    world.settle(3)
    assert "berth.dev/eviction" not in world.cluster.pods[POD]["metadata"]["labels"]
    world.apply(eviction="Block")
    world.settle(3)
    assert world.cluster.pods[POD]["metadata"]["labels"]["berth.dev/eviction"] == "guarded"
    assert world.cluster.writes.count("guard") == 2
    assert world.starts == 1


def test_a_move_that_fails_is_tried_again_a_minute_later() -> None:
    world = up()
    world.cordon("a")
    world.settle(until=lambda: any(m.get("status", {}).get("phase") == "Running" for m in moves(world)))
    target = next(g for g in world.copies.values()).node
    world.power_loss(target)
    world.delete_node(target)
    world.settle(120, until=lambda: world.status["node"] != "a")
    assert [m["status"]["phase"] for m in moves(world)][:1] == ["Failed"]
    assert world.status["node"] not in ("a", target)
    assert (world.starts, world.most_guests) == (1, 1)


def test_one_budget_for_a_namespace_that_never_allows_a_disruption() -> None:
    world = up()
    assert world.cluster.guards == {KEY[0]}
    made = guard("team")
    assert made["metadata"]["name"] == GUARD_NAME
    assert made["spec"]["minAvailable"] > 10**9


def test_what_a_drain_made_does_not_pile_up() -> None:
    """Each node in turn: the newest five of the machine's own moves stay, and what its owner made stays, too."""
    world = up()
    world.move("mine")
    world.settle(until=lambda: world.migration("mine").get("phase") == "Succeeded")
    for _ in range(7):
        world.advance(120)
        node = world.status["node"]
        assert world.drain(node)
        world.settle(20, until=lambda: all(move["status"].get("endedAt") for move in moves(world)))
        world.common = replace(world.common, cordoned=frozenset())
    assert (world.starts, world.most_guests) == (1, 1)
    kept = [move["metadata"]["name"] for move in moves(world)]
    assert "mine" in kept
    assert len(kept) == 6
    newest = max(moves(world), key=lambda move: move["metadata"]["creationTimestamp"])
    assert newest["status"]["target"]["node"] == world.status["node"]


def test_a_drain_that_is_taken_back_in_time_moves_nothing() -> None:
    world = up()
    world.cordon("a")
    world.settle(until=lambda: any(m.get("status", {}).get("phase") == "Scheduling" for m in moves(world)))
    world.common = replace(world.common, cordoned=frozenset())
    world.settle(20)
    (move,) = moves(world)
    assert (move["status"]["phase"], move["status"]["reason"]) == ("Cancelled", "Uncordoned"), move["status"]
    assert (world.status["phase"], world.status["node"], len(world.cluster.pods)) == ("Running", "a", 1)
