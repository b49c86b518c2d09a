"""A Snapshot as the controller reads it: one raw object in, a frozen Snap out.

Called by controller/snapshots.py. Read by the machines' plan (taking.py, revert_request.py). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from berth.api import crd
from berth.api.duration import to_ms
from berth.api.snapshot import FINALIZER, SnapshotPhase, SnapshotSpec, SnapshotStatus
from berth.plan import stored
from berth.plan.times import parse_time

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""
UNDERWAY: Final = frozenset({SnapshotPhase.SAVING, SnapshotPhase.COPYING})
FINISHED: Final = frozenset({SnapshotPhase.READY, SnapshotPhase.FAILED})


@dataclass(frozen=True, slots=True)
class Snap:
    """One Snapshot. ``spec`` is None when it breaks a rule, ``problem`` says which."""

    namespace: str
    name: str
    uid: str
    version: str
    generation: int
    machine: str  # the name it gives, also when the rest of the spec is spoiled
    spec: SnapshotSpec | None
    problem: str = ""
    created: datetime | None = None
    deleted: bool = False
    finalizers: tuple[str, ...] = ()
    status: SnapshotStatus | None = None

    @property
    def key(self) -> Key:
        return self.namespace, self.name

    @property
    def of(self) -> Key:
        """Its machine."""
        return self.namespace, self.machine

    @property
    def phase(self) -> SnapshotPhase:
        return self.status.phase if self.status is not None else SnapshotPhase.PENDING

    @property
    def underway(self) -> bool:
        return self.phase in UNDERWAY

    @property
    def finished(self) -> bool:
        return self.phase in FINISHED

    @property
    def ready(self) -> bool:
        return self.phase is SnapshotPhase.READY and not self.deleted

    @property
    def held(self) -> bool:
        """Whether it stays until its files are gone: only then may there be any."""
        return FINALIZER in self.finalizers

    @property
    def epoch(self) -> int:
        """The start that it is taken of; 0 before that has begun."""
        return self.status.epoch if self.status is not None else 0

    @property
    def deadline(self) -> datetime | None:
        if self.spec is None or self.created is None:
            return None
        return self.created + timedelta(milliseconds=to_ms(self.spec.deadline))

    @property
    def order(self) -> tuple[bool, str, str]:
        """Who comes first: what is under way, then by age."""
        return not self.underway, self.created.isoformat() if self.created else "", self.name


def read(obj: Object) -> Snap:
    meta, given = obj["metadata"], obj.get("spec") or {}
    spec, problem = stored.spec(SnapshotSpec, given, crd.SNAPSHOT)
    return Snap(
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
        finalizers=tuple(meta.get("finalizers") or ()),
        status=stored.read(SnapshotStatus, obj.get("status")),
    )
