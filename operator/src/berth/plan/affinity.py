"""A pod's node affinity, narrowed to named nodes or away from them. Called by berthpod.py and incoming.py. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Final

from berth.plan.world import Object

NODE_NAME: Final = "metadata.name"
"""The only field of a node that affinity knows."""
AVOID: Final = 100


def within(node: str) -> Object:
    return {"key": NODE_NAME, "operator": "In", "values": [node]}


def beyond(node: str) -> Object:
    return {"key": NODE_NAME, "operator": "NotIn", "values": [node]}


def required(given: Object | None, fields: Sequence[Object]) -> Object:
    """Of what was given, each alternative holds as well as all of these."""
    affinity: dict[str, Any] = copy.deepcopy(given or {})
    of_nodes = affinity.setdefault("nodeAffinity", {})
    needed = of_nodes.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = needed.get("nodeSelectorTerms") or [{}]
    needed["nodeSelectorTerms"] = [{**term, "matchFields": [*term.get("matchFields", ()), *fields]} for term in terms]
    return affinity


def avoiding(affinity: Object, nodes: Iterable[str]) -> Object:
    """Rather none of these."""
    found = [{"weight": AVOID, "preference": {"matchFields": [beyond(node)]}} for node in nodes]
    if not found:
        return affinity
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    of_nodes = affinity.get("nodeAffinity", {})
    return {**affinity, "nodeAffinity": {**of_nodes, preferred: [*of_nodes.get(preferred, ()), *found]}}
