"""Anything in any order, and the controller dies at any step: never two guests of one machine, never a lost one.

Hypothesis plays user, scheduler, kubelets, agents, network and bad luck; at the end everybody is well again, and what
the user wants has to come true.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from berth.api.order import FateReason
from berth.plan.phases import MOVES
from berth.plan.world import format_time, read_pod
from tests.scenario.controller_world import KEY, POD, World

SELDOM = st.integers(0, 9).map(lambda n: n == 7)
"""What ends most of the story must not come early."""
NODES = st.sampled_from(["a", "b"])
KNOWN = {(old.value, new.value) for old, new, _ in MOVES}


class Chaos(RuleBasedStateMachine):
    world: World

    @initialize(restart=st.sampled_from(["Always", "OnFailure", "Never"]))
    def begin(self, restart: str) -> None:
        self.world = self.make_world()
        self.spec: dict[str, Any] = {"restart": restart, "savedState": {"pvc": {"claimName": "states"}}}
        self.deleted = False
        self.world.apply(**self.spec)

    def make_world(self) -> World:
        return World()

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

    @rule(effects=st.integers(0, 7))
    def controller_dies_soon(self, effects: int) -> None:
        self.world.crash_in = effects
        self.world.deliver()
        self.world.reconcile()

    @rule(node=NODES)
    def all_goes_well_for_a_while(self, node: str) -> None:
        """What mostly happens: without it, the deeper states would be rare."""
        for _ in range(4):
            self.world.deliver()
            self.world.reconcile()
            pod = self.world.pod
            if pod is not None and not pod["spec"].get("nodeName"):
                self.bind(node)
            if pod is not None:
                self.berth_comes_up()
            self.world.step_node(node)

    # the user

    @precondition(lambda self: not self.deleted)
    @rule(power=st.sampled_from(["On", "On", "On", "Off", "Paused", "Suspended"]))
    def power(self, power: str) -> None:
        self.spec["power"] = power
        self.world.apply(**self.spec)

    @precondition(lambda self: not self.deleted)
    @rule(size=st.sampled_from(["1Gi", "2Gi"]))
    def resize(self, size: str) -> None:
        self.spec["memory"] = {"size": size}
        self.world.apply(**self.spec)

    @precondition(lambda self: not self.deleted)
    @rule()
    def restart(self) -> None:
        self.world.apply({"berth.dev/restartedAt": format_time(self.world.now)}, **self.spec)

    @precondition(lambda self: not self.deleted)
    @rule(really=SELDOM)
    def delete(self, really: bool) -> None:
        if not really:
            return
        self.deleted = True
        self.world.cluster.delete(*KEY)

    @precondition(lambda self: self.world.pod is not None)
    @rule(force=st.booleans())
    def delete_pod(self, force: bool) -> None:
        pod = self.world.pod
        assert pod is not None
        if force:
            self.world.cluster.remove_pod(POD)
        else:
            self.world.cluster.end_pod(POD, pod["metadata"]["uid"])

    # scheduler, kubelet, agent

    @precondition(lambda self: self.world.pod is not None and not self.world.pod["spec"].get("nodeName"))
    @rule(node=NODES)
    def bind(self, node: str) -> None:
        if node in self.world.cluster.nodes:
            self.world.bind(node)

    @precondition(lambda self: self.world.pod is not None)
    @rule()
    def berth_comes_up(self) -> None:
        assert self.world.pod is not None
        view = read_pod(self.world.pod)
        if view.node and not view.terminal and not view.deleted and self.world.nodes[view.node].alive:
            self.world.run_berth()

    @rule(node=NODES)
    def node_works(self, node: str) -> None:
        self.world.step_node(node)
        self.world.kubelet_without_order(node)

    @rule(node=NODES, partitioned=st.booleans())
    def agent_is_silent(self, node: str, partitioned: bool) -> None:
        """Its agent alone, or all of the node: then its kubelet hears of no deletion either."""
        self.world.disconnect(node, partitioned)

    @precondition(lambda self: self.world.pod is not None and bool(self.world.guests))
    @rule()
    def the_worst_of_it(self) -> None:
        """The node is cut off while its guest runs, somebody forces the pod away, and then all seems well elsewhere."""
        node = self.world.guests[0].node
        self.world.disconnect(node, partitioned=True)
        self.world.cluster.remove_pod(POD)
        other = next(name for name in self.world.nodes if name != node)
        self.all_goes_well_for_a_while(other)
        self.world.advance(400)
        self.all_goes_well_for_a_while(other)

    @rule(node=NODES)
    def agent_is_back(self, node: str) -> None:
        self.world.connect(node)

    # bad luck

    @precondition(lambda self: bool(self.world.guests))
    @rule(
        fate=st.sampled_from([(FateReason.GUEST_POWEROFF, 0), (FateReason.GUEST_PANICKED, 1), (FateReason.KILLED, 1)])
    )
    def guest_ends(self, fate: tuple[FateReason, int]) -> None:
        self.world.end_guest(self.world.guests[0], *fate)

    @precondition(lambda self: all(n.alive for n in self.world.nodes.values()))
    @rule(node=NODES, really=SELDOM)
    def node_is_lost(self, node: str, really: bool) -> None:
        if really:
            self.world.power_loss(node)

    @rule(seconds=st.sampled_from([1, 3, 20, 400, 900]))
    def time_passes(self, seconds: int) -> None:
        self.world.advance(seconds)

    # what must hold

    @invariant()
    def never_two(self) -> None:
        if hasattr(self, "world"):
            assert self.world.most_guests <= 1, self.world.guests

    @invariant()
    def none_runs_beside_its_state(self) -> None:
        if hasattr(self, "world"):
            assert not {guest.boot for guest in self.world.guests} & set(self.world.states.values())

    @invariant()
    def every_step_is_known(self) -> None:
        if hasattr(self, "world"):
            pairs = list(zip(self.world.phases, self.world.phases[1:], strict=False))
            assert all(self._is_known(*pair) for pair in pairs), [p for p in pairs if not self._is_known(*p)]

    def _is_known(self, old: str, new: str) -> bool:
        """A step of the lifecycle, or several at once: the controller may not have looked in between."""
        reached, edge = {old}, {old}
        while edge:
            edge = {n for o, n in KNOWN if o in edge} - reached
            reached |= edge
        return new in reached

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.crash_in = None
        for name, node in world.nodes.items():
            if node.alive:
                world.connect(name)
            elif name in world.cluster.nodes:
                world.delete_node(name)
        target = next(name for name, node in world.nodes.items() if node.alive)
        world.settle(1500, node=target, until=lambda: self._as_wanted())
        assert world.most_guests <= 1
        assert self._as_wanted(), (world.machine, json.dumps(world.pod), world.guests)
        writes = len(world.cluster.writes)
        world.settle(30, node=target)
        if self._at_rest():
            writes = len(world.cluster.writes)
            world.settle(30, node=target)
            assert len(world.cluster.writes) == writes, world.cluster.writes[writes:]

    def _at_rest(self) -> bool:
        """Nothing is due: no back-off, no quiet minutes that make good for a crash."""
        return not self.world.status.get("nextStartAt") and not self.world.status.get("restarts")

    def _as_wanted(self) -> bool:
        world = self.world
        if self.deleted:
            return world.machine is None and world.pod is None and not world.guests
        phase, power = world.status.get("phase"), self.spec.get("power", "On")
        if power == "Off":
            return phase == "Stopped" and not world.guests and world.pod is None
        if power == "Suspended":
            return phase in ("Suspended", "Stopped", "Failed") and not world.guests
        if phase in ("Stopped", "Failed"):
            return self.spec["restart"] != "Always" and bool(world.status.get("lastExit")) and not world.guests
        wanted = {"On": "Running", "Paused": "Paused"}[power]
        return phase == wanted and len(world.guests) == 1 and world.guests[0].paused == (power == "Paused")


TestChaos = Chaos.TestCase
TestChaos.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
