"""Any order of events, interrupted anywhere: what must hold at every moment, and where all of it comes to rest."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from berth.api.order import Order, OrderPower
from berth.domain.observed import DomainState
from berth.effects.memory import MemoryNode
from berth.plan import gathered, steps
from tests.unit.agent.orders import order, pod, uid
from tests.unit.plan.node import Agent


class Worlds(RuleBasedStateMachine):
    """A controller that starts one berth at a time, a kubelet, guests, libvirtd and an agent that may die anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.node = MemoryNode()
        self.agent = Agent(uid(), self.node)
        self.epoch = 0
        self.power = OrderPower.RUNNING
        self.generation = 0

    def newest(self) -> Order:
        return order(epoch=self.epoch, power=self.power, generation=self.generation)

    @property
    def pod(self) -> str:
        return pod(epoch=self.epoch)

    @precondition(lambda self: self.pod not in self.node.pods)
    @rule()
    def start_berth(self) -> None:
        self.epoch += 1
        self.node.start_pod(self.pod)

    @precondition(lambda self: self.epoch > 0)
    @rule(power=st.sampled_from(OrderPower))
    def send_order(self, power: OrderPower) -> None:
        if power is not self.power:
            self.power, self.generation = power, self.generation + 1
        self.agent.memory.order = self.newest()

    @precondition(lambda self: self.epoch > 1)
    @rule()
    def send_stale_order(self) -> None:
        """A controller that lost its lease and does not know it yet."""
        found = self.agent.memory.order
        stale = order(epoch=self.epoch - 1)
        if found is None or gathered.refusal(stale, None, self.node.folders.get(uid())) is None:
            self.agent.memory.order = max(found or stale, stale, key=lambda o: o.epoch)

    @precondition(lambda self: self.pod in self.node.pods)
    @rule()
    def end_pod(self) -> None:
        self.node.terminate_pod(self.pod)

    @precondition(lambda self: self.pod in self.node.pods)
    @rule()
    def kill_pod(self) -> None:
        self.node.kill_pod(self.pod)

    @rule(detail=st.sampled_from(["shutdown", "failed", "crashed"]))
    def end_guest(self, detail: str) -> None:
        found = self.node.domains.get(uid())
        if found is not None and found.state is DomainState.RUNNING:
            self.node.end(uid(), detail)

    @rule(deaf=st.booleans())
    def deafen(self, deaf: bool) -> None:
        self.node.deaf_guests = deaf

    @rule(up=st.booleans())
    def libvirtd(self, up: bool) -> None:
        self.node.set_up(up)

    @rule(limit=st.integers(1, 9))
    def act(self, limit: int) -> None:
        plan = self.agent.plan()
        for step in plan.steps:
            if isinstance(step, steps.Destroy) and step.code == "BerthGone":
                assert not self.node.pods or self.pod not in str(step.reason)
        self.agent.act(limit)

    @rule(limit=st.integers(0, 9))
    def crash(self, limit: int) -> None:
        self.agent.act(limit)
        self.agent.restart()

    @invariant()
    def plans_are_possible(self) -> None:
        """Planning never fails, and asking changes nothing."""
        before = list(self.node.log)
        assert self.agent.plan() == self.agent.plan()
        assert self.node.log == before

    @invariant()
    def guests_have_a_network_before_they_run(self) -> None:
        found = self.node.domains.get(uid())
        if found is not None and found.state is DomainState.RUNNING:
            assert uid() in self.node.attached
            assert self.node.folders.get(uid()) is not None

    def teardown(self) -> None:
        """Let everything be well again: then all comes to rest, where it should."""
        self.node.set_up(True)
        self.node.deaf_guests = False
        if self.epoch:  # an agent that was restarted knows no lost pod: the controller withdraws such an order
            self.agent.memory.order = self.newest() if self.pod in self.node.pods else None
        self.agent.memory.pressed = False
        self.agent.settle()
        assert not self.agent.plan().acts
        if self.pod not in self.node.pods:
            assert (self.node.domains, self.node.folders, self.node.taps) == ({}, {}, set())
            return
        state = DomainState.RUNNING if self.power is OrderPower.RUNNING else DomainState.PAUSED
        assert self.node.domains[uid()].state is state
        assert f'"epoch": {self.epoch}' in self.node.domains[uid()].xml


Worlds.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestWorlds = Worlds.TestCase
