"""A machine's life through the real reconcile: create, stop, restart, crash, delete, lost agents and nodes."""

from __future__ import annotations

from berth.api.order import FateReason
from berth.plan.phases import MOVES
from berth.plan.world import format_time
from tests.scenario.controller_world import KEY, POD, World


def up() -> World:
    world = World()
    world.apply()
    world.settle(until=lambda: world.status.get("phase") == "Running")
    assert world.status["phase"] == "Running", world.status
    return world


def moved(world: World) -> bool:
    """Only changes of phase that the lifecycle knows were ever seen."""
    known = {(old.value, new.value) for old, new, _ in MOVES}
    seen = set(zip(world.phases, world.phases[1:], strict=False))
    assert seen <= known, seen - known
    return True


def test_a_start_costs_four_writes() -> None:
    world = up()
    assert world.cluster.writes == ["finalize", "create", "status", "status"]
    assert world.status["node"] == "a"
    assert world.status["ip"] == "10.0.0.9"
    assert world.status["epoch"] == 1
    assert {c["status"] for c in world.status["conditions"]} == {"True"}, world.status["conditions"]


def test_an_idle_machine_costs_none_and_a_new_controller_none() -> None:
    world = up()
    world.settle(20)
    before = len(world.cluster.writes)
    world.restart_controller()
    world.settle(700)
    assert len(world.cluster.writes) == before


def test_off_and_on_again() -> None:
    world = up()
    world.apply(power="Off")
    world.settle(until=lambda: world.status["phase"] == "Stopped")
    assert world.pod is None
    assert not world.guests
    assert world.status["lastExit"]["reason"] == "ShutDown"
    assert "node" not in world.status
    assert world.cluster.writes[4:] == ["status", "delete", "status", "status"]
    before = len(world.cluster.writes)
    world.restart_controller()
    world.settle(30)
    assert len(world.cluster.writes) == before
    world.apply(power="On")
    world.settle(until=lambda: world.status["phase"] == "Running")
    assert world.status["epoch"] == 2
    assert world.status["restarts"] == 0
    assert moved(world)


def test_pause_and_resume_keep_the_guest() -> None:
    world = up()
    world.apply(power="Paused")
    world.settle(until=lambda: world.status["phase"] == "Paused")
    world.apply(power="On")
    world.settle(until=lambda: world.status["phase"] == "Running")
    assert world.starts == 1
    assert moved(world)


def test_restart_by_annotation_even_if_it_never_restarts_by_itself() -> None:
    world = World()
    world.apply(restart="Never")
    world.settle(until=lambda: world.status.get("phase") == "Running")
    world.advance(5)
    world.apply({"berth.dev/restartedAt": format_time(world.now)}, restart="Never")
    world.settle(until=lambda: world.status["epoch"] == 2 and world.status["phase"] == "Running")
    assert world.starts == 2
    assert world.status["restarts"] == 0
    world.settle(30)
    assert world.starts == 2


def test_crashes_back_off_and_ten_quiet_minutes_make_good() -> None:
    world = up()
    waits = []
    for _ in range(7):
        world.end_guest(world.guests[0], FateReason.GUEST_PANICKED, 1)
        ended = world.now
        world.settle(400, until=lambda: bool(world.guests))
        waits.append((world.now - ended).total_seconds())
    expected = (10, 20, 40, 80, 160, 300, 300)
    assert all(e <= w <= e + 10 for w, e in zip(waits, expected, strict=True)), waits
    assert world.status["restarts"] == 7
    world.settle(620)
    assert world.status["restarts"] == 0
    assert world.status["lastExit"]["reason"] == "GuestPanicked"
    assert moved(world)


def test_a_crash_is_told_while_the_back_off_lasts() -> None:
    world = up()
    world.end_guest(world.guests[0], FateReason.QEMU_CRASHED, 1)
    world.settle(until=lambda: world.status["phase"] == "Failed")
    assert world.condition("GuestRunning")["reason"] == "QemuCrashed"
    assert world.status["nextStartAt"] > world.status["lastExit"]["at"]
    assert world.status["restarts"] == 1
    assert world.condition("Ready")["status"] == "False"
    assert world.pod is not None  # its log is still there


def test_policies() -> None:
    for policy, code, again in (
        ("Always", 0, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 1, False),
        ("Never", 0, False),
    ):
        world = World()
        world.apply(restart=policy)
        world.settle(until=lambda w=world: w.status.get("phase") == "Running")
        reason = FateReason.GUEST_PANICKED if code else FateReason.GUEST_POWEROFF
        world.end_guest(world.guests[0], reason, code)
        world.settle(60)
        assert (world.starts == 2) == again, (policy, code, world.status)
        if not again:
            assert world.status["phase"] == ("Failed" if code else "Stopped")
            assert world.status["epoch"] == 1


