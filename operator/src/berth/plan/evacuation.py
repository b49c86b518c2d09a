"""A node that is to be emptied: which of its machines are guarded from eviction, and which are moved. Pure.

Called by cluster.py. Whoever drains a node cordons it and evicts its pods. A guarded berth is not evicted: the
namespace's PodDisruptionBudget refuses that, and the drain tries again. A cordoned node is what makes machines move;
once they have, their old berths are guarded no more, and the drain comes to its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from berth.api.base import API_VERSION
from berth.api.migration import KIND, OWN, Priority
from berth.api.virtualmachine import Eviction, Power, VirtualMachineSpec
from berth.plan import compatible, evicting, history, migratable
from berth.plan.acts import CreateGuard, CreateMigration, SetGuard, Step
from berth.plan.phases import Life, life
from berth.plan.world import GUARD, GUARDED, Object, World, frozen_spec

GUARD_NAME: Final = "berth-guarded"
NEVER: Final = 2**31 - 1
"""More pods than there are: the budget never allows a disruption."""
AGAIN_SECONDS: Final = 60
"""So often a machine that could not move is tried again, as long as its node is cordoned."""


def guard(namespace: str) -> Object:
    """The namespace's budget, for all guarded berths in it."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": GUARD_NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/name": "berth", "app.kubernetes.io/part-of": "berth"},
        },
        "spec": {"minAvailable": NEVER, "selector": {"matchLabels": {GUARD: GUARDED}}},
    }


def steps(world: World) -> Iterator[Step]:
    """Labels as they are to be; and a move, when its node is to be emptied."""
    berth, frozen = world.berth, frozen_spec(world.berth) if world.berth is not None else None
    if berth is not None and frozen is not None and not berth.terminal and berth.deleted is None:
        wanted = evicting.guarded(frozen, world.machine.spec, world.cluster) and _stays_or_fits(world, frozen)
        if wanted and berth.node in world.cluster.cordoned:
            yield CreateGuard("a berth in the namespace is guarded")
        if berth.guarded != wanted:
            yield SetGuard(berth.name, berth.uid, wanted, f"spec.eviction is {(world.machine.spec or frozen).eviction}")
    for pod in world.former:
        if pod.guarded and not pod.terminal:
            yield SetGuard(pod.name, pod.uid, False, "its guest has moved away")
    if _leaves(world):
        yield CreateMigration(migration(world), f"node {berth.node if berth is not None else ''} is cordoned")


def _leaves(world: World) -> bool:
    berth, spec = world.berth, world.machine.spec
    if berth is None or berth.node not in world.cluster.cordoned or berth.terminal or berth.deleted is not None:
        return False
    if (
        world.moves_wait
        or world.move is not None
        or history.asked(world)
        or world.wanted is Power.SUSPENDED
        or life(world) not in (Life.RUNNING, Life.PAUSED)
    ):
        return False
    frozen = frozen_spec(berth)
    wants = spec is not None and spec.eviction is Eviction.LIVE_MIGRATE
    return wants and frozen is not None and _fits(world, frozen)


def _fits(world: World, frozen: VirtualMachineSpec) -> bool:
    return compatible.narrowed(migratable.answer(frozen, world.cluster), world).able


def _stays_or_fits(world: World, frozen: VirtualMachineSpec) -> bool:
    """One that blocks is guarded in any case."""
    return (world.machine.spec or frozen).eviction is not Eviction.LIVE_MIGRATE or _fits(world, frozen)


def migration(world: World) -> Object:
    """One each minute at most: its name is made of it, so that nobody has to remember."""
    machine, berth = world.machine, world.berth
    assert berth is not None  # the caller looked
    minute = int(world.now.timestamp()) // AGAIN_SECONDS
    mark = hashlib.sha256(f"{machine.uid} {berth.epoch} {minute}".encode()).hexdigest()[:8]
    spec: dict[str, Any] = {"vm": machine.name, "priority": Priority.DRAIN.value}
    owner = {"apiVersion": API_VERSION, "kind": "VirtualMachine", "name": machine.name, "uid": machine.uid}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": f"{machine.name[:230]}-drain-{mark}",
            "namespace": machine.namespace,
            "labels": OWN,
            "ownerReferences": [owner],
        },
        "spec": spec,
    }
