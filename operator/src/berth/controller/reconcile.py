"""The one reconcile of VirtualMachines: gather → desire and plan → apply → report. Level-based; called by the queue.

It never asks which event came. Everything it decides is decided by berth.plan from a ``World``; everything it does is
done through the two ports. A crash between any two lines is mended by the next run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, assert_never

from berth.api.virtualmachine import Phase, VirtualMachineStatus
from berth.controller.cache import Cache, Key, version_of
from berth.controller.networks import Leased, LeaseWriter, Networks
from berth.controller.tracing import WAITED, Trace, waiting
from berth.effects.ports_cluster import AgentPort, ApiRefused, ClusterPort, Conflict, NotFound
from berth.errors import AgentDown, Refused
from berth.plan import cluster as planning
from berth.plan import networks
from berth.plan import status as reporting
from berth.plan.backoff import retry_seconds
from berth.plan.cluster import AddFinalizer, CreateBerth, DeleteBerth, Plan, RemoveFinalizer, SendOrder, Step, Withdraw
from berth.plan.networks import WriteLeases
from berth.plan.place import last_node
from berth.plan.status import Urgency
from berth.plan.tell import Tell, tells
from berth.plan.world import FINALIZER, Cluster, Machine, Pod, PodEvent, Refusal, World, read_machine, read_pod

NODE_SECONDS: Final = 10.0
EVENTS_SECONDS: Final = 2.5
_log = logging.getLogger(__name__)


def _utc() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Memory:
    """What is kept of one machine between two runs; losing it costs time, never correctness."""

    refusal: Refusal | None = None  # of the berth pod
    squatter: Pod | None = None  # the pod that has its name
    refusals: int = 0
    create_after: datetime | None = None
    order_after: datetime | None = None
    order_failures: int = 0
    held_since: datetime | None = None
    events: tuple[PodEvent, ...] = ()
    events_of: str = ""
    events_at: datetime | None = None
    trace: Trace = field(default_factory=Trace)


class Reconciler:
    def __init__(
        self,
        cache: Cache,
        cluster: ClusterPort,
        agents: AgentPort,
        common: Callable[[], Cluster],
        tell: Callable[[Machine, Tell], None],
        clock: Callable[[], datetime] = _utc,
        known: Networks | None = None,
        leased: Leased = lambda key, given_back: None,
    ) -> None:
        self._networks = known if known is not None else Networks()
        self._leases = LeaseWriter(self._networks, cluster, clock, leased)
        self._cache = cache
        self._cluster = cluster
        self._agents = agents
        self._common = common
        self._tell = tell
        self._clock = clock
        self._memories: dict[Key, Memory] = {}
        self._nodes: dict[str, tuple[datetime, bool]] = {}

    def forget(self, key: Key) -> None:
        self._memories.pop(key, None)

    async def work(self, key: Key, rang: float) -> float | None:
        """One run, for the queue; its time counts for the start that is under way."""
        waited: list[float] = []
        token = WAITED.set(waited)
        try:
            return await self.reconcile(key, rang)
        finally:
            WAITED.reset(token)
            memory = self._memories.get(key)
            if memory is not None and memory.trace.epoch:
                memory.trace.add(rang, sum(waited))

    async def reconcile(self, key: Key, rang: float = 0.0) -> float | None:
        """1. gather 2. plan 3. apply 4. report; in how many seconds to look again."""
        world = await self._gather(key)
        if world is None:
            self.forget(key)
            return None
        memory = self._memory(key)
        plan = planning.plan(world)
        if plan.record and not await self._record(key, world, plan):
            return 0.2
        try:
            again = await self._apply(key, world, plan, memory, rang)
        except NotFound:
            _log.info("machine %s/%s is gone", *key)
            self._cache.lose_machine(key)
            return None
        after = await self._gather(key) if plan.steps else world
        if after is None:
            return None
        second = planning.plan(after) if plan.steps or plan.record else plan
        held = await self._report(key, after, second, memory)
        soon = 0.0 if _goes_on(plan, second) and again is None else None
        return min((s for s in (again, held, soon, second.look_again) if s is not None), default=None)

    def _memory(self, key: Key) -> Memory:
        return self._memories.setdefault(key, Memory())

    # 1. gather

    async def _gather(self, key: Key) -> World | None:
        obj = self._cache.machines.get(key)
        if obj is None:
            return None
        machine, memory, pod = read_machine(obj), self._memory(key), self._cache.pod(key)
        if pod is not None:
            memory.squatter, memory.refusal, memory.refusals = None, None, 0
        departed = self._cache.departed(key)
        if departed is not None and departed.owner_uid != machine.uid:
            departed = None
        world = World(
            now=self._clock(),
            machine=machine,
            cluster=self._common(),
            pod=pod or memory.squatter,
            departed=departed,
            create_refusal=memory.refusal,
        )
        keys = networks.referenced(world) | self._networks.held_by(machine.uid)
        world = replace(world, networks=self._networks.views(keys)) if keys else world
        return await self._gather_more(world, memory)

    async def _gather_more(self, world: World, memory: Memory) -> World:
        """What depends on the berth's node, and the Events of a berth that is stuck."""
        node = last_node(world)
        if node is not None:
            agent = self._agents.view(node, world.machine.uid)
            exists = agent.connected or await self._node_exists(node, world.now)
            world = replace(world, agent=agent, node_exists=exists)
        if planning.needs_events(world) and world.berth is not None:
            world = replace(world, events=await self._events(world.berth, memory, world.now))
        return world

    async def _node_exists(self, name: str, now: datetime) -> bool:
        at, exists = self._nodes.get(name, (None, True))
        if at is not None and (now - at).total_seconds() < NODE_SECONDS:
            return exists
        with waiting():
            exists = await self._cluster.node(name) is not None
        self._nodes[name] = now, exists
        return exists

    async def _events(self, pod: Pod, memory: Memory, now: datetime) -> tuple[PodEvent, ...]:
        fresh = memory.events_at is not None and (now - memory.events_at).total_seconds() < EVENTS_SECONDS
        if not fresh or memory.events_of != pod.uid:
            with waiting():
                memory.events = tuple(await self._cluster.pod_events(pod.namespace, pod.name, pod.uid))
            memory.events_of, memory.events_at = pod.uid, now
        return memory.events

    # 3. apply

    async def _apply(self, key: Key, world: World, plan: Plan, memory: Memory, rang: float) -> float | None:
        again: float | None = None
        for step in plan.steps:
            _log.debug("%s/%s: %s: %s", *key, type(step).__name__, step.reason)
            again = await self._step(key, world, step, memory, rang)
            if again is not None:
                break
        return again

    async def _step(self, key: Key, world: World, step: Step, memory: Memory, rang: float) -> float | None:
        """Carry one step out; a number of seconds when the rest has to wait."""
        match step:
            case AddFinalizer():
                return await self._finalizers(key, world, [*world.machine.finalizers, FINALIZER])
            case RemoveFinalizer():
                return await self._finalizers(key, world, [f for f in world.machine.finalizers if f != FINALIZER])
            case CreateBerth():
                return await self._create(key, world, step, memory, rang)
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

    async def _send(self, step: SendOrder, memory: Memory, now: datetime) -> float | None:
        if memory.order_after is not None and now < memory.order_after:
            return (memory.order_after - now).total_seconds()
        try:
            with waiting():
                await self._agents.send(step.node, step.order, step.digest)
        except (AgentDown, Refused) as error:
            _log.warning("order for %s/%s: %s", step.order.namespace, step.order.name, error)
            memory.order_failures += 1
            wait = retry_seconds(memory.order_failures, first=0.5, longest=15)
            memory.order_after = now + timedelta(seconds=wait)
            return wait
        memory.order_failures, memory.order_after = 0, None
        memory.trace.mark("order_sent")
        return None

    # 4. report

    async def _report(self, key: Key, world: World, plan: Plan, memory: Memory) -> float | None:
        """Write the status if it tells something; progress waits a moment for what comes next."""
        new = reporting.status(world, plan.history, plan.verdict)
        urgency = reporting.urgency(world.machine.status, new)
        if urgency is Urgency.HELD:
            memory.held_since = memory.held_since or world.now
            first = world.machine.status is None
            hold = reporting.FIRST_HOLD_SECONDS if first else reporting.HOLD_SECONDS
            left = hold - (world.now - memory.held_since).total_seconds()
            if left > 0:
                return left
        memory.held_since = None
        if urgency is Urgency.NONE:
            return None
        return None if await self._write(key, world, new) else 0.2

    async def _record(self, key: Key, world: World, plan: Plan) -> bool:
        """Write down what the following steps rest on."""
        return await self._write(key, world, reporting.status(world, plan.history, plan.verdict))

    async def _write(self, key: Key, world: World, new: VirtualMachineStatus) -> bool:
        machine, old = world.machine, self._cache.machines[key].get("status") or {}
        patch = reporting.merge_patch(old, reporting.as_json(new))
        if not patch:
            return True
        try:
            with waiting():
                obj = await self._cluster.write_status(machine, patch)
        except NotFound:
            self._cache.lose_machine(key)
            return False
        self._cache.see_machine(obj)
        for tell in tells(machine.status, new):
            self._tell(machine, tell)
        memory = self._memory(key)
        memory.held_since = None
        if new.phase in (Phase.RUNNING, Phase.PAUSED):
            memory.trace.mark("status_written")
            memory.trace.end(f"{key[0]}/{key[1]}")
        return True


def _goes_on(plan: Plan, second: Plan) -> bool:
    """Whether what was just done opens the way to other steps, for which no bell will ring: an end was recorded, or an
    interface got its lease."""
    if not plan.steps:
        return plan.record
    kinds = [type(step) for step in second.steps]
    return bool(kinds) and kinds != [type(step) for step in plan.steps]
