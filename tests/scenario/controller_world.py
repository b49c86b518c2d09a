"""A cluster with nodes, agents and guests in memory, around the real reconcile. What truly runs is in ``guests``.

The test plays everybody else: user, scheduler, kubelet, agent. Watch events wait in ``news`` until they are delivered,
so that the controller may be behind; a controller that crashes loses its cache and its memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from berth.api.order import Fate, FateReason, GuestState, NodeFacts, Order, Report, ReportCondition
from berth.api.virtualmachine import ConditionStatus
from berth.controller.cache import Cache
from berth.controller.migrations import Migrations
from berth.controller.reconcile import Reconciler
from berth.controller.snapshots import Snapshots
from berth.effects.memory_cluster import MemoryCluster
from berth.errors import AgentDown, StaleEpoch
from berth.plan import world as seen
from berth.plan.berthpod import pod_name
from berth.plan.fate import SAVED
from berth.plan.world import Agent, Object, format_time, read_pod

SPEC: Object = {"boot": {"kernel": {"image": "example.org/kernel:1"}}}
NAMESPACE, NAME = "default", "web"
KEY = (NAMESPACE, NAME)
POD = (NAMESPACE, pod_name(NAME))


class Crash(BaseException):
    """The controller dies here."""


@dataclass
class Guest:
    """A QEMU process."""

    uid: str
    pod_uid: str
    epoch: int
    node: str
    paused: bool = False
    boot: int = 0  # which boot its memory is of


@dataclass
class Node:
    name: str
    connected: bool = True
    silent_since: datetime | None = None
    orders: dict[str, Order] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    known: dict[str, Report] = field(default_factory=dict)  # what the controller heard last
    present: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    partitioned: bool = False  # nothing reaches it, and what runs there goes on
    qemu: str = ""  # the version that starts guests here
    alive: bool = True  # False: the machine lost power


class World:
    """Everything outside the controller, and the controller itself."""

    def __init__(self, nodes: tuple[str, ...] = ("a", "b")) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.cluster = MemoryCluster(lambda: self.now)
        self.cluster.on_change = lambda kind, change, obj: self.news.append((kind, change, obj))
        self.cluster.nodes = {n: {"metadata": {"name": n}} for n in nodes}
        self.nodes = {n: Node(n) for n in nodes}
        self.news: list[tuple[str, str, Object]] = []
        self.guests: list[Guest] = []
        self.most_guests = 0
        self.starts = 0
        self.phases: list[str] = []
        self.states: dict[tuple[str, int], int] = {}  # by machine and start: which boot's memory is in the volume
        self.save_fails = ""
        self.crash_in: int | None = None  # effects until the controller dies
        self.restart_controller()

    # the controller

    def restart_controller(self) -> None:
        """A new process: it lists, and knows nothing else."""
        self.news.clear()
        self.cache = Cache()
        for obj in self.cluster.machines.values():
            self.cache.see_machine(_copy(obj))
        for obj in self.cluster.pods.values():
            self.cache.see_pod(_copy(obj))
        for node in self.nodes.values():
            node.sent.clear()
            node.known.clear()
            if node.connected:
                self._hear(node)
        self.again: float | None = 0.0
        self.moves, self.moved = Migrations(), list[str]()
        for obj in self.cluster.migrations.values():
            self.moves.see(_copy(obj))
        self.snapshots = Snapshots()
        for obj in self.cluster.snapshots.values():
            self.snapshots.see(_copy(obj))
        port = Crashing(self.cluster, self)
        self.reconciler = Reconciler(
            self.cache,
            port,  # type: ignore[arg-type]
            self.agents(),
            lambda: self.common,
            _silent,
            lambda: self.now,
            moves=self.moves,
            snapshots=self.snapshots,
            moved=self.moved.append,
        )

    common = seen.Cluster()
    peer_port = 8555
    copies_disks = True
    saves_states = True

    def agents(self) -> Agents:
        return Agents(self)

    def reconcile(self) -> float | None:
        """One run. A crash in it makes a new controller."""
        try:
            self.again = asyncio.run(self.reconciler.reconcile(KEY))
        except Crash:
            self.crash_in = None
            self.restart_controller()
        except AgentDown:
            pass
        self._note()
        return self.again

    def deliver(self, count: int = 1000) -> None:
        """The next watch events reach the controller."""
        for kind, change, obj in self.news[:count]:
            key = obj["metadata"]["namespace"], obj["metadata"]["name"]
            if kind == "Pod":
                _ = self.cache.lose_pod(key, obj) if change == "DELETED" else self.cache.see_pod(obj)
            elif kind == "Migration":
                _ = self.moves.lose(key) if change == "DELETED" else self.moves.see(obj)
            elif kind == "Snapshot":
                _ = self.snapshots.lose(key) if change == "DELETED" else self.snapshots.see(obj)
            elif change == "DELETED":
                self.cache.lose_machine(key)
            else:
                self.cache.see_machine(obj)
        del self.news[:count]

    def effect(self, after: bool) -> None:
        """Called before and after each effect: where a controller may die."""
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in < 0:
                raise Crash(after)

    # what the test looks at

    @property
    def machine(self) -> Object | None:
        return self.cluster.machines.get(KEY)

    @property
    def status(self) -> Object:
        return (self.machine or {}).get("status") or {}

    @property
    def pod(self) -> Object | None:
        return self.cluster.pods.get(POD)

    def condition(self, kind: str) -> Object:
        return next((c for c in self.status.get("conditions", []) if c["type"] == kind), {})

    def _note(self) -> None:
        phase = self.status.get("phase")
        if phase and (not self.phases or self.phases[-1] != phase):
            self.phases.append(phase)

    # everybody else

    def apply(self, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        self.cluster.apply(NAMESPACE, NAME, {**SPEC, **spec}, annotations)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def bind(self, node: str) -> None:
        """The scheduler."""
        assert self.pod is not None
        self.pod["spec"]["nodeName"] = node
        self.cluster.pod_changed(POD)

    def run_berth(self, key: tuple[str, str] = POD, ip: str = "10.0.0.9") -> None:
        """kubelet starts the berth's container; the agent finds it and carries its order out."""
        pod = self.cluster.pods[key]
        ready = "ContainersReady" if pod["spec"].get("readinessGates") else "Ready"
        pod["status"] = {
            "phase": "Running",
            "podIP": ip,
            "conditions": [{"type": ready, "status": "True"}],
            "containerStatuses": [{"state": {"running": {}}}],
        }
        self.cluster.pod_changed(key)

    def step_node(self, name: str) -> None:
        """The agent of one node does what its orders and its berths ask for."""
        node = self.nodes[name]
        if not node.alive or node.partitioned:
            return
        for uid, order in list(node.orders.items()):
            self._step_order(node, uid, order)

    def _step_order(self, node: Node, uid: str, order: Order) -> None:
        pod = next((p for p in self.cluster.pods.values() if p["metadata"]["uid"] == order.berth.pod_uid), None)
        guest = next((g for g in self.guests if g.pod_uid == order.berth.pod_uid), None)
        report = node.reports.get(uid)
        if guest is None and report is not None and report.fate is not None and report.pod_uid == order.berth.pod_uid:
            self._finish(node, uid, pod)
        elif guest is None and pod is None:
            self._gone(node, uid)
        elif guest is None and pod is not None:
            view = read_pod(pod)
            if view.deleted is not None or view.terminal:
                self._finish(node, uid, pod)
            elif view.running and order.state is not None and order.state.save:
                self._finish(node, uid, pod)  # there is nothing to save
            elif view.running:
                self._start(node, order)
        elif guest is not None and (pod is None or "deletionTimestamp" in pod["metadata"]):
            self.end_guest(guest, FateReason.SHUT_DOWN, 0)
        elif guest is not None and order.state is not None and order.state.save and not self.save_fails:
            self.states = {(uid, guest.epoch): guest.boot}
            self.end_guest(guest, FateReason.SAVED, 0)
        elif guest is not None and self.save_fails and (report is None or len(report.conditions) < 3):
            self.report(node, order, GuestState.RUNNING)
        elif guest is not None and guest.paused != (order.power == "Paused"):
            guest.paused = order.power == "Paused"
            self.report(node, order, GuestState.PAUSED if guest.paused else GuestState.RUNNING)

    def _start(self, node: Node, order: Order) -> None:
        restore = order.state.restore if order.state is not None else None
        boot = self.states.pop((order.uid, restore), None) if restore is not None else None
        self.states.clear()  # a start throws what it does not use away
        self.starts += boot is None
        self.guests.append(Guest(order.uid, order.berth.pod_uid, order.epoch, node.name, boot=boot or self.starts))
        self.most_guests = max(self.most_guests, sum(g.uid == order.uid for g in self.guests))
        self.report(node, order, GuestState.RUNNING)

    def end_guest(self, guest: Guest, reason: FateReason, code: int) -> None:
        """The guest ends; its agent learns how. kubelet sees the berth's exit when ``step_node`` comes round again."""
        self.guests.remove(guest)
        node = self.nodes[guest.node]
        fate = Fate(reason=reason, exit_code=code, at=format_time(self.now))
        self.report(node, node.orders[guest.uid], GuestState.ENDED, fate)

    def _finish(self, node: Node, uid: str, pod: Object | None) -> None:
        """The berth exits with the guest's fate; kubelet tells, and removes a pod that is being deleted."""
        report = node.reports.get(uid)
        code = report.fate.exit_code if report and report.fate else 0
        if pod is not None:
            key = pod["metadata"]["namespace"], pod["metadata"]["name"]
            if self.cluster.pods.get(key) is pod and pod["status"]["phase"] not in ("Succeeded", "Failed"):
                ended = {"exitCode": code, "reason": "Completed", "finishedAt": format_time(self.now)}
                if report is not None and report.fate is not None and report.fate.reason is FateReason.SAVED:
                    ended["message"] = SAVED
                pod["status"]["phase"] = "Failed" if code else "Succeeded"
                pod["status"]["containerStatuses"] = [{"state": {"terminated": ended}}]
                self.cluster.pod_changed(key)
                return
            if "deletionTimestamp" in pod["metadata"]:
                self.cluster.remove_pod(key)
        self._gone(node, uid)

    def _gone(self, node: Node, uid: str) -> None:
        node.orders.pop(uid, None)
        node.reports.pop(uid, None)
        if node.connected:
            node.present.discard(uid)
            node.sent.pop(uid, None)

    def report(self, node: Node, order: Order, state: GuestState, fate: Fate | None = None) -> None:
        good = tuple(
            ReportCondition(type=t, status=ConditionStatus.TRUE, reason="Ready") for t in ("DisksReady", "NetworkReady")
        )
        if self.save_fails:
            failed = ReportCondition(
                type="Suspendable", status=ConditionStatus.FALSE, reason=self.save_fails, message="no space is left"
            )
            good = (*good, failed)
        old = node.reports.get(order.uid)
        node.reports[order.uid] = Report(
            uid=order.uid,
            namespace=order.namespace,
            name=order.name,
            epoch=order.epoch,
            pod_uid=order.berth.pod_uid,
            state=state,
            accelerator="kvm" if order.machine.cpu is not None else "",
            machine_type=order.machine.machine_type,
            cpu_mode=order.machine.cpu.mode.value if order.machine.cpu is not None else "",
            qemu_version=(old.qemu_version if old and old.epoch == order.epoch else "") or node.qemu,
            started_at=(old.started_at if old and old.epoch == order.epoch else None) or format_time(self.now),
            fate=fate,
            conditions=good,
        )
        if node.connected:
            self._hear(node)

    def _hear(self, node: Node) -> None:
        node.known.update(node.reports)
        node.present = set(node.reports) | set(node.orders)

    def kubelet_without_order(self, name: str) -> None:
        """kubelet ends a berth that no agent has an order for: there is no guest to wait for."""
        pod = self.pod
        if pod is None or pod["spec"].get("nodeName") != name or "deletionTimestamp" not in pod["metadata"]:
            return
        node = self.nodes[name]
        busy = any(o.berth.pod_uid == pod["metadata"]["uid"] for o in node.orders.values())
        if node.alive and not node.partitioned and not busy:
            self.cluster.remove_pod(POD)

    def disconnect(self, name: str, partitioned: bool = False) -> None:
        node = self.nodes[name]
        node.partitioned = node.partitioned or partitioned
        if node.connected:
            node.connected, node.silent_since = False, self.now

    def connect(self, name: str) -> None:
        node = self.nodes[name]
        if node.alive and not node.connected:
            node.connected, node.silent_since, node.partitioned = True, None, False
            node.sent.clear()
            self._hear(node)

    def power_loss(self, name: str) -> None:
        """The node is gone: its guests with it."""
        self.disconnect(name)
        node = self.nodes[name]
        node.alive = False
        node.orders.clear()
        node.reports.clear()
        self.guests = [g for g in self.guests if g.node != name]

    def delete_node(self, name: str) -> None:
        """The Node object of a lost node is deleted; the pod collector forces its pods away."""
        del self.cluster.nodes[name]
        for key, pod in list(self.cluster.pods.items()):
            if pod["spec"].get("nodeName") == name:
                self.cluster.remove_pod(key)

    # all of it, until nothing moves

    def settle(self, rounds: int = 60, node: str = "a", until: Callable[[], bool] | None = None) -> None:
        """Let everybody do their part in turn until nothing changes any more."""
        for _ in range(rounds):
            self.deliver()
            self.reconcile()
            pod = self.pod
            if pod is not None and not pod["spec"].get("nodeName") and node in self.cluster.nodes:
                self.bind(node)
            elif pod is not None and self.nodes[pod["spec"].get("nodeName", node)].alive:
                view = read_pod(pod)
                if not view.running and not view.terminal and view.deleted is None and view.node:
                    self.run_berth()
            for name in self.nodes:
                self.step_node(name)
                self.kubelet_without_order(name)
            if until is not None and until():
                self.deliver()
                self.reconcile()
                return
            self.advance(1)


