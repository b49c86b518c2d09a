"""Networks: what the controller last saw of them, and their reconcile: gather → plan → apply. Called by leading.py.

A Network's status has one writer, this process, and two places that write it: here, and with a machine's lease in
reconcile.py. Both write at the version they read: whoever comes second looks again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from berth.api.network import Lease
from berth.api.order import SegmentMember
from berth.controller.cache import Cache
from berth.controller.known import Indexed
from berth.effects.ports_cluster import AgentPort, ClusterPort, Conflict, NotFound
from berth.errors import AgentDown, Refused
from berth.plan import networks, segment, segment_plan
from berth.plan.networks import WriteLeases
from berth.plan.segment import Segment, SegmentKey
from berth.plan.segment_plan import Neighbourhood, Place, SendMembers, SetFinalizers, WriteStatus
from berth.plan.status import merge_patch

RETRY_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


class Networks(Indexed[Segment]):
    """The Networks as they were last seen."""

    def __init__(self) -> None:
        super().__init__(segment.read, lambda found: {lease.uid for lease in found.leases})

    def views(self, keys: Iterable[SegmentKey]) -> dict[SegmentKey, Segment]:
        return {key: known[1] for key in keys if (known := self._known.get(key)) is not None}

    def held_by(self, uid: str) -> set[SegmentKey]:
        """Where a machine has leases."""
        return {found.key for found in self.found_by(uid)}


Leased = Callable[[SegmentKey, bool], None]
"""Told of a Network whose status was written, and whether machines may have waited for that: leases were given back,
or it got its number. Nodes have to hear of members. No watch tells of it: the write's answer is in the cache before."""


class LeaseWriter:
    """Carries a machine's WriteLeases out."""

    def __init__(self, known: Networks, cluster: ClusterPort, clock: Callable[[], datetime], leased: Leased) -> None:
        self._known = known
        self._cluster = cluster
        self._clock = clock
        self._leased = leased

    async def write(self, step: WriteLeases) -> float | None:
        """A number of seconds when somebody was quicker: the machine's plan is made anew then."""
        wanted = networks.with_leases(step.segment, step.leases)
        others = [other for other in self._known.all() if other.uid != wanted.uid]
        told = segment_plan.as_json(segment_plan.status(wanted, others, self._clock()))
        patch = merge_patch(self._known.stored(wanted.key), told)
        try:
            self._known.see(await self._cluster.write_network_status(step.segment, patch))
        except (Conflict, NotFound):
            return 0.1
        self._leased(wanted.key, len(step.leases) < len(step.segment.leases))
        return None


class NetworkReconciler:
    def __init__(
        self,
        known: Networks,
        cache: Cache,
        cluster: ClusterPort,
        agents: AgentPort,
        leased: Leased,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._leased = leased
        self._known = known
        self._cache = cache
        self._cluster = cluster
        self._agents = agents
        self._clock = clock
        self._sent: dict[str, dict[str, tuple[SegmentMember, ...]]] = {}  # Network's uid → node → members
        self._version = 0
        self._orphans = False

    def look_for_orphans(self) -> None:
        """From now on, all machines are known: a lease of one that is not is looked into."""
        self._orphans = True

    def node_is_new(self, node: str) -> None:
        """Its agent was started or connected anew: nobody knows what it has."""
        for sent in self._sent.values():
            sent.pop(node, None)

    async def work(self, key: SegmentKey, _rang: float) -> float | None:
        """One run, for the queue: 1. gather 2. plan 3. apply."""
        here = self._known.get(key)
        if here is None:
            return None
        for step in segment_plan.plan(here, await self._gather(here)):
            again = await self._take(here, step)
            if again is not None:
                return again
        return None

    async def _gather(self, here: Segment) -> Neighbourhood:
        others = tuple(other for other in self._known.all() if other.uid != here.uid)
        places = {lease.uid: place for lease in here.leases if (place := self._place(lease)) is not None}
        coming = {node for lease in here.leases if (node := self._coming(lease)) is not None}
        nodes = {place.node for place in places.values()} | set(self._sent.get(here.uid, ())) | coming
        return Neighbourhood(
            now=self._clock(),
            others=others,
            orphans=frozenset([lease.uid for lease in here.leases if await self._is_orphan(lease)]),
            places=tuple(places.values()),
            sent=dict(self._sent.get(here.uid, {})),
            reachable=frozenset(node for node in nodes if self._agents.view(node, "").connected),
            coming=frozenset(coming),
        )

    def _place(self, lease: Lease) -> Place | None:
        """Where a machine is: the node of its berth. A berth that has ended is nowhere."""
        namespace, _, name = lease.machine.partition("/")
        pod = self._cache.pod((namespace, name))
        if pod is None or pod.owner_uid != lease.uid or pod.node is None or pod.terminal:
            return None
        address = self._agents.address(pod.node)
        return Place(lease.uid, pod.node, address) if address else None

    def _coming(self, lease: Lease) -> str | None:
        """Where a machine is about to move to: that node has to know the others before it is there."""
        namespace, _, name = lease.machine.partition("/")
        pod = self._cache.berths((namespace, name)).incoming
        return pod.node if pod is not None and not pod.terminal and pod.deleted is None else None

    async def _is_orphan(self, lease: Lease) -> bool:
        """A machine that was forced away cannot give its leases back. The API server itself is asked."""
        namespace, _, name = lease.machine.partition("/")
        known = self._cache.machines.get((namespace, name))
        if not self._orphans or (known is not None and known["metadata"]["uid"] == lease.uid):
            return False
        return not await self._cluster.machine_exists(namespace, name, lease.uid)

    async def _take(self, here: Segment, step: segment_plan.Step) -> float | None:
        try:
            match step:
                case SetFinalizers(finalizers=finalizers):
                    obj = await self._cluster.set_network_finalizers(here, list(finalizers))
                    if obj["metadata"].get("finalizers") or not obj["metadata"].get("deletionTimestamp"):
                        self._known.see(obj)
                    return 0.0
                case WriteStatus(status=status):
                    patch = merge_patch(self._known.stored(here.key), segment_plan.as_json(status))
                    self._known.see(await self._cluster.write_network_status(here, patch))
                    if len(status.leases) < len(here.leases) or status.vni != here.vni:
                        self._leased(here.key, True)
                case SendMembers(node=node, members=members):
                    await self._send(here, node, members)
        except (Conflict, NotFound):
            return 0.2  # the news is on the way
        except (AgentDown, Refused) as error:
            _log.warning("members of network %s/%s: %s", *here.key, error)
            return RETRY_SECONDS
        return None

    async def _send(self, here: Segment, node: str, members: tuple[SegmentMember, ...]) -> None:
        self._version = max(self._version + 1, time.time_ns() // 1_000_000)
        await self._agents.send_members(node, segment_plan.members_order(here, members, self._version))
        self._sent.setdefault(here.uid, {})[node] = members
