"""Snapshots among everything else, in any order, and the controller dies at any step (test_controller_chaos.py).

A request to go back is carried out once, brings what the Snapshot holds, and no files go but those of a deleted one.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from berth.plan.world import REVERT
from tests.scenario.controller_world import NAMESPACE, World
from tests.scenario.snapshot_world import SnapshotWorld
from tests.scenario.test_controller_chaos import Chaos

NAMES = st.sampled_from(["s1", "s2", "s3"])


class SnapshotChaos(Chaos):
    def make_world(self) -> World:
        self.snaps = SnapshotWorld()
        self.requests = 0
        return self.snaps

    @precondition(lambda self: not self.deleted)
    @rule(name=NAMES, memory=st.booleans())
    def take(self, name: str, memory: bool) -> None:
        if (NAMESPACE, name) not in self.snaps.cluster.snapshots:
            self.snaps.snapshot(name, memory=memory)

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        if (NAMESPACE, name) in self.snaps.cluster.snapshots:
            self.snaps.cluster.delete_snapshot(NAMESPACE, name)

    @precondition(lambda self: not self.deleted)
    @rule(name=NAMES)
    def go_back(self, name: str) -> None:
        self.requests += 1
        self.world.apply({REVERT: f"{name}@{self.requests}"}, **self.spec)

    @precondition(lambda self: not self.deleted)
    @rule()
    def think_better_of_it(self) -> None:
        machine = self.world.machine
        if machine is not None:
            machine["metadata"]["annotations"].pop(REVERT, None)
            self.world.apply(**self.spec)

    @rule()
    def guest_writes(self) -> None:
        self.snaps.disk += 1 if self.world.guests else 0

    @rule(far=st.integers(1, 4))
    def agents_get_so_far(self, far: int) -> None:
        self.snaps.last_step = far

    @invariant()
    def no_request_twice(self) -> None:
        if hasattr(self, "snaps"):
            assert len(set(self.snaps.marks)) == len(self.snaps.marks)

    @invariant()
    def nothing_goes_that_was_not_deleted(self) -> None:
        if not hasattr(self, "snaps"):
            return
        for obj in self.snaps.cluster.snapshots.values():
            ready = (obj.get("status") or {}).get("phase") == "Ready"
            if ready and "deletionTimestamp" not in obj["metadata"]:
                assert obj["metadata"]["uid"] in self.snaps.volume

    def teardown(self) -> None:
        if not hasattr(self, "snaps"):
            return
        self.snaps.last_step = 4
        super().teardown()
        world = self.snaps
        asked = ((world.machine or {}).get("metadata") or {}).get("annotations", {}).get(REVERT)
        revert = world.status.get("revert") or {}
        if world.guests and asked and revert.get("request") == asked:
            assert revert["done"], world.machine
            assert world.mark == asked
        if world.guests:
            phases = {obj["status"]["phase"] for obj in world.cluster.snapshots.values()}
            assert phases <= {"Ready", "Failed"}, world.cluster.snapshots


TestSnapshotChaos = SnapshotChaos.TestCase
TestSnapshotChaos.settings = settings(
    max_examples=12, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
