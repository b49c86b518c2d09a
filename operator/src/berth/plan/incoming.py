"""A berth and where its machine is to go → the pod that holds its place there. Called by migration.py.

It is made from what the running berth was made from, not from the spec of now: the guest's hardware stays as it is. It
has the machine's labels, so that policies hold from its first packet, and a readiness gate, so that no Service sends
anything there before the guest has arrived.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from berth.api.migration import Target
from berth.plan import berthpod, berths
from berth.plan.moves import Move
from berth.plan.world import (
    EMULATION,
    EPOCH,
    GATE,
    INCOMING,
    MACHINE,
    MIGRATION,
    RESTARTED_AT,
    Object,
    Pod,
    World,
    frozen_spec,
)

NODE_NAME: Final = "metadata.name"
"""The only field of a node that affinity knows."""
AVOID: Final = 100


def pod(world: World, move: Move, source: Pod) -> Object | None:
    """The whole manifest; None when the source's annotation was spoiled."""
    frozen = frozen_spec(source)
    if frozen is None or source.node is None or move.spec is None:
        return None
    epoch = source.epoch + 1
    made = berthpod.berth_pod(replace(world.machine, spec=frozen), epoch, world.cluster)
    meta, spec = made["metadata"], made["spec"]
    meta["name"] = berths.incoming_name(world.machine.name, world.machine.uid, epoch)
    meta["annotations"] |= {
        EPOCH: str(epoch),
        EMULATION: source.emulation,
        MACHINE: source.machine,
        MIGRATION: move.uid,
        INCOMING: f"{source.node} {source.epoch}",
    }
    meta["annotations"].pop(RESTARTED_AT, None)
    if source.restart_request:
        meta["annotations"][RESTARTED_AT] = source.restart_request
    spec["readinessGates"] = [{"conditionType": GATE}]
    spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **_selector(move.spec.target)}
    target = move.spec.target.node_name if move.spec.target is not None else None
    spec["affinity"] = _affinity(spec.get("affinity"), source.node, target, {door.node for door in world.former})
    return made


def _selector(target: Target | None) -> dict[str, str]:
    return dict(target.node_selector or {}) if target is not None else {}


def _affinity(given: Object | None, source: str, target: str | None, doors: Iterable[str | None]) -> Object:
    """Never the node it is on; rather none that it has just left, and the named one only."""
    affinity: dict[str, Any] = copy.deepcopy(given or {})
    of_nodes = affinity.setdefault("nodeAffinity", {})
    required = of_nodes.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    fields = [_field("NotIn", source), *([_field("In", target)] if target else [])]
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [{**term, "matchFields": [*term.get("matchFields", ()), *fields]} for term in terms]
    avoided = [
        {"weight": AVOID, "preference": {"matchFields": [_field("NotIn", door)]}}
        for door in sorted({door for door in doors if door and door not in (source, target)})
    ]
    if avoided:
        preferred = "preferredDuringSchedulingIgnoredDuringExecution"
        of_nodes[preferred] = [*of_nodes.get(preferred, ()), *avoided]
    return affinity


def _field(operator: str, node: str) -> Object:
    return {"key": NODE_NAME, "operator": operator, "values": [node]}


def selects(move: Move) -> str:
    """Where it is to go, for people."""
    target = move.spec.target if move.spec is not None else None
    if target is None:
        return "another node"
    return f"node {target.node_name}" if target.node_name else f"a node with {json.dumps(target.node_selector)}"
