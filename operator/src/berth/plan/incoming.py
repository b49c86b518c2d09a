"""A berth and where its machine is to go → the pod that holds its place there. Called by migration.py.

It is made from what the running berth was made from, not from the spec of now: the guest's hardware stays as it is. It
has the machine's labels, so that policies hold from its first packet, and a readiness gate, so that no Service sends
anything there before the guest has arrived.
"""

from __future__ import annotations

import json
from dataclasses import replace

from berth.api.migration import Target
from berth.plan import affinity, berthpod, berths, compatible
from berth.plan.moves import Move
from berth.plan.world import (
    EMULATION,
    EPOCH,
    GATE,
    INCOMING,
    MACHINE,
    MIGRATION,
    RESTARTED_AT,
    REVERT,
    Object,
    Pod,
    World,
    frozen_spec,
)


def pod(world: World, move: Move, source: Pod) -> Object | None:
    """The whole manifest; None when the source's annotation was spoiled."""
    frozen = frozen_spec(source)
    if frozen is None or source.node is None or move.spec is None:
        return None
    epoch = source.epoch + 1
    unlike = compatible.move_troubles(world)
    hardware = compatible.as_it_runs(world)
    made = berthpod.berth_pod(replace(world.machine, spec=frozen), epoch, world.cluster, hardware, unlike)
    meta, spec = made["metadata"], made["spec"]
    meta["name"] = berths.incoming_name(world.machine.name, world.machine.uid, epoch)
    meta["annotations"] |= {
        EPOCH: str(epoch),
        EMULATION: source.emulation,
        MACHINE: source.machine,
        MIGRATION: move.uid,
        INCOMING: f"{source.node} {source.epoch}",
    }
    for name, answered in ((RESTARTED_AT, source.restart_request), (REVERT, source.revert)):
        meta["annotations"].pop(name, None)  # it answers what the source did
        meta["annotations"] |= {name: answered} if answered else {}
    spec["readinessGates"] = [{"conditionType": GATE}]
    spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **_selector(move.spec.target)}
    target = move.spec.target.node_name if move.spec.target is not None else None
    fields = [affinity.beyond(source.node), *([affinity.within(target)] if target else [])]
    doors = {door.node for door in world.former if door.node and door.node not in (source.node, target)}
    spec["affinity"] = affinity.avoiding(affinity.required(spec.get("affinity"), fields), sorted(doors))
    return made


def _selector(target: Target | None) -> dict[str, str]:
    return dict(target.node_selector or {}) if target is not None else {}


def selects(move: Move) -> str:
    """Where it is to go, for people."""
    target = move.spec.target if move.spec is not None else None
    if target is None:
        return "another node"
    return f"node {target.node_name}" if target.node_name else f"a node with {json.dumps(target.node_selector)}"
