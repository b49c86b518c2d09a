"""The reconcile's own part: back-off of refused berths, held-back progress, Events, a cache that is behind."""

from __future__ import annotations

import asyncio

from berth.controller.tracing import Trace
from berth.effects.ports_cluster import ApiRefused
from berth.plan.tell import Tell
from berth.plan.world import Machine
from tests.scenario.controller_world import KEY, NAME, NAMESPACE, POD, World


def test_a_refused_berth_is_told_at_once_and_tried_again_ever_more_seldom() -> None:
    world = World()
    world.apply()
    world.deliver()
    world.cluster.refuse_pods = ApiRefused(403, "exceeded quota: small", reason="Forbidden")
    assert world.reconcile() == 2.0
    assert world.condition("PlacementReady")["reason"] == "QuotaExceeded"
    tries = []
    for second in range(120):
        before = world.cluster.writes.count("create")
        world.deliver()
        world.reconcile()
        if world.cluster.writes.count("create") > before:
            tries.append(second)
        world.advance(1)
    assert tries == [2, 6, 14, 30, 62]
    assert world.cluster.writes.count("status") == 1
    world.cluster.refuse_pods = None
    world.settle(70, until=lambda: world.status["phase"] == "Running")
    assert world.status["phase"] == "Running"


def test_a_foreign_pod_is_named_and_once_gone_the_machine_starts() -> None:
    world = World()
    squatter = {"metadata": {"namespace": NAMESPACE, "name": POD[1]}, "spec": {}}
    asyncio.run(world.cluster.create_pod(squatter))
    world.apply()
    world.deliver()
    world.reconcile()
    assert world.condition("PlacementReady")["reason"] == "NameTaken"
    world.cluster.remove_pod(POD)
    world.settle(30, until=lambda: world.status["phase"] == "Running")
    assert world.status["phase"] == "Running"


def test_our_own_pod_of_which_no_news_has_come_is_taken_up() -> None:
    world = World()
    world.apply()
    world.deliver()
    world.reconcile()
    cache = world.cache
    cache._pods.clear()  # as if the answer to the create had been lost with a crash
    world.reconcile()
    assert cache.pod(KEY) is not None
    assert len(world.cluster.pods) == 1


def test_progress_waits_a_moment_and_is_then_shown() -> None:
    world = World()
    world.apply()
    world.deliver()
    left = world.reconcile()
    assert left is not None
    assert 0 < left <= 1
    assert world.status == {}
    world.advance(1.1)
    world.reconcile()
    assert world.status["phase"] == "Pending"
    assert "scheduler" in world.status["message"]


def test_a_finalizer_write_on_old_news_waits_for_new_ones() -> None:
    world = World()
    world.apply()
    world.deliver()
    world.apply(memory={"size": "1Gi"})  # the controller has not heard of it
    assert world.reconcile() == 0.2
    assert world.pod is None
    world.deliver()
    world.reconcile()
    assert world.pod is not None


def test_a_machine_that_went_is_let_go() -> None:
    world = World()
    world.apply()
    world.deliver()
    del world.cluster.machines[KEY]
    assert world.reconcile() is None
    assert world.cache.machines == {}


def test_events_tell_of_starts_and_their_reasons() -> None:
    world, told = World(), list[Tell]()

    def tell(machine: Machine, said: Tell) -> None:
        assert machine.name == NAME
        told.append(said)

    world.reconciler._tell = world.reconciler._applier._tell = tell
    world.apply()
    world.settle(until=lambda: world.status.get("phase") == "Running")
    world.apply(power="Off")
    world.settle(until=lambda: world.status.get("phase") == "Stopped")
    assert [t.reason for t in told] == ["Starting", "Running", "BerthDeleted", "Stopping", "Stopped"] or [
        t.reason for t in told
    ] == ["Starting", "Running", "Stopping", "BerthDeleted", "Stopped"]
    assert "spec.power is Off" in next(t for t in told if t.reason == "BerthDeleted").message


def test_the_own_share_leaves_out_what_others_took() -> None:
    trace = Trace()
    trace.begin(3, 0.0)
    trace.begun = 0.0
    trace.mark("berth_created")
    trace.add(0.0, waited=10**9)
    assert (trace.own, trace.runs) == (0.0, 1)
    trace.end("default/web")
    assert trace.epoch == 0
