"""The steps of a machine's plan, carried out one by one through the two ports. Called by reconcile.py; decides nothing.

Each step may say in how many seconds the rest has to be tried again; what failed is remembered in the machine's Memory,
and told by the next report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import assert_never

from berth.controller.cache import Cache, Key, version_of
from berth.controller.networks import LeaseWriter
from berth.controller.tracing import Trace, waiting
from berth.effects.ports_cluster import AgentPort, ApiRefused, ClusterPort, Conflict, NotFound
from berth.errors import AgentDown, Refused
from berth.plan import evacuation
from berth.plan.acts import (
    AddFinalizer,
    CreateBerth,
    CreateClaim,
    CreateGuard,
    CreateIncoming,
    CreateMigration,
    DeleteBerth,
    RemoveFinalizer,
    SendOrder,
    SetGuard,
    SetHere,
    Step,
    Withdraw,
)
from berth.plan.backoff import retry_seconds
from berth.plan.cluster import Plan
from berth.plan.networks import WriteLeases
from berth.plan.tell import Tell
from berth.plan.world import FINALIZER, GUARD, GUARDED, Machine, Object, Pod, PodEvent, Refusal, World, read_pod

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Memory:
    """What is kept of one machine between two runs; losing it costs time, never correctness."""

    refusal: Refusal | None = None  # of the berth pod
    squatter: Pod | None = None  # the pod that has its name
    refusals: int = 0
    create_after: datetime | None = None
    order_after: dict[str, datetime] = field(default_factory=dict)  # by node
    order_failures: dict[str, int] = field(default_factory=dict)
    move_refusal: Refusal | None = None  # of the incoming berth pod
    move_refusals: int = 0
    move_after: datetime | None = None
    idle_doors: dict[str, datetime] = field(default_factory=dict)
    held_since: datetime | None = None
    events: dict[str, tuple[datetime, tuple[PodEvent, ...]]] = field(default_factory=dict)  # by pod's uid
    trace: Trace = field(default_factory=Trace)


class Applier:
    def __init__(
        self,
        cache: Cache,
        cluster: ClusterPort,
        agents: AgentPort,
        leases: LeaseWriter,
        tell: Callable[[Machine, Tell], None],
    ) -> None:
        self._cache = cache
        self._cluster = cluster
        self._agents = agents
        self._leases = leases
        self._tell = tell
        self._guards: set[str] = set()  # namespaces that have their budget

    async def apply(self, key: Key, world: World, plan: Plan, memory: Memory, rang: float) -> float | None:
        """A node that does not take its order holds up no other step."""
        waits: list[float] = []
        for step in plan.steps:
            _log.debug("%s/%s: %s: %s", *key, type(step).__name__, step.reason)
            again = await self._step(key, world, step, memory, rang)
            waits += [again] if again is not None else []
            if again is not None and not isinstance(step, SendOrder | CreateIncoming):
                break
        return min(waits, default=None)

    async def _step(self, key: Key, world: World, step: Step, memory: Memory, rang: float) -> float | None:
        """Carry one step out; a number of seconds when the rest has to wait."""
        match step:
            case AddFinalizer():
                return await self._finalizers(key, world, [*world.machine.finalizers, FINALIZER])
            case RemoveFinalizer():
                return await self._finalizers(key, world, [f for f in world.machine.finalizers if f != FINALIZER])
            case CreateBerth():
                return await self._create(key, world, step, memory, rang)
            case CreateClaim():
                return await self._claim(world, step, memory)
            case CreateIncoming():
                return await self._create_incoming(world, step, memory)
            case SetHere() | SetGuard():
                return await self._mark(world, step)
            case CreateGuard():
                await self._guard(world.machine.namespace)
                return None
            case CreateMigration():
                with waiting():
                    await self._cluster.create_migration(step.manifest)
                return None
            case DeleteBerth():
                return await self._delete(key, world, step)
            case SendOrder():
                return await self._send(step, memory, world.now)
            case WriteLeases():
                with waiting():
                    return await self._leases.write(step)
            case Withdraw():
                with waiting():
                    await self._agents.withdraw(step.node, world.machine.uid)
                return None
        assert_never(step)

    async def _finalizers(self, key: Key, world: World, wanted: list[str]) -> float | None:
        version = str(version_of(self._cache.machines[key]))
        try:
            with waiting():
                obj = await self._cluster.set_finalizers(world.machine, wanted, version)
        except Conflict:
            return 0.2  # the cache is behind; its news is on the way
        if obj["metadata"].get("deletionTimestamp") and not obj["metadata"].get("finalizers"):
            self._cache.lose_machine(key)
        else:
            self._cache.see_machine(obj)
        return None

    async def _create(self, key: Key, world: World, step: CreateBerth, memory: Memory, rang: float) -> float | None:
        if memory.create_after is not None and world.now < memory.create_after:
            return (memory.create_after - world.now).total_seconds()
        memory.trace.begin(step.epoch, rang)
        try:
            with waiting():
                pod = await self._cluster.create_pod(step.manifest)
        except Conflict:
            return await self._taken(key, world, step, memory)
        except ApiRefused as error:
            memory.refusal = Refusal(error.code, error.reason, str(error))
            return self._create_later(memory, world.now)
        memory.refusals, memory.create_after = 0, None
        memory.trace.mark("berth_created")
        self._cache.see_pod(pod)
        if self._is_guarded(pod):
            await self._guard(key[0])
        self._tell(world.machine, Tell("Starting", f"Start {step.epoch}: {step.reason}."))
        return None

    async def _taken(self, key: Key, world: World, step: CreateBerth, memory: Memory) -> float | None:
        """A pod has the name: ours, of which the watch has not told yet, or somebody else's."""
        with waiting():
            obj = await self._cluster.pod(key[0], step.manifest["metadata"]["name"])
        pod = read_pod(obj) if obj is not None else None
        if obj is not None and pod is not None and pod.owner_uid == world.machine.uid:
            self._cache.see_pod(obj)
            return None
        memory.squatter = pod
        return self._create_later(memory, world.now)

    async def _claim(self, world: World, step: CreateClaim, memory: Memory) -> float | None:
        """One of that name that belongs to somebody else is not used: it may hold another machine's state."""
        if memory.create_after is not None and world.now < memory.create_after:
            return (memory.create_after - world.now).total_seconds()
        try:
            with waiting():
                found = await self._cluster.create_claim(step.manifest)
        except ApiRefused as error:
            memory.refusal = Refusal(error.code, error.reason, str(error))
            return self._create_later(memory, world.now)
        owners = [owner.get("uid") for owner in found["metadata"].get("ownerReferences") or ()]
        if world.machine.uid in owners:
            return None
        text = f"the claim {found['metadata']['name']} is there and is not this machine's. Next: delete or rename it,"
        memory.refusal = Refusal(409, "ClaimTaken", f"{text} or name it in spec.savedState.pvc")
        return self._create_later(memory, world.now)

    def _create_later(self, memory: Memory, now: datetime) -> float:
        memory.refusals += 1
        wait = retry_seconds(memory.refusals, first=2, longest=60)
        memory.create_after = now + timedelta(seconds=wait)
        return wait

    async def _delete(self, key: Key, world: World, step: DeleteBerth) -> float | None:
        with waiting():
            pod = await self._cluster.delete_pod(world.machine.namespace, step.name, step.uid)
        if pod is None:
            self._cache.lose_pod((world.machine.namespace, step.name), None)
        else:
            self._cache.see_pod(pod)
        self._tell(world.machine, Tell("BerthDeleted", f"The berth pod {step.name} is deleted: {step.reason}."))
        return None

    async def _create_incoming(self, world: World, step: CreateIncoming, memory: Memory) -> float | None:
        """A refusal is told, and tried again: a quota may be raised."""
        if memory.move_after is not None and world.now < memory.move_after:
            return (memory.move_after - world.now).total_seconds()
        try:
            with waiting():
                pod = await self._cluster.create_pod(step.manifest)
        except Conflict:
            return 0.5  # one of an earlier move is on its way out
        except ApiRefused as error:
            memory.move_refusal = Refusal(error.code, error.reason, str(error))
            memory.move_refusals += 1
            wait = retry_seconds(memory.move_refusals, first=2, longest=15)
            memory.move_after = world.now + timedelta(seconds=wait)
            return wait
        self._cache.see_pod(pod)
        if self._is_guarded(pod):
            await self._guard(world.machine.namespace)
        self._tell(world.machine, Tell("MigrationStarted", f"{step.reason}."))
        return None

    async def _mark(self, world: World, step: SetHere | SetGuard) -> float | None:
        namespace = world.machine.namespace
        try:
            with waiting():
                if isinstance(step, SetHere):
                    obj = await self._cluster.set_here(namespace, step.name, step.uid, step.here)
                else:
                    obj = await self._cluster.set_guard(namespace, step.name, step.uid, step.guarded)
        except NotFound:
            return 0.2
        self._cache.see_pod(obj)
        if self._is_guarded(obj):
            await self._guard(namespace)
        return None

    def _is_guarded(self, pod: Object) -> bool:
        return bool((pod["metadata"].get("labels") or {}).get(GUARD) == GUARDED)

    async def _guard(self, namespace: str) -> None:
        """Once for each namespace; a quota that forbids it must hold up no machine."""
        if namespace in self._guards:
            return
        try:
            with waiting():
                await self._cluster.create_guard(evacuation.guard(namespace))
        except ApiRefused as error:
            _log.warning("namespace %s gets no guard against eviction: %s", namespace, error)
        self._guards.add(namespace)

    async def _send(self, step: SendOrder, memory: Memory, now: datetime) -> float | None:
        after = memory.order_after.get(step.node)
        if after is not None and now < after:
            return (after - now).total_seconds()
        try:
            with waiting():
                await self._agents.send(step.node, step.order, step.digest)
        except (AgentDown, Refused) as error:
            _log.warning("order for %s/%s: %s", step.order.namespace, step.order.name, error)
            failures = memory.order_failures[step.node] = memory.order_failures.get(step.node, 0) + 1
            wait = retry_seconds(failures, first=0.5, longest=15)
            memory.order_after[step.node] = now + timedelta(seconds=wait)
            return wait
        memory.order_failures.pop(step.node, None)
        memory.order_after.pop(step.node, None)
        memory.trace.mark("order_sent")
        return None
