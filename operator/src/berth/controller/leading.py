"""What the leader runs: watches and links in, bells for the queue out. Made by main.py once this replica leads.

It wires the parts together and decides nothing: which machines a piece of news is about is all that it knows.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from berth.api.order import NodeFacts
from berth.controller import handlers
from berth.controller.agents import Agents
from berth.controller.authority import ClientContexts
from berth.controller.cache import Cache, Key
from berth.controller.queue import Queue
from berth.controller.reconcile import Reconciler
from berth.controller.settings import Settings
from berth.controller.teller import Teller
from berth.effects.certificates import Authority
from berth.effects.cluster import Cluster
from berth.effects.kube import Kube, path
from berth.effects.watches import Watch
from berth.errors import BerthError
from berth.plan.world import COMPONENT, COMPONENT_LABEL, KVM_LABEL, Object

SWEEP_SECONDS: Final = 600.0
_log = logging.getLogger(__name__)


class Leading:
    def __init__(self, settings: Settings, kube: Kube, authority: Authority) -> None:
        self._settings = settings
        self._cache = Cache()
        self._cluster = Cluster(kube, settings.pod_name)
        self._agents = Agents(ClientContexts(authority), settings.agent_port, self._machine_news, self._node_news)
        self._teller = Teller(self._cluster)
        self._reconciler = Reconciler(
            self._cache,
            self._cluster,
            self._agents,
            lambda: settings.cluster(self._agents.kvm()),
            self._teller.tell,
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
            self._agents.pod_seen,
            lambda key, _: self._agents.pod_gone(key),
            self._agents.pods,
        )
        self._labels: dict[str, str] = {}
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
                group.create_task(self._teller.run(), name="teller"),
            ]
            await self._berths.synced.wait()  # a machine is judged only when its berth, if any, is known
            await self._agent_pods.synced.wait()
            self._background.append(group.create_task(self._queue.run(), name="queue"))
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
        self._uids.pop(uid, None)
        self._agents.forget(uid)

    def _pod_seen(self, obj: Object) -> None:
        self._ring(self._cache.see_pod(obj))

    def _pod_gone(self, key: Key, last: Object | None) -> None:
        self._ring(self._cache.lose_pod(key, last))

    def _machine_news(self, uid: str) -> None:
        self._ring(self._uids.get(uid))

    def _node_news(self, node: str, facts: NodeFacts | None) -> None:
        for key in self._cache.on_node(node):
            self._queue.ring(key)
        if facts is None:
            return
        for key in self._cache.unplaced():  # what KVM the nodes have is part of why no node fits
            self._queue.ring(key)
        if self._settings.label_nodes:
            task = asyncio.get_running_loop().create_task(self._label(node, facts))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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
            for key, obj in before.items():
                if key not in names and self._cache.machines.get(key) is obj:
                    self._lose(key, obj["metadata"]["uid"])
