"""Moves among everything else that can happen, in any order: never two guests, never a lost one, nothing left behind.

The same chaos as for machines that stay (test_controller_chaos.py), on three nodes whose agents hand guests over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from berth.api.order import FateReason
from berth.plan.world import format_time
from tests.scenario.controller_world import KEY, NAMESPACE
from tests.scenario.moving_world import MovingWorld

NODES = st.sampled_from(["a", "b", "c"])
SELDOM = st.integers(0, 9).map(lambda n: n == 7)


class Chaos(RuleBasedStateMachine):
    world: MovingWorld

    @initialize(restart=st.sampled_from(["Always", "Never"]), labels=st.booleans())
    def begin(self, restart: str, labels: bool) -> None:
        self.world = MovingWorld()
        self.spec: dict[str, Any] = {"restart": restart}
        self.moves = 0
        self.world.apply(**self.spec)
        if labels:
            self.world.cluster.machines[KEY]["metadata"]["labels"] = {"app": "shop"}
            self.world.restart_controller()

    # the controller

    @rule()
    def reconcile(self) -> None:
        self.world.reconcile()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        self.world.deliver(count)

    @rule()
    def controller_restarts(self) -> None:
        self.world.restart_controller()

    @rule(effects=st.integers(0, 9))
    def controller_dies_soon(self, effects: int) -> None:
        self.world.crash_in = effects
        self.world.turn()

    @rule(turns=st.integers(1, 6))
    def all_goes_well_for_a_while(self, turns: int) -> None:
        for _ in range(turns):
            self.world.turn()

    # the user

    @rule(node=st.sampled_from([None, "a", "b", "c"]))
    def move(self, node: str | None) -> None:
        self.moves += 1
        where = {"target": {"nodeName": node}} if node else {}
        self.world.move(f"m{self.moves}", **where)

    @precondition(lambda self: self.moves)
    @rule()
    def cancel(self) -> None:
        key = NAMESPACE, f"m{self.moves}"
        if key in self.world.cluster.migrations:
            spec = self.world.cluster.migrations[key]["spec"]
            self.world.cluster.apply_migration(*key, {**spec, "cancel": True})

    @precondition(lambda self: self.moves)
    @rule()
    def delete_the_migration(self) -> None:
        if (NAMESPACE, f"m{self.moves}") in self.world.cluster.migrations:
            self.world.cluster.delete_migration(NAMESPACE, f"m{self.moves}")

    @rule(power=st.sampled_from(["On", "On", "Off", "Paused"]))
    def power(self, power: str) -> None:
        self.spec["power"] = power
        self.world.apply(**self.spec)

    @rule(size=st.sampled_from(["1Gi", "2Gi"]))
    def resize(self, size: str) -> None:
        self.spec["memory"] = {"size": size}
        self.world.apply(**self.spec)

    @rule()
    def restart(self) -> None:
        self.world.apply({"berth.dev/restartedAt": format_time(self.world.now)}, **self.spec)

    @precondition(lambda self: self.world.cluster.pods)
    @rule(which=st.integers(0, 3), force=st.booleans())
    def delete_a_pod(self, which: int, force: bool) -> None:
        pods = self.world.berths()
        meta = pods[which % len(pods)]["metadata"]
        key = meta["namespace"], meta["name"]
        _ = self.world.cluster.remove_pod(key) if force else self.world.cluster.end_pod(key, meta["uid"])

    # scheduler, kubelets, agents

    @rule(node=NODES, room=st.booleans())
    def room(self, node: str, room: bool) -> None:
        self.world.places[node].room = room

    @rule(node=NODES, cordoned=st.booleans())
    def cordon(self, node: str, cordoned: bool) -> None:
        known = self.world.common.cordoned
        known = known | {node} if cordoned else known - {node}
        self.world.common = replace(self.world.common, cordoned=known)

    @rule()
    def schedule(self) -> None:
        self.world.schedule()

    @rule()
    def kubelets(self) -> None:
        self.world.kubelets()

    @rule(node=NODES)
    def node_works(self, node: str) -> None:
        self.world.step_node(node)

    @rule(node=NODES, partitioned=st.booleans())
    def agent_is_silent(self, node: str, partitioned: bool) -> None:
        self.world.disconnect(node, partitioned)

    @rule(node=NODES)
    def agent_is_back(self, node: str) -> None:
        self.world.connect(node)

    @precondition(lambda self: bool(self.world.guests))
    @rule(fate=st.sampled_from([(FateReason.GUEST_POWEROFF, 0), (FateReason.KILLED, 1)]), really=SELDOM)
    def guest_ends(self, fate: tuple[FateReason, int], really: bool) -> None:
        if really:
            self.world.end_guest(self.world.guests[0], *fate)

    @precondition(lambda self: sum(n.alive for n in self.world.nodes.values()) > 2)
    @rule(node=NODES, really=SELDOM)
    def node_is_lost(self, node: str, really: bool) -> None:
        if really:
            self.world.power_loss(node)

    @rule(seconds=st.sampled_from([1, 3, 20, 400]))
    def time_passes(self, seconds: int) -> None:
        self.world.advance(seconds)

    # what must hold

    @invariant()
    def never_two(self) -> None:
        if hasattr(self, "world"):
            assert self.world.most_guests <= 1, self.world.guests

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.crash_in = None
        world.common = replace(world.common, cordoned=frozenset())
        for place in world.places.values():
            place.room = True
        for name, node in world.nodes.items():
            if node.alive:
                world.connect(name)
            elif name in world.cluster.nodes:
                world.delete_node(name)
        world.settle(2500, until=self._as_wanted)
        assert world.most_guests <= 1
        assert self._as_wanted(), (world.status, world.guests, world.cluster.migrations, world.berths())

    def _as_wanted(self) -> bool:
        world = self.world
        told = [m.get("status", {}).get("phase") for m in world.cluster.migrations.values()]
        if not {*told} <= {"Succeeded", "Failed", "Cancelled"}:
            return False
        phase, power = world.status.get("phase"), self.spec.get("power", "On")
        if power == "Off":
            return phase == "Stopped" and not world.guests and not world.cluster.pods
        if phase in ("Stopped", "Failed"):
            return self.spec["restart"] != "Always" and not world.guests and len(world.cluster.pods) <= 1
        if len(world.guests) != 1 or len(world.cluster.pods) != 1:
            return False
        wanted = {"On": "Running", "Paused": "Paused"}[power]
        return phase == wanted and world.guests[0].paused == (power == "Paused")


TestChaos = Chaos.TestCase
TestChaos.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
