"""Anything in any order happens to the agent and its node; afterwards the world is as it must be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.api.order import Order, OrderPower
from berth.effects.memory import MemoryNode
from tests.scenario.agent_scene import Scene, play
from tests.unit.agent.orders import order, pod, uid

MACHINES = (1, 2)
THINGS = (
    "order", "terminate", "kill pod", "guest powers off", "guest crashes", "libvirtd stops", "libvirtd starts",
    "agent is killed", "agent starts", "pause", "resume", "next epoch", "wait",
)  # fmt: skip


@dataclass
class Cluster:
    """What a controller and kubelet would do, and remember."""

    scene: Scene
    epochs: dict[int, int] = field(default_factory=lambda: dict.fromkeys(MACHINES, 0))
    power: dict[int, OrderPower] = field(default_factory=lambda: dict.fromkeys(MACHINES, OrderPower.RUNNING))
    ended: set[str] = field(default_factory=set)  # pods whose guest ended by itself

    @property
    def node(self) -> MemoryNode:
        return self.scene.node

    def pod(self, number: int) -> str:
        return pod(number, self.epochs[number])

    def wanted(self, number: int) -> Order:
        return order(number, self.epochs[number], power=self.power[number])

    async def send(self, number: int) -> None:
        agent = self.scene.agent
        if agent is not None and agent.hub.is_open and self.epochs[number]:
            agent.machines.accept(self.wanted(number))

    async def happens(self, thing: str, number: int) -> None:
        here = self.pod(number) in self.node.pods
        match thing:
            case "next epoch" if not here:
                self.epochs[number] += 1
                self.node.start_pod(self.pod(number))
                await self.send(number)
            case "order":
                await self.send(number)
            case "terminate" if here:
                self.node.terminate_pod(self.pod(number))
            case "kill pod" if here:
                self.node.kill_pod(self.pod(number))
            case "guest powers off" | "guest crashes" if self.scene.runs(number):
                self.ended.add(self.pod(number))
                self.node.end(uid(number), "shutdown" if thing == "guest powers off" else "crashed")
            case "libvirtd stops" | "libvirtd starts":
                if self.node.up is not (thing == "libvirtd starts"):
                    self.node.set_up(thing == "libvirtd starts")
            case "agent is killed":
                await self.scene.kill_agent()
            case "agent starts" if self.scene.agent is None:
                await self.scene.start_agent()
            case "pause" | "resume":
                self.power[number] = OrderPower.PAUSED if thing == "pause" else OrderPower.RUNNING
                await self.send(number)

    async def heal(self) -> None:
        """Everything works again, and the controller sends what it wants of the pods that are there."""
        self.node.set_up(True)
        if self.scene.agent is None:
            await self.scene.start_agent()
        assert self.scene.agent is not None
        await self.scene.agent.hub.opened()
        for number in MACHINES:
            if self.pod(number) in self.node.pods and not self.node.pods[self.pod(number)].terminating:
                await self.send(number)
        await self.scene.wait(100)

    def check(self) -> None:
        for number in MACHINES:
            self._check(number)
        made = Counter(line for line in self.node.log if line.startswith("create_paused"))
        for number in MACHINES:
            assert made[f"create_paused {uid(number)}"] <= 2 * self.epochs[number]

    def _check(self, number: int) -> None:
        pod_uid, domain = self.pod(number), self.node.domains.get(uid(number))
        alive = pod_uid in self.node.pods and not self.node.pods[pod_uid].terminating
        if alive:
            assert pod_uid not in self.ended, "its guest ended, so its berth must have"
            assert domain is not None, f"berth {pod_uid} lives without a guest; log: {self.node.log}"
            assert domain.state.value == ("paused" if self.power[number] is OrderPower.PAUSED else "running")
            assert uid(number) in self.node.served
        else:
            assert domain is None, "a guest without its berth"
            assert uid(number) not in self.node.folders, "something was left behind"
        if pod_uid in self.ended and pod_uid in self.node.exits:
            assert pod_uid not in self.node.pods


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(THINGS), st.sampled_from(MACHINES), st.sampled_from((0.0, 0.004, 0.5, 4.0)))))
def test_whatever_happens_the_world_is_as_it_must_be(things: list[tuple[str, int, float]]) -> None:
    async def story(scene: Scene) -> None:
        cluster = Cluster(scene)
        await scene.start_agent()
        await scene.wait(0.1)
        for thing, number, pause in things:
            await cluster.happens(thing, number)
            await scene.wait(pause)
        await cluster.heal()
        cluster.check()

    play(story)
