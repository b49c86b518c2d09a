"""The one reconcile of VirtualMachines: gather → desire and plan → apply → report. Level-based; called by the queue.

It never asks which event came. Everything it decides is decided by berth.plan from a ``World``; everything it does is
done through the two ports. A crash between any two lines is mended by the next run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from berth.api.virtualmachine import Phase, VirtualMachineStatus
from berth.controller.applying import Applier, Memory
from berth.controller.cache import Cache, Key
from berth.controller.migrations import Migrations, Speaker
from berth.controller.networks import Leased, LeaseWriter, Networks
from berth.controller.snapshots import Snapshots
from berth.controller.snapshots import Speaker as SnapshotSpeaker
from berth.controller.tracing import WAITED, waiting
from berth.effects.ports_cluster import AgentPort, ClusterPort, Conflict, NotFound
from berth.plan import berths, doors, migration, networks
from berth.plan import cluster as planning
from berth.plan import status as reporting
from berth.plan.cluster import Plan
from berth.plan.moves import Limits, Move
from berth.plan.place import last_node
from berth.plan.status import Urgency
from berth.plan.tell import Tell, tells
from berth.plan.world import Cluster, Machine, Pod, PodEvent, World, read_machine

NODE_SECONDS: Final = 10.0
EVENTS_SECONDS: Final = 2.5
OWNER: Final = frozenset({"berth", "epoch", "node", "savedState", "revert"})
"""Whose the guest is. Written only at the version that was read, and before the node is told: a controller that was
behind for a while, and does not know that it leads no more, cannot make a second copy of a machine that has moved."""
_log = logging.getLogger(__name__)


def _utc() -> datetime:
    return datetime.now(UTC)


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
        moves: Migrations | None = None,
        snapshots: Snapshots | None = None,
        limits: Limits | None = None,
        freed: Callable[[Move], None] = lambda move: None,
        moved: Callable[[str], None] = lambda uid: None,
    ) -> None:
        self._moves = moves if moves is not None else Migrations()
        self._speaker = Speaker(self._moves, cluster, limits or Limits(), freed, clock)
        self._snapshots = snapshots if snapshots is not None else Snapshots()
        self._snapshot_speaker = SnapshotSpeaker(self._snapshots, cluster, clock)
        self._moved = moved
        self._networks = known if known is not None else Networks()
        leases = LeaseWriter(self._networks, cluster, clock, leased)
        self._applier = Applier(cache, cluster, agents, leases, tell)
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
            return await self._speak(key, None)
        memory = self._memory(key)
        plan = planning.plan(world)
        if plan.record and not await self._record(key, world, plan):
            return 0.2
        try:
            again = await self._applier.apply(key, world, plan, memory, rang)
        except NotFound:
            _log.info("machine %s/%s is gone", *key)
            self._cache.lose_machine(key)
            return None
        after = await self._gather(key) if plan.steps else world
        if after is None:
            return None
        second = planning.plan(after) if plan.steps or plan.record else plan
        held = await self._report(key, after, second, memory)
        said = await self._speak(key, after)
        soon = 0.0 if _goes_on(plan, second) and again is None else None
        return min((s for s in (again, held, soon, said, second.look_again) if s is not None), default=None)

    async def _speak(self, key: Key, world: World | None) -> float | None:
        """What belongs to a machine tells last how it is."""
        waits = [await speaker.speak(key, world) for speaker in (self._speaker, self._snapshot_speaker)]
        return min((wait for wait in waits if wait is not None), default=None)

    def _memory(self, key: Key) -> Memory:
        return self._memories.setdefault(key, Memory())

    # 1. gather

    async def _gather(self, key: Key) -> World | None:
        obj = self._cache.machines.get(key)
        if obj is None:
            return None
        machine, memory, mine = read_machine(obj), self._memory(key), self._cache.berths(key)
        pod = mine.active
        if pod is not None:
            memory.squatter, memory.refusal, memory.refusals = None, None, 0
        move = self._moves.underway(key)
        if mine.incoming is not None or move is None:
            memory.move_refusal, memory.move_refusals, memory.move_after = None, 0, None
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
            moves_wait=bool(self._moves.of(key)),
            move=move,
            incoming=mine.incoming,
            former=mine.former,
            move_refusal=memory.move_refusal,
            snapshots=self._snapshots.of(key),
        )
        keys = networks.referenced(world) | self._networks.held_by(machine.uid)
        world = replace(world, networks=self._networks.views(keys)) if keys else world
        return await self._gather_more(world, memory)

    async def _gather_more(self, world: World, memory: Memory) -> World:
        """What depends on the berths' nodes, and the Events of those that are stuck."""
        uid, pods = world.machine.uid, [pod for pod in (world.last_berth, world.incoming, *world.former) if pod]
        nodes = {name for pod in pods for name in (pod.node, pod.came_from[0]) if name}
        world = replace(world, agents={name: self._agents.view(name, uid) for name in nodes})
        node = last_node(world)
        if node is not None:
            agent = self._agents.view(node, uid)
            exists = agent.connected or await self._node_exists(node, world.now)
            world = replace(world, agent=agent, node_exists=exists)
        world = berths.promoted(replace(world, idle_doors=_idle(world, memory)))
        if planning.needs_events(world) and world.berth is not None:
            world = replace(world, events=await self._events(world.berth, memory, world.now))
        if world.incoming is not None and migration.is_stuck(world):
            world = replace(world, move_events=await self._events(world.incoming, memory, world.now))
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
        at, known = memory.events.get(pod.uid, (None, ()))
        if at is not None and (now - at).total_seconds() < EVENTS_SECONDS:
            return known
        with waiting():
            found = tuple(await self._cluster.pod_events(pod.namespace, pod.name, pod.uid))
        memory.events = {**dict(list(memory.events.items())[-1:]), pod.uid: (now, found)}
        return found

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
        version = machine.version if patch.keys() & OWNER else None  # what was planned rests on that one
        try:
            with waiting():
                obj = await self._cluster.write_status(machine, patch, version)
        except Conflict:
            return False  # somebody knows more: their news is on the way
        except NotFound:
            self._cache.lose_machine(key)
            return False
        self._cache.see_machine(obj)
        if machine.status is not None and machine.status.node != new.node:
            self._moved(machine.uid)
        for tell in tells(machine.status, new):
            self._tell(machine, tell)
        memory = self._memory(key)
        memory.held_since = None
        if new.phase in (Phase.RUNNING, Phase.PAUSED):
            memory.trace.mark("status_written")
            memory.trace.end(f"{key[0]}/{key[1]}")
        return True


def _idle(world: World, memory: Memory) -> dict[str, datetime]:
    """Doors through which nothing goes, and since when."""
    counts = {pod.uid: doors.connections(world, pod) for pod in world.former}
    memory.idle_doors = {uid: memory.idle_doors.get(uid, world.now) for uid, count in counts.items() if count == 0}
    return dict(memory.idle_doors)


def _goes_on(plan: Plan, second: Plan) -> bool:
    """Whether what was just done opens the way to other steps, for which no bell will ring: an end was recorded, or an
    interface got its lease."""
    if not plan.steps:
        return plan.record
    kinds = [type(step) for step in second.steps]
    return bool(kinds) and kinds != [type(step) for step in plan.steps]
