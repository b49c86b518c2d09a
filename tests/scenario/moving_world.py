"""The cluster in memory (controller_world.py), with agents that hand guests over, and doors that stay behind.

A node's agent has one order for a machine, as the real one; what it has handed over it remembers for ever. A copy that
waits for memory is no guest: it becomes one when the source has let its own go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from berth.api.handover import MigrationReport, MigrationState
from berth.api.order import GuestState, Order
from berth.effects.ports_cluster import ApiRefused
from berth.errors import AgentDown, StaleEpoch
from berth.plan import world as seen
from berth.plan.world import Object, read_pod
from tests.scenario.controller_world import KEY, NAMESPACE, Agents, Guest, Node, World

TOTAL = 4
FORETOLD: dict[str, Any] = {"total": TOTAL, "remaining": TOTAL, "method": "precopy: it is calm", "eta_seconds": 7}


@dataclass
class Copy:
    """What waits at a target."""

    node: str
    pod_uid: str
    state: MigrationState = MigrationState.LISTENING
    told: bool = False  # that all of it is here
    alone: bool = False  # the source does not answer


@dataclass
class Sending:
    """A source's record of one migration."""

    node: str
    pod_uid: str
    state: MigrationState = MigrationState.SENDING
    remaining: int = TOTAL


@dataclass
class Place:
    """What the scheduler knows of a node."""

    room: bool = True
    connections: dict[str, int] = field(default_factory=dict)  # through doors, by pod


