"""Snapshots that are taken, gone back to and deleted through the real reconcile, also with a controller that dies at
any write."""

from __future__ import annotations

import json

import pytest

from berth.plan.world import REVERT
from tests.scenario.controller_world import KEY, NAMESPACE
from tests.scenario.moving_world import MovingWorld
from tests.scenario.snapshot_world import VOLUME, SnapshotWorld


def up() -> SnapshotWorld:
    return SnapshotWorld().up()


def held(world: SnapshotWorld, name: str) -> list[str]:
    return list(world.cluster.snapshots[NAMESPACE, name]["metadata"]["finalizers"])


def test_one_is_taken_and_tells_what_it_holds() -> None:
    world = up()
    uid = world.taken("before")
    status = world.of("before")
    assert (status["size"], status["memorySize"], status["pauseMs"]) == ("9Mi", "6Mi", 120)
    assert status["disks"] == [{"name": "data", "size": "1Gi", "stored": "3Mi"}]
    assert (status["consistency"], status["epoch"]) == ("Memory", 1)
    assert status["machineUid"] == world.guests[0].uid
    assert json.loads(status["machine"])["savedState"] == VOLUME["savedState"]
    assert status["conditions"][0]["status"] == "True"
    assert held(world, "before") == ["berth.dev/snapshot"]
    [owner] = world.cluster.snapshots[NAMESPACE, "before"]["metadata"]["ownerReferences"]
    assert owner["uid"] == world.guests[0].uid
    assert list(world.volume) == [uid]
    before = len(world.cluster.writes)
    world.settle(20)
    world.restart_controller()
    world.settle(20)
    assert len(world.cluster.writes) == before
    [order] = world.nodes["a"].orders.values()
    assert order.state is not None
    assert order.state.snapshot is None, "it is taken once"


def test_what_it_costs_of_the_api_server() -> None:
    world = up()
    before = len(world.cluster.writes)
    world.taken("before")
    assert world.cluster.writes[before:].count("snapshot hold") == 1
    assert world.cluster.writes[before:].count("snapshot status") <= 5
    assert "status" not in world.cluster.writes[before:]


def test_two_are_taken_one_after_the_other() -> None:
    world = up()
    world.last_step = 2
    world.snapshot("first")
    world.advance(1)
    world.snapshot("second")
    world.settle(10)
    assert world.of("first")["phase"] == "Saving"
    assert (world.of("second")["phase"], world.of("second")["reason"]) == ("Pending", "WaitsForTurn")
    assert world.of("second")["message"] == "Snapshot first comes first."
    assert held(world, "second") == []
    world.last_step = 4
    world.settle(until=lambda: world.of("second").get("phase") == "Ready")
    assert {world.of(name)["phase"] for name in ("first", "second")} == {"Ready"}


def test_a_machine_without_a_volume_has_none() -> None:
    world = SnapshotWorld()
    world.apply()
    world.settle(until=lambda: world.status.get("phase") == "Running")
    world.snapshot("before")
    world.settle(5)
    assert (world.of("before")["phase"], world.of("before")["reason"]) == ("Failed", "NoSavedState")
    assert "Next: give spec.savedState, and restart it" in world.of("before")["message"]
    assert held(world, "before") == [], "what was never taken holds nothing up"
    world.apply(**VOLUME)
    world.snapshot("again")
    world.settle(5)
    assert "Next: restart it" in world.of("again")["message"]


def test_one_that_does_not_run_is_refused_at_once() -> None:
    world = SnapshotWorld()
    world.apply(power="Off", **VOLUME)
    world.settle(5)
    world.snapshot("before")
    world.settle(5)
    assert (world.of("before")["phase"], world.of("before")["reason"]) == ("Failed", "NotRunning")


def test_of_a_machine_that_is_not_there() -> None:
    world = SnapshotWorld()
    world.snapshot("before")
    world.settle(5)
    assert (world.of("before")["phase"], world.of("before")["reason"]) == ("Failed", "MachineMissing")
    world.cluster.delete_snapshot(NAMESPACE, "before")
    assert not world.cluster.snapshots


def test_one_that_is_made_with_its_machine_waits_for_its_start() -> None:
    world = SnapshotWorld()
    world.apply(**VOLUME)
    world.snapshot("first")
    world.deliver()
    world.reconcile()
    assert world.of("first")["phase"] == "Pending"
    world.settle(until=lambda: world.of("first").get("phase") == "Ready")
    assert world.of("first")["phase"] == "Ready"


def test_what_the_node_could_not_do_is_told_and_stays() -> None:
    world = up()
    world.fails = "VolumeFull", "no space is left. Next: free or add space on it"
    world.snapshot("before")
    world.settle(10)
    assert (world.of("before")["phase"], world.of("before")["reason"]) == ("Failed", "VolumeFull")
    world.fails = None
    world.settle(10)
    assert world.of("before")["phase"] == "Failed"
    assert not world.volume
    assert world.status["phase"] == "Running"


