"""What the leader runs: watches and links in, bells for the queue out. Made by main.py once this replica leads.

It wires the parts together and decides nothing: which machines a piece of news is about is all that it knows.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from berth.api.base import GROUP, VERSION
from berth.api.migration import PLURAL as MIGRATIONS
from berth.api.network import PLURAL
from berth.api.order import NodeFacts
from berth.api.snapshot import PLURAL as SNAPSHOTS
from berth.controller import handlers
from berth.controller.agents import Agents
from berth.controller.authority import ClientContexts
from berth.controller.cache import Cache, Key, version_of
from berth.controller.migrations import Migrations
from berth.controller.networks import NetworkReconciler, Networks
from berth.controller.queue import Queue
from berth.controller.reconcile import Reconciler
from berth.controller.settings import Settings
from berth.controller.snapshots import Snapshots
from berth.controller.teller import Teller
from berth.effects.certificates import Authority
from berth.effects.cluster import Cluster
from berth.effects.kube import Kube, path
from berth.effects.watches import Watch
from berth.errors import BerthError
from berth.plan import hardware
from berth.plan.hosts import Kind
from berth.plan.moves import Move
from berth.plan.segment import Segment, SegmentKey
from berth.plan.world import COMPONENT, COMPONENT_LABEL, KVM_LABEL, Object
from berth.plan.world import Cluster as Common

SWEEP_SECONDS: Final = 600.0
NETWORK_WORKERS: Final = 2
_log = logging.getLogger(__name__)


class Leading:
    def __init__(self, settings: Settings, kube: Kube, authority: Authority) -> None:
        self._settings = settings
        self._cache = Cache()
        self._networks = Networks()
        self._moves = Migrations()
        self._snapshots = Snapshots()
        self._cordoned: set[str] = set()
        self._node_versions: dict[Key, int] = {}
        self._cluster = Cluster(kube, settings.pod_name)
        self._agents = Agents(ClientContexts(authority), settings.agent_port, self._machine_news, self._node_news)
        self._teller = Teller(self._cluster)
        self._reconciler = Reconciler(
            self._cache,
            self._cluster,
            self._agents,
            self._common,
            self._teller.tell,
            known=self._networks,
            leased=self._leased,
            moves=self._moves,
            snapshots=self._snapshots,
            limits=settings.limits,
            freed=self._move_news,
            moved=self._has_moved,
        )
        self._segments = NetworkReconciler(self._networks, self._cache, self._cluster, self._agents, self._leased)
        self._segment_queue: Queue[SegmentKey] = Queue(self._segments.work, NETWORK_WORKERS)
        self._network_watch = Watch(
            kube,
            f"/apis/{GROUP}/{VERSION}/{PLURAL}",
            "",
            self._network_seen,
            self._network_gone,
            self._networks.versions,
        )
        self._migration_watch = Watch(
            kube,
            f"/apis/{GROUP}/{VERSION}/{MIGRATIONS}",
            "",
            self._migration_seen,
            self._migration_gone,
            self._moves.versions,
        )
        self._snapshot_watch = Watch(
            kube,
            f"/apis/{GROUP}/{VERSION}/{SNAPSHOTS}",
            "",
            self._snapshot_seen,
            self._snapshot_gone,
            self._snapshots.versions,
        )
        self._node_watch = Watch(
            kube, "/api/v1/nodes", "", self._node_seen, self._node_gone, lambda: self._node_versions
        )
        self._queue: Queue[Key] = Queue(self._reconciler.work, settings.workers)
        self._berths = Watch(
            kube,
            "/api/v1/pods",
            f"{COMPONENT_LABEL}={COMPONENT}",
            self._pod_seen,
            self._pod_gone,
            self._cache.pod_versions,
        )
        self._agent_pods = Watch(
            kube,
            path("/api/v1", "namespaces", settings.namespace, "pods"),
            settings.agent_selector,
            self._agent_pod_seen,
            lambda key, _: self._agents.pod_gone(key),
            self._agents.pods,
        )
        self._labels: dict[str, str] = {}
        self._kinds: set[Kind] = set()
        self._uids: dict[str, Key] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self.ready = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop; an error in any part ends all, and the process with it."""
        async with asyncio.TaskGroup() as group:
            self._background += [
                group.create_task(self._berths.run(), name="berths"),
                group.create_task(self._agent_pods.run(), name="agents"),
                group.create_task(self._network_watch.run(), name="networks"),
                group.create_task(self._migration_watch.run(), name="migrations"),
                group.create_task(self._snapshot_watch.run(), name="snapshots"),
                group.create_task(self._node_watch.run(), name="nodes"),
                group.create_task(self._teller.run(), name="teller"),
            ]
            await self._berths.synced.wait()  # a machine is judged only when its berth, if any, is known
            await self._agent_pods.synced.wait()
            await self._network_watch.synced.wait()
            await self._migration_watch.synced.wait()
            await self._snapshot_watch.synced.wait()
            await self._node_watch.synced.wait()
            self._background.append(group.create_task(self._queue.run(), name="queue"))
            self._background.append(group.create_task(self._segment_queue.run(), name="segments"))
            self._background.append(group.create_task(self._sweep(), name="sweep"))
            await group.create_task(handlers.watch_machines(self.machine_bell, stop, self.ready), name="kopf")
            stop.set()  # kopf ends in order on signals only
            await self.halt()
        await self._agents.close()

    async def halt(self) -> None:
        """Not one more write, as soon as this returns; kopf may take its time to end."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _common(self) -> Common:
        """What is the same for all machines now."""
        agents, cordoned = self._agents, frozenset(self._cordoned)
        return self._settings.cluster(agents.kvm(), agents.nodes(), cordoned, agents.hosts(), agents.settled())

    # bells

    def machine_bell(self, kind: str, obj: Object) -> None:
        meta = obj["metadata"]
        key = (meta["namespace"], meta["name"])
        if kind == "DELETED":
            self._lose(key, meta["uid"])
        elif self._cache.see_machine(obj):
            self._uids[meta["uid"]] = key
            self._queue.ring(key)

    def _lose(self, key: Key, uid: str) -> None:
        known = self._cache.machines.get(key)
        if known is None or known["metadata"]["uid"] == uid:
            self._cache.lose_machine(key)
            self._queue.forget(key)
            self._reconciler.forget(key)
            if self._snapshots.of(key):
                self._queue.ring(key)  # they are let go once it is gone
        self._uids.pop(uid, None)
        self._agents.forget(uid)

    def _pod_seen(self, obj: Object) -> None:
        self._pod_news(self._cache.see_pod(obj))

    def _pod_gone(self, key: Key, last: Object | None) -> None:
        self._pod_news(self._cache.lose_pod(key, last))

    def _pod_news(self, key: Key | None) -> None:
        """Where a machine is, its neighbours on a Network have to know."""
        self._ring(key)
        known = self._cache.machines.get(key) if key is not None else None
        if known is not None:
            for network in self._networks.held_by(known["metadata"]["uid"]):
                self._segment_queue.ring(network)

    def _network_seen(self, obj: Object) -> None:
        seen = self._networks.see(obj)
        if seen is not None:
            self._network_news(seen)

    def _network_gone(self, key: Key, last: Object | None) -> None:
        lost = self._networks.lose(key)
        if lost is not None:
            self._network_news(lost)

    def _network_news(self, seen: Segment) -> None:
        """It, its neighbours (one of them may wait for its number), and the machines that use it or wait for it."""
        for other in self._networks.all():
            if other.key == seen.key or not _is_ready(other):
                self._segment_queue.ring(other.key)
        self._ring_users(seen.key)

    def _node_seen(self, obj: Object) -> None:
        """A node that is cordoned is to be emptied. Its heartbeats come here, too, and say nothing."""
        name = obj["metadata"]["name"]
        self._node_versions["", name] = version_of(obj)
        cordoned = bool((obj.get("spec") or {}).get("unschedulable"))
        if cordoned == (name in self._cordoned):
            return
        (self._cordoned.add if cordoned else self._cordoned.discard)(name)
        for key in self._cache.on_node(name):
            self._queue.ring(key)

    def _node_gone(self, key: Key, last: Object | None) -> None:
        self._node_versions.pop(key, None)
        self._cordoned.discard(key[1])

    def _migration_seen(self, obj: Object) -> None:
        seen = self._moves.see(obj)
        if seen is not None and not seen.finished:
            self._queue.ring(seen.of)

    def _migration_gone(self, key: Key, last: Object | None) -> None:
        lost = self._moves.lose(key, last["metadata"]["uid"] if last is not None else None)
        if lost is not None and not lost.finished:
            self._queue.ring(lost.of)
            self._move_news(lost)

    def _snapshot_seen(self, obj: Object) -> None:
        seen = self._snapshots.see(obj)
        if seen is not None and (seen.deleted or not seen.finished):
            self._queue.ring(seen.of)
        elif seen is not None:
            self._ring(seen.of)  # its machine may wait for it, to go back to it

    def _snapshot_gone(self, key: Key, last: Object | None) -> None:
        lost = self._snapshots.lose(key, last["metadata"]["uid"] if last is not None else None)
        if lost is not None:
            self._ring(lost.of)

    def _move_news(self, done: Move) -> None:
        """One is over: others may have waited for their turn."""
        for other in self._moves.all():
            if not other.finished and other.uid != done.uid:
                self._queue.ring(other.of)

    def _has_moved(self, uid: str) -> None:
        """A machine is on another node: its neighbours have to know at once, and no watch tells of our own writes."""
        for network in self._networks.held_by(uid):
            self._segment_queue.ring(network)

    def _leased(self, network: SegmentKey, given_back: bool) -> None:
        self._segment_queue.ring(network)
        if given_back:
            self._ring_users(network)

    def _ring_users(self, network: SegmentKey) -> None:
        for key, obj in self._cache.machines.items():
            if _names(obj, key[0], network):
                self._queue.ring(key)

    def _agent_pod_seen(self, obj: Object) -> None:
        """A second node makes machines movable, which each of them says."""
        before = len(self._agents.nodes())
        self._agents.pod_seen(obj)
        if before == 1 < len(self._agents.nodes()):
            for key in self._cache.machines:
                self._queue.ring(key)

    def _machine_news(self, uid: str) -> None:
        self._ring(self._uids.get(uid))

    def _node_news(self, node: str, facts: NodeFacts | None) -> None:
        for key in self._cache.on_node(node):
            self._queue.ring(key)
        self._segments.node_is_new(node)
        for network in self._networks.all():
            self._segment_queue.ring(network.key)
        if facts is None:
            return
        self._kinds_news()
        for key in self._cache.unplaced():  # what KVM the nodes have is part of why no node fits
            self._queue.ring(key)
        if self._settings.label_nodes:
            task = asyncio.get_running_loop().create_task(self._label(node, facts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _kinds_news(self) -> None:
        """A node of another kind than all before it, or one that has become so: where machines may go has changed."""
        kinds = {host.kind for host in self._agents.hosts() if host.kind.known}
        if kinds == self._kinds:
            return
        self._kinds = kinds
        found = hardware.nodes_baseline(self._common())
        for group in found.groups:
            said = {"vendor": group.vendor, "model": group.cpu.model, "nodes": group.nodes}
            _log.info("CPU baseline", extra=said)
        for out in found.left_out:
            lacks = ", ".join(out.missing)
            _log.warning("node %s is left out of the CPU baseline: it lacks %s", out.node, lacks)
        for key in self._cache.machines:
            self._queue.ring(key)

    def _ring(self, key: Key | None) -> None:
        if key is not None and key in self._cache.machines:
            self._queue.ring(key)

    # nodes and strays

    async def _label(self, node: str, facts: NodeFacts) -> None:
        """berth.dev/kvm on the Node says what its agent found out; written only when it says something else."""
        wanted = "true" if facts.kvm_usable else "false"
        if self._labels.get(node) == wanted:
            return
        try:
            obj = await self._cluster.node(node)
            if obj is not None and (obj["metadata"].get("labels") or {}).get(KVM_LABEL) != wanted:
                await self._cluster.label_node(node, {KVM_LABEL: wanted})
            self._labels[node] = wanted
        except BerthError as error:
            _log.warning("node %s could not be labelled: %s", node, error)

    async def _sweep(self) -> None:
        """Drop machines that went while no watch was looking: a list after a 410 tells nothing of them."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            before = dict(self._cache.machines)
            try:
                names = await self._cluster.machine_names()
            except BerthError as error:
                _log.warning("sweep: %s", error)
                continue
            self._segments.look_for_orphans()
            for network in self._networks.all():
                self._segment_queue.ring(network.key)
            for key, obj in before.items():
                if key not in names and self._cache.machines.get(key) is obj:
                    self._lose(key, obj["metadata"]["uid"])


def _names(machine: Object, namespace: str, network: SegmentKey) -> bool:
    """Whether a machine's spec names that Network. It is read as it stands: it may be no valid spec."""
    nics = (machine.get("spec") or {}).get("nics") or ()
    named = [nic.get("network") for nic in nics if isinstance(nic, dict)]
    return any(
        (one.get("namespace") or namespace, one.get("name")) == network for one in named if isinstance(one, dict)
    )


def _is_ready(segment: Segment) -> bool:
    return segment.status is not None and any(c.status == "True" for c in segment.status.conditions)