class MovingWorld(World):
    def __init__(self, nodes: tuple[str, ...] = ("a", "b", "c")) -> None:
        self.copies: dict[str, Copy] = {}
        self.sendings: dict[str, Sending] = {}
        self.places = {name: Place() for name in nodes}
        self.common = seen.Cluster(nodes=nodes)
        self.history: list[str] = []
        self.cut = False  # nodes do not reach each other; the controller reaches all
        super().__init__(nodes)

    def agents(self) -> Agents:
        return MovingAgents(self)

    # what the test looks at

    def migration(self, name: str = "m") -> Object:
        return self.cluster.migrations[NAMESPACE, name].get("status") or {}

    def berths(self) -> list[Object]:
        return sorted(
            self.cluster.pods.values(), key=lambda pod: int(pod["metadata"]["annotations"]["berth.dev/epoch"])
        )

    def pod_on(self, node: str) -> Object | None:
        found = [
            p for p in self.berths() if p["spec"].get("nodeName") == node and "deletionTimestamp" not in p["metadata"]
        ]
        return found[-1] if found else None

    # the user

    def move(self, name: str = "m", **spec: Any) -> None:
        self.cluster.apply_migration(NAMESPACE, name, {"vm": KEY[1], **spec})

    def cordon(self, node: str) -> None:
        self.common = replace(self.common, cordoned=self.common.cordoned | {node})

    def drain(self, node: str, rounds: int = 60) -> bool:
        """As kubectl does: cordon, then evict again and again what is there; whether the node is empty in the end."""
        self.cordon(node)
        for _ in range(rounds):
            here = [key for key, pod in self.cluster.pods.items() if pod["spec"].get("nodeName") == node]
            if not here:
                return True
            for key in here:
                with contextlib.suppress(ApiRefused):
                    self.cluster.evict(key)
            self.turn()
            self.advance(5)
        return False

    # scheduler and kubelet

    def schedule(self) -> None:
        for key, pod in list(self.cluster.pods.items()):
            if not pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]:
                self._place(key, pod)

    def _place(self, key: tuple[str, str], pod: Object) -> None:
        open_ = [n for n in sorted(self.places) if n in self.cluster.nodes and n not in self.common.cordoned]
        fits = [n for n in open_ if self._fits(pod, n)]
        with_room = [n for n in fits if self.places[n].room]
        if with_room:
            pod["spec"]["nodeName"] = min(with_room, key=lambda n: self._doors_on(n))
        else:
            why = "Insufficient memory" if fits else "node(s) didn't match Pod's node affinity/selector"
            message = f"0/{len(self.places)} nodes are available: {why}."
            said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            if said in pod["status"].get("conditions", []):
                return
            pod["status"]["conditions"] = [said]
        self.cluster.pod_changed(key)

    def _doors_on(self, node: str) -> int:
        return sum(p["spec"].get("nodeName") == node for p in self.cluster.pods.values())

    def _fits(self, pod: Object, node: str) -> bool:
        wanted = pod["spec"].get("nodeSelector", {})
        if any(self.cluster.nodes[node]["metadata"].get("labels", {}).get(k) != v for k, v in wanted.items()
               if k != "berth.dev/kvm"):  # fmt: skip
            return False
        affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
        terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
        fields = [f for term in terms for f in term.get("matchFields", [])]
        return all((node in f["values"]) == (f["operator"] == "In") for f in fields)

    def kubelets(self) -> None:
        """Start what was bound; remove what is deleted and no agent has a guest for."""
        for number, (key, pod) in enumerate(list(self.cluster.pods.items())):
            view = read_pod(pod)
            if view.node is None or not self.nodes[view.node].alive or self.nodes[view.node].partitioned:
                continue
            if not view.running and not view.terminal and view.deleted is None:
                self.run_berth(key, f"10.0.{view.epoch}.{number + 9}")
            elif view.deleted is not None and not self._is_used(view.uid):
                self.cluster.remove_pod(key)

    def _is_used(self, pod_uid: str) -> bool:
        return any(guest.pod_uid == pod_uid for guest in self.guests) or any(
            order.berth.pod_uid == pod_uid for node in self.nodes.values() for order in node.orders.values()
        )

    # agents

    def _step_order(self, node: Node, uid: str, order: Order) -> None:
        pod_uid = order.berth.pod_uid
        pod = next((p for p in self.cluster.pods.values() if p["metadata"]["uid"] == pod_uid), None)
        guest = next((g for g in self.guests if g.pod_uid == pod_uid), None)
        door = self._door_on(node, uid)
        if door is not None and door["metadata"]["uid"] != pod_uid and guest is None:
            self._wait_for(node, uid, order, door)
        elif self._moved(pod_uid):
            if pod is None or "deletionTimestamp" in pod["metadata"]:
                self._finish(node, uid, pod)
            else:
                self._tell(node, order, GuestState.MOVED)
        elif guest is None and order.incoming is not None:
            self._receive(node, uid, order, pod)
        else:
            super()._step_order(node, uid, order)
            if guest in self.guests:
                self._send(node, order)

    def _moved(self, pod_uid: str) -> bool:
        return any(s.pod_uid == pod_uid and s.state is MigrationState.HANDED_OVER for s in self.sendings.values())

    def _door_on(self, node: Node, uid: str) -> Object | None:
        """A berth here from which the guest has moved away."""
        here = (p for p in self.cluster.pods.values() if p["spec"].get("nodeName") == node.name)
        return next((p for p in here if self._moved(p["metadata"]["uid"])), None)

    def _wait_for(self, node: Node, uid: str, order: Order, door: Object) -> None:
        """One berth of a machine at a time: the door is still what is reported of it."""
        meta = door["metadata"]
        if "deletionTimestamp" in meta or read_pod(door).terminal:
            if "deletionTimestamp" in meta:
                self.cluster.remove_pod((meta["namespace"], meta["name"]))
            node.reports.pop(uid, None)
            self._tell(node, order, GuestState.WAITING)
            return
        berth = order.berth.model_copy(update={"pod_uid": meta["uid"], "pod_name": meta["name"]})
        epoch = int(meta["annotations"]["berth.dev/epoch"])
        self._tell(node, order.model_copy(update={"berth": berth, "epoch": epoch}), GuestState.MOVED)

    def _receive(self, node: Node, uid: str, order: Order, pod: Object | None) -> None:
        assert order.incoming is not None
        copy = self.copies.get(order.incoming.migration)
        if copy is not None and copy.node != node.name:
            return
        if pod is None or "deletionTimestamp" in pod["metadata"] or read_pod(pod).terminal:
            if copy is not None:
                copy.state = MigrationState.FAILED
            report = node.reports.get(uid)
            ended = report is not None and report.fate is not None
            if not ended:
                self._finish(node, uid, pod)
            return
        if not read_pod(pod).running:
            return
        if copy is None:
            copy = self.copies[order.incoming.migration] = Copy(node.name, order.berth.pod_uid)
        sending = self.sendings.get(order.incoming.migration)
        if copy.state is MigrationState.RECEIVED and not copy.told:
            copy.told = True
        elif copy.state is MigrationState.RECEIVED and sending is not None:
            self._ask(node, order, copy, sending)
        if copy.state is not MigrationState.ARRIVED:
            self._tell(node, order, GuestState.STARTING)

    def _ask(self, node: Node, order: Order, copy: Copy, sending: Sending) -> None:
        """The source's answer to the only question that matters."""
        source = self.nodes[sending.node]
        if not source.alive or source.partitioned:
            return
        copy.alone = self.cut
        if copy.alone and order.incoming is not None and not order.incoming.released:
            if sending.state is MigrationState.SENDING:
                sending.state = MigrationState.FAILED  # nobody asks it
            self._tell(node, order, GuestState.STARTING)
        elif sending.state is MigrationState.SENDING:
            sending.state = MigrationState.HANDED_OVER
            mine = next(g for g in self.guests if g.pod_uid == sending.pod_uid)
            self.guests.remove(mine)
            self._tell(source, source.orders[order.uid], GuestState.MOVED)
        elif sending.state is MigrationState.HANDED_OVER:
            copy.state, copy.alone = MigrationState.ARRIVED, False
            self.guests.append(Guest(order.uid, order.berth.pod_uid, order.epoch, node.name))
            self.most_guests = max(self.most_guests, sum(g.uid == order.uid for g in self.guests))
            self.history.append(node.name)
            self._tell(node, order, GuestState.RUNNING)
        else:
            copy.state = MigrationState.FAILED

    def _send(self, node: Node, order: Order) -> None:
        """One round of memory, or giving up."""
        mine = [(uid, s) for uid, s in self.sendings.items() if s.pod_uid == order.berth.pod_uid]
        for uid, sending in mine:
            wanted = order.outgoing is not None and order.outgoing.migration == uid
            copy = self.copies.get(uid)
            lost = copy is None or copy.state is MigrationState.FAILED or not self.nodes[copy.node].alive
            if sending.state is MigrationState.SENDING and (not wanted or lost):
                sending.state = MigrationState.FAILED
        out = order.outgoing
        if out is not None and out.migration not in self.sendings:
            self.sendings[out.migration] = Sending(node.name, order.berth.pod_uid)
        elif out is not None:
            sending, copy = self.sendings[out.migration], self.copies.get(out.migration)
            if sending.state is MigrationState.SENDING and sending.remaining > 0:
                sending.remaining -= 1
            elif sending.state is MigrationState.SENDING and copy is not None:
                copy.state = MigrationState.RECEIVED
        report = node.reports[order.uid]
        self._tell(node, order, report.state)

    def _tell(self, node: Node, order: Order, state: GuestState) -> None:
        """A report with what there is to say of migrations and doors."""
        pod_uid = order.berth.pod_uid
        own = self._of_source(pod_uid) if state is not GuestState.STARTING else None
        if order.leaving is not None and (own is None or own.uid != order.leaving.migration):
            own = MigrationReport(uid=order.leaving.migration, epoch=0, state=MigrationState.SURVEYED, **FORETOLD)
        if own is None and order.incoming is not None:
            own = self._of_target(node, pod_uid)
        count = self.places[node.name].connections
        before = node.reports.get(order.uid)
        self.report(node, order, state)
        extra = {
            "migration": own,
            "connections": count.get(pod_uid, 0) if self._moved(pod_uid) else None,
        }
        if before is not None and state is GuestState.STARTING:
            extra["started_at"] = None
        node.reports[order.uid] = node.reports[order.uid].model_copy(update=extra)
        if node.connected:
            self._hear(node)

    def _of_source(self, pod_uid: str) -> MigrationReport | None:
        found = [(uid, s) for uid, s in self.sendings.items() if s.pod_uid == pod_uid]
        if not found:
            return None
        uid, s = found[-1]
        reason = "PeerLost" if s.state is MigrationState.FAILED else ""
        return MigrationReport(
            uid=uid, epoch=0, state=s.state, total=TOTAL, remaining=s.remaining, bytes_per_second=1, reason=reason
        )

    def _of_target(self, node: Node, pod_uid: str) -> MigrationReport | None:
        found = next(((u, c) for u, c in self.copies.items() if c.pod_uid == pod_uid and c.node == node.name), None)
        if found is None:
            return None
        pause = 120 if found[1].state is MigrationState.ARRIVED else None
        return MigrationReport(uid=found[0], epoch=0, state=found[1].state, alone=found[1].alone, pause_ms=pause)

    # all of it

    def turn(self) -> None:
        """Everybody once."""
        self.deliver()
        self.reconcile()
        self.schedule()
        self.kubelets()
        for name in self.nodes:
            self.step_node(name)

    def settle(self, rounds: int = 60, node: str = "a", until: Callable[[], bool] | None = None) -> None:
        for _ in range(rounds):
            self.turn()
            if until is not None and until():
                self.deliver()
                self.reconcile()
                return
            self.advance(1)


class MovingAgents(Agents):
    async def send(self, node: str, order: Order, digest: str) -> None:
        world = self._world
        assert isinstance(world, MovingWorld)
        world.effect(after=False)
        there = world.nodes[node]
        if not there.connected:
            raise AgentDown("not connected")
        old = there.orders.get(order.uid)
        if old is not None and old.epoch > order.epoch:
            raise StaleEpoch(f"epoch {order.epoch} is older than {old.epoch}")
        running = [g for g in world.guests if g.uid == order.uid and g.node == node]
        if old is not None and running and old.berth != order.berth:
            raise AgentDown("the last guest has not ended here yet")
        there.orders[order.uid] = order
        there.sent[order.uid] = digest
        there.present.add(order.uid)
        if running:
            world._send(there, order)
        elif world._moved(order.berth.pod_uid):
            world._tell(there, order, GuestState.MOVED)
        elif world._door_on(there, order.uid) is None and (old is None or old.berth != order.berth):
            world._tell(there, order, GuestState.WAITING)
            there.reports[order.uid] = there.reports[order.uid].model_copy(update={"started_at": None})
            world._hear(there)
        world.effect(after=True)