def test_the_deadline_ends_what_takes_too_long() -> None:
    world = up()
    world.last_step = 3
    world.snapshot("before", deadline="30s")
    world.settle(45)
    assert (world.of("before")["phase"], world.of("before")["reason"]) == ("Failed", "DeadlineExceeded")
    assert not world.taking, "the node has given it up"


def test_a_start_in_between_ends_it() -> None:
    world = up()
    world.last_step = 3
    world.snapshot("before")
    world.settle(6)
    assert world.of("before")["phase"] == "Copying"
    world.apply({"berth.dev/restartedAt": "2026-01-01T01:00:00Z"}, **VOLUME)
    world.settle(20)
    assert (world.of("before")["phase"], world.of("before")["reason"]) == ("Failed", "Interrupted")


def test_an_agent_that_knows_no_snapshots_gets_no_order_for_one() -> None:
    world = up()
    world.saves_states = False
    world.snapshot("before")
    world.settle(5)
    assert (world.of("before")["phase"], world.of("before")["reason"]) == ("Pending", "AgentTooOld")
    world.saves_states = True
    world.settle(until=lambda: world.of("before").get("phase") == "Ready")
    assert world.volume


def test_a_move_goes_first() -> None:
    world = MovingWorld()
    world.apply(**VOLUME)
    world.settle(until=lambda: world.status.get("phase") == "Running")
    world.move()
    world.settle(until=lambda: world.status.get("phase") == "Migrating")
    world.cluster.apply_snapshot(NAMESPACE, "before", {"vm": "web"})
    world.deliver()
    world.reconcile()
    told = world.cluster.snapshots[NAMESPACE, "before"]["status"]
    assert (told["phase"], told["reason"]) == ("Pending", "Migrating")
    ordered: set[str] = set()

    def over() -> bool:
        for node in world.nodes.values():
            for order in node.orders.values():
                if order.state is not None and order.state.snapshot is not None:
                    ordered.add(f"{node.name} {world.migration()['phase']}")
        return bool(ordered)

    world.settle(until=over)
    assert ordered == {"b Succeeded"}, "of the guest in its new place, and of no other"


def test_a_silent_agent_changes_nothing_that_is_under_way() -> None:
    world = up()
    world.last_step = 3
    world.snapshot("before")
    world.settle(6)
    world.disconnect("a", partitioned=True)
    world.settle(5)
    assert (world.of("before")["phase"], world.of("before")["reason"]) == ("Copying", "AgentDown")
    world.connect("a")
    world.last_step = 4
    world.settle(until=lambda: world.of("before").get("phase") == "Ready")
    assert world.of("before")["phase"] == "Ready"


def test_deleting_one_removes_its_files_first() -> None:
    world = up()
    world.taken("before")
    world.cluster.delete_snapshot(NAMESPACE, "before")
    world.deliver()
    world.reconcile()
    assert world.of("before")["phase"] == "Deleting"
    assert world.cluster.snapshots
    world.settle(5)
    assert not world.volume
    assert not world.cluster.snapshots


def test_of_a_machine_that_is_off_it_waits_and_says_for_what() -> None:
    world = up()
    world.taken("before")
    world.apply(power="Off", **VOLUME)
    world.settle(until=lambda: world.status["phase"] == "Stopped")
    world.cluster.delete_snapshot(NAMESPACE, "before")
    world.settle(5)
    assert world.volume
    assert "Next: start the machine, or delete it too" in world.of("before")["message"]
    world.apply(**VOLUME)
    world.settle(until=lambda: not world.cluster.snapshots)
    assert not world.cluster.snapshots
    assert not world.volume


def test_it_goes_with_its_machine() -> None:
    world = up()
    world.taken("before")
    world.cluster.delete(NAMESPACE, "web")
    world.settle(20)
    assert not world.cluster.machines
    world.cluster.delete_snapshot(NAMESPACE, "before")  # the garbage collector
    world.settle(5)
    assert not world.cluster.snapshots


def test_going_back_brings_disk_and_memory_once() -> None:
    world = up()
    world.disk = 7
    world.taken("before")
    world.disk = 8
    world.ask("before@1")
    world.settle(node="b", until=lambda: world.condition("Reverted").get("status") == "True")
    assert world.condition("Reverted")["message"] == "It has run from Snapshot before."
    assert [(guest.node, guest.boot, guest.epoch) for guest in world.guests] == [("b", 1, 2)]
    assert world.disk == 7
    assert world.status["restarts"] == 0
    assert world.status["revert"]["done"]
    assert "machine" not in {key for key, value in world.status["revert"].items() if value}
    world.disk = 9
    world.apply({"berth.dev/restartedAt": "2026-01-01T01:00:00Z"}, **VOLUME)
    world.settle(20, node="b")
    assert (world.disk, world.reverts, world.guests[0].epoch) == (9, 1, 3), "the same words are no new request"
    world.ask("before@2")
    world.settle(until=lambda: world.reverts == 2)
    assert (world.disk, world.most_guests) == (7, 1)