def test_a_berth_deleted_by_somebody_shuts_down_and_is_started_again() -> None:
    for policy, again in (("Always", True), ("OnFailure", True), ("Never", False)):
        world = World()
        world.apply(restart=policy)
        world.settle(until=lambda w=world: w.status.get("phase") == "Running")
        pod = world.pod
        assert pod is not None
        world.cluster.end_pod(POD, pod["metadata"]["uid"])
        world.settle(60)
        assert world.starts == (2 if again else 1), (policy, world.status)
        assert world.status["lastExit"]["reason"] == "ShutDown"


def test_delete_waits_for_the_guest_and_leaves_nothing() -> None:
    world = up()
    world.cluster.delete(*KEY)
    world.deliver()
    world.reconcile()
    assert world.machine is not None
    assert "shutting down" in world.status["message"]
    world.settle()
    assert world.machine is None
    assert world.pod is None
    assert not world.guests


def test_a_silent_agent_is_told_and_the_guest_goes_on() -> None:
    world = up()
    world.disconnect("a")
    world.settle(3)
    assert world.condition("AgentConnected")["status"] == "True"
    world.settle(4)
    assert world.condition("AgentConnected")["reason"] == "AgentDown"
    assert "node a" in world.status["message"]
    assert world.status["phase"] == "Running"
    world.settle(40)
    assert world.status["phase"] == "Unknown"
    world.connect("a")
    world.settle(5)
    assert world.status["phase"] == "Running"
    assert world.starts == 1
    assert moved(world)


def test_a_new_controller_with_a_silent_agent_does_not_forget_the_guest() -> None:
    world = up()
    world.disconnect("a")
    world.settle(60)
    world.restart_controller()
    world.settle(60)
    assert world.status["phase"] == "Unknown"
    assert world.starts == 1


def test_a_forced_pod_deletion_on_a_silent_node_starts_no_second_guest() -> None:
    world = up()
    world.disconnect("a")
    world.cluster.remove_pod(POD)  # kubectl delete --force: the guest runs on
    world.restart_controller()
    for _ in range(40):
        world.deliver()
        world.reconcile()
        world.advance(1)
    assert world.pod is None
    assert len(world.guests) == 1
    assert "node a" in world.status["message"]
    world.connect("a")
    world.settle(node="b", until=lambda: world.status["phase"] == "Running")
    assert world.most_guests == 1
    assert world.starts == 2


def test_a_lost_node_is_left_once_its_node_object_is_gone() -> None:
    world = up()
    world.power_loss("a")
    pod = world.pod
    assert pod is not None
    world.cluster.end_pod(POD, pod["metadata"]["uid"])  # taint eviction: no kubelet answers
    world.settle(120, node="b")
    assert world.starts == 1
    assert world.condition("PlacementReady")["reason"] == "BerthStuckTerminating"
    world.delete_node("a")
    world.settle(60, node="b", until=lambda: world.status["phase"] == "Running")
    assert world.status["node"] == "b"
    assert world.starts == 2
    assert world.most_guests == 1


def test_a_deletion_on_a_lost_node_names_its_blocker() -> None:
    world = up()
    world.power_loss("a")
    world.cluster.delete(*KEY)
    world.settle(120)
    assert world.machine is not None
    assert "node a" in world.status["message"]
    assert "delete the Node" in world.status["message"]
    world.delete_node("a")
    world.settle(30)
    assert world.machine is None


def test_a_spec_mended_before_the_guest_ran_makes_a_new_berth() -> None:
    world = World()
    world.apply(boot={"kernel": {"image": "example.org/typo:1"}})
    world.deliver()
    world.reconcile()
    world.apply(boot={"kernel": {"image": "example.org/right:1"}})
    world.settle(until=lambda: world.status.get("phase") == "Running")
    assert "right" in (world.pod or {})["metadata"]["annotations"]["berth.dev/machine"]
    assert world.starts == 1


def test_a_change_that_needs_a_boot_waits_for_it() -> None:
    world = up()
    world.apply(memory={"size": "2Gi"})
    world.settle(until=lambda: bool(world.status.get("pendingChanges")))
    assert world.status["pendingChanges"] == ["spec.memory.size"]
    assert world.starts == 1


def test_a_machine_that_was_never_started_needs_no_finalizer() -> None:
    world = World()
    world.apply(power="Off")
    world.settle(10)
    assert world.status["phase"] == "Stopped"
    assert world.cluster.writes == ["status"]
    world.cluster.delete(*KEY)
    assert world.machine is None
