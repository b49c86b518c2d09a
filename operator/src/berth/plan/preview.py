"""Networks for a machine that no cluster has seen yet: those of the same files, and stand-ins for the others.

Called by `berth render` and `berth plan`. Pure. The addresses are those that a Network of its own would give out first.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from berth.api.network import Network, NetworkSpec
from berth.plan import networks, segment_plan
from berth.plan.segment import Segment, SegmentKey
from berth.plan.world import Cluster, Machine, World

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def segments(machine: Machine, given: Sequence[Network]) -> tuple[dict[SegmentKey, Segment], str]:
    """Every Network the machine names, with its leases; and why it could not be on one."""
    found = {one.key: one for one in map(_segment, given)}
    world = World(now=_EPOCH, machine=machine, cluster=Cluster())
    for namespace, name in networks.referenced(world) - found.keys():
        stand_in = NetworkSpec.model_validate({"overlay": {}, "allowedNamespaces": ["*"]})
        found[namespace, name] = _segment_of(namespace, name, stand_in)
    numbered: list[Segment] = []
    for one in found.values():
        numbered.append(_with_number(one, numbered))
    world = World(now=_EPOCH, machine=machine, cluster=Cluster(), networks={one.key: one for one in numbered})
    writes, troubles = networks.check(world)
    leased = {write.segment.key: networks.with_leases(write.segment, write.leases) for write in writes}
    return {**world.networks, **leased}, " ".join(trouble.message for trouble in troubles)


def _segment(network: Network) -> Segment:
    return _segment_of(network.metadata.namespace, network.metadata.name, network.spec)


def _segment_of(namespace: str, name: str, spec: NetworkSpec) -> Segment:
    uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{namespace}.networks.berth.dev"))
    return Segment(namespace, name, uid, version="1", generation=1, spec=spec)


def _with_number(one: Segment, others: Sequence[Segment]) -> Segment:
    status = segment_plan.status(one, others, _EPOCH)
    return replace(one, vni=status.vni, status=status)