def test_of_disks_alone_it_boots() -> None:
    world = up()
    world.disk = 7
    world.taken("disks", memory=False)
    world.disk = 8
    world.ask("disks")
    world.settle(until=lambda: world.condition("Reverted").get("status") == "True")
    assert (world.disk, world.guests[0].boot) == (7, 2)
    assert world.of("disks")["consistency"] == "Crash"


def test_one_that_is_off_goes_back_at_its_next_start() -> None:
    world = up()
    world.disk = 7
    world.taken("before")
    world.disk = 8
    world.apply(power="Off", **VOLUME)
    world.settle(until=lambda: world.status["phase"] == "Stopped")
    world.ask("before", power="Off")
    world.settle(5)
    assert not world.guests
    assert world.condition("Reverted")["reason"] == "Reverting"
    assert "Next: set spec.power to On" in world.condition("Reverted")["message"]
    world.apply(**VOLUME)
    world.settle(until=lambda: world.condition("Reverted").get("status") == "True")
    assert (world.disk, world.guests[0].boot) == (7, 1)


def test_a_suspended_machine_gives_its_state_up_for_it() -> None:
    world = up()
    world.taken("before")
    world.apply(power="Suspended", **VOLUME)
    world.settle(until=lambda: world.status["phase"] == "Suspended" and world.pod is None)
    world.ask("before")
    world.settle(until=lambda: world.condition("Reverted").get("status") == "True")
    assert "savedState" not in world.status
    assert world.reverts == 1


def test_with_the_hardware_of_then() -> None:
    world = up()
    world.taken("before")
    world.ask("before", cpu={"count": 3})
    world.settle(until=lambda: world.condition("Reverted").get("status") == "True")
    [order] = world.nodes["a"].orders.values()
    assert order.machine.cpus == 1
    world.settle(5)
    assert world.status["pendingChanges"] == ["spec.cpu.count"]


@pytest.mark.parametrize("memory", [True, False])
def test_the_volume_that_it_is_in_is_mounted_though_the_machine_has_none_any_more(memory: bool) -> None:
    world = up()
    world.disk = 7
    world.taken("before", memory=memory)
    world.disk = 8
    world.apply({REVERT: "before"}, savedState=None)
    world.settle(until=lambda: world.condition("Reverted").get("status") == "True")
    assert (world.disk, world.status["pendingChanges"]) == (7, ["spec.savedState"])


@pytest.mark.parametrize(
    ("request_", "reason"),
    [("nobody", "SnapshotMissing"), ("half", "SnapshotNotReady")],
)
def test_what_cannot_be_gone_back_to_changes_nothing(request_: str, reason: str) -> None:
    world = up()
    world.last_step = 3
    world.snapshot("half")
    world.settle(5)
    world.ask(request_)
    world.settle(10)
    assert world.condition("Reverted")["reason"] == reason
    assert "Next: " in world.condition("Reverted")["message"]
    assert [guest.epoch for guest in world.guests] == [1]


def test_a_request_that_is_taken_back_is_given_up() -> None:
    world = up()
    world.taken("before")
    world.apply(power="Off", **VOLUME)
    world.settle(until=lambda: world.status["phase"] == "Stopped")
    world.ask("before", power="Off")
    world.settle(5)
    assert world.machine is not None
    del world.machine["metadata"]["annotations"][REVERT]
    world.apply(**VOLUME)
    world.settle(until=lambda: world.status["phase"] == "Running")
    assert world.reverts == 0
    assert not world.condition("Reverted")


def test_a_lost_snapshot_is_told_by_the_node_and_the_machine_waits() -> None:
    world = up()
    world.taken("before")
    world.volume.clear()
    world.ask("before")
    world.settle(20)
    assert not world.guests
    assert world.condition("Reverted")["reason"] == "Reverting"


def test_a_node_that_is_lost_after_it_ran_does_not_bring_it_about_again() -> None:
    """Nobody heard of it: the volume tells the next start."""
    world = up()
    world.disk = 7
    world.taken("before")
    world.ask("before")
    world.settle(until=lambda: world.pod is not None and bool(world.nodes["a"].orders) and not world.guests)
    world.settle(6, until=lambda: world.reverts == 1)
    world.nodes["a"].known.clear()
    world.disk = 8
    world.power_loss("a")
    world.delete_node("a")
    world.settle(node="b", until=lambda: world.condition("Reverted").get("status") == "True")
    assert (world.reverts, world.disk) == (1, 8)


@pytest.mark.parametrize("crash", range(24))
def test_a_controller_that_dies_at_any_write(crash: int) -> None:
    world = up()
    world.disk = 7
    world.crash_in = crash
    world.taken("before")
    world.crash_in = crash
    world.disk = 8
    world.ask("before")
    world.settle(until=lambda: world.condition("Reverted").get("status") == "True")
    assert (world.disk, world.reverts, world.most_guests) == (7, 1, 1)
    assert world.guests[0].boot == 1
    world.crash_in = crash
    world.cluster.delete_snapshot(NAMESPACE, "before")
    world.settle(until=lambda: not world.cluster.snapshots)
    assert not world.volume
    assert world.reconciler is not None
    assert KEY in world.cluster.machines