def _copy(obj: Object) -> Object:
    import copy

    return copy.deepcopy(obj)


def _silent(*_: Any) -> None:
    """Events are another test's matter."""


class Agents:
    """AgentPort: what the controller hears of the nodes."""

    def __init__(self, world: World) -> None:
        self._world = world

    def view(self, node: str, uid: str) -> Agent:
        there = self._world.nodes.get(node)
        if there is None:
            return Agent(node, exists=False, connected=False)
        return Agent(
            node=node,
            exists=there.alive,
            connected=there.connected,
            silent_since=there.silent_since,
            facts=NodeFacts(
                node=node,
                agent_version="1",
                hypervisor_connected=True,
                peer_port=self._world.peer_port,
                copies_disks=self._world.copies_disks,
                states=self._world.saves_states,
                snapshots=self._world.saves_states,
            ),
            report=there.known.get(uid),
            present=uid in there.present,
            sent=there.sent.get(uid),
            address=f"192.0.2.{ord(node[0])}",
        )

    async def send(self, node: str, order: Order, digest: str) -> None:
        self._world.effect(after=False)
        there = self._world.nodes[node]
        if not there.connected:
            raise AgentDown("not connected")
        old = there.orders.get(order.uid)
        if old is not None and old.epoch > order.epoch:
            raise StaleEpoch(f"epoch {order.epoch} is older than {old.epoch}")
        running = [g for g in self._world.guests if g.uid == order.uid and g.node == node]
        if old is not None and running and old.berth != order.berth:
            raise AgentDown("the last guest has not ended here yet")
        there.orders[order.uid] = order
        there.sent[order.uid] = digest
        there.present.add(order.uid)
        if not running:
            self._world.report(there, order, GuestState.WAITING)
            there.reports[order.uid] = replace_started(there.reports[order.uid])
            self._world._hear(there)
        self._world.effect(after=True)

    async def withdraw(self, node: str, uid: str) -> None:
        there = self._world.nodes[node]
        if not any(g.uid == uid and g.node == node for g in self._world.guests):
            self._world._gone(there, uid)


def replace_started(report: Report) -> Report:
    return report.model_copy(update={"started_at": None})


EFFECTS = frozenset(
    {
        *("set_finalizers", "write_status", "create_pod", "delete_pod", "set_here", "write_migration_status"),
        *("set_snapshot_metadata", "write_snapshot_status"),
    }
)


class Crashing:
    """The cluster port with a controller that may die before or after any write."""

    def __init__(self, cluster: MemoryCluster, world: World) -> None:
        self._cluster = cluster
        self._world = world

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._cluster, name)
        if name not in EFFECTS:
            return method

        async def call(*args: Any, **named: Any) -> Any:
            self._world.effect(after=False)
            done = await method(*args, **named)
            self._world.effect(after=True)
            return done

        return call


__all__ = ["KEY", "NAME", "NAMESPACE", "POD", "Crash", "Guest", "Node", "World", "replace"]
