"""A Migration as the controller reads it: one raw object in, a frozen Move out; and whose turn it is among many.

Called by controller/migrations.py. Read by the machines' plan (migration.py). Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from berth.api import crd
from berth.api.duration import to_ms
from berth.api.migration import FINISHED, OWN, MigrationPhase, MigrationSpec, MigrationStatus, Priority
from berth.api.virtualmachine import Condition
from berth.plan import stored
from berth.plan.times import parse_time

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""
_RANK: Final = {Priority.DRAIN: 0, Priority.USER: 1, Priority.REBALANCE: 2}
KEPT: Final = 5
"""So many of them stay when they are over: the newest of each machine."""
SENDING: Final = frozenset({MigrationPhase.RUNNING, MigrationPhase.HANDING_OVER})
UNDERWAY: Final = SENDING | {MigrationPhase.SCHEDULING, MigrationPhase.PREPARING}


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may be under way at a time."""

    per_node: int = 2
    per_cluster: int = 5


@dataclass(frozen=True, slots=True)
class Move:
    """One Migration. ``spec`` is None when it breaks a rule, ``problem`` says which."""

    namespace: str
    name: str
    uid: str
    version: str
    generation: int
    machine: str  # the name it gives, also when the rest of the spec is spoiled
    spec: MigrationSpec | None
    problem: str = ""
    created: datetime | None = None
    deleted: bool = False
    own: bool = False  # made by Berth
    status: MigrationStatus | None = None

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    @property
    def of(self) -> Key:
        """Its machine."""
        return self.namespace, self.machine

    @property
    def phase(self) -> MigrationPhase:
        return self.status.phase if self.status is not None else MigrationPhase.PENDING

    @property
    def finished(self) -> bool:
        return self.phase in FINISHED

    @property
    def underway(self) -> bool:
        return self.phase in UNDERWAY

    @property
    def sending(self) -> bool:
        """Whether the source may have been told to send."""
        return self.phase in SENDING

    @property
    def ending(self) -> MigrationPhase | None:
        return self.status.ending if self.status is not None else None

    @property
    def deadline(self) -> datetime | None:
        if self.spec is None or self.created is None:
            return None
        return self.created + timedelta(milliseconds=to_ms(self.spec.deadline))

    @property
    def source_node(self) -> str | None:
        return self.status.source.node if self.status is not None and self.status.source is not None else None

    @property
    def target_node(self) -> str | None:
        return self.status.target.node if self.status is not None and self.status.target is not None else None

    @property
    def order(self) -> tuple[int, str, str, str]:
        """Who goes first: by priority, then by age."""
        rank = _RANK[self.spec.priority] if self.spec is not None else 0
        return rank, self.created.isoformat() if self.created else "", self.namespace, self.name


def read(obj: Object) -> Move:
    meta, given = obj["metadata"], obj.get("spec") or {}
    spec, problem = stored.spec(MigrationSpec, given, crd.MIGRATION)
    return Move(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        version=str(meta.get("resourceVersion") or ""),
        generation=meta.get("generation", 0),
        machine=str(given.get("vm") or ""),
        spec=spec,
        problem=problem,
        created=parse_time(meta.get("creationTimestamp")),
        deleted=bool(meta.get("deletionTimestamp")),
        own=OWN.items() <= (meta.get("labels") or {}).items(),
        status=stored.read(MigrationStatus, obj.get("status")),
    )


def turn(mine: Move, source: str | None, others: Iterable[Move], limits: Limits) -> str:
    """Why it is not this Migration's turn, for people; empty when it is. ``others`` that wait and come first are let go
    first, as long as they wait for no node of their own."""
    rest = [other for other in others if other.uid != mine.uid and not other.finished]
    underway = [other for other in rest if other.underway]
    if len(underway) >= limits.per_cluster:
        return f"{len(underway)} machines move now, and {limits.per_cluster} may at a time"
    busy = nodes(underway)
    if source is not None and busy[source] >= limits.per_node:
        return f"{busy[source]} machines move from or to node {source} now, and {limits.per_node} may at a time"
    before = [other for other in rest if not other.underway and other.order < mine.order and other.spec is not None]
    free = limits.per_cluster - len(underway)
    return f"{len(before)} others come first" if len(before) >= free else ""


def surplus(moves: Iterable[Move]) -> list[Move]:
    """Those of one machine's that are history, and not even recent. What people made themselves is theirs."""
    history = sorted((m for m in moves if m.own and m.finished and not m.deleted), key=lambda m: m.order[1:])
    return history[:-KEPT]


def nodes(moves: Iterable[Move]) -> Counter[str]:
    """How many moves each node has a part in."""
    return Counter(node for move in moves for node in {move.source_node, move.target_node} if node)


def condition(move: Move, kind: str) -> Condition | None:
    return next((c for c in move.status.conditions if c.type == kind), None) if move.status is not None else None
