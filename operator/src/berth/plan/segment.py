"""A Network as the controller reads it: one raw object in, a frozen Segment out. No rule is decided here.

Called by the controller's cache; read by the machines' plans (networks.py) and by the Network's own (segment_plan.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from berth.api import crd
from berth.api.network import Lease, NetworkSpec, NetworkStatus
from berth.plan import stored

Object = dict[str, Any]
SegmentKey = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One Network. ``spec`` is None when it breaks a rule, ``problem`` says which."""

    namespace: str
    name: str
    uid: str
    version: str
    generation: int
    spec: NetworkSpec | None
    problem: str = ""
    leases: tuple[Lease, ...] = ()
    vni: int | None = None
    deleted: bool = False
    finalizers: tuple[str, ...] = ()
    status: NetworkStatus | None = None

    @property
    def key(self) -> SegmentKey:
        return self.namespace, self.name

    def lease_of(self, uid: str, nic: str) -> Lease | None:
        """What one interface of one machine has here."""
        return next((held for held in self.leases if (held.uid, held.nic) == (uid, nic)), None)

    def allows(self, namespace: str) -> bool:
        """Whether machines of that namespace may use it."""
        if namespace == self.namespace:
            return True
        return self.spec is not None and bool({namespace, "*"} & set(self.spec.allowed_namespaces))


def read(obj: Object) -> Segment:
    meta, status = obj["metadata"], _read_status(obj.get("status"))
    spec, problem = stored.spec(NetworkSpec, obj.get("spec") or {}, crd.NETWORK)
    return Segment(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        version=str(meta.get("resourceVersion") or ""),
        generation=meta.get("generation", 0),
        spec=spec,
        problem=problem,
        leases=tuple(status.leases) if status is not None else (),
        vni=status.vni if status is not None else None,
        deleted=bool(meta.get("deletionTimestamp")),
        finalizers=tuple(meta.get("finalizers") or ()),
        status=status,
    )


def _read_status(status: Object | None) -> NetworkStatus | None:
    """A part that this version cannot read is left out; the leases are read one by one: none is lost for another."""
    if not status:
        return None
    leases = []
    for lease in status.get("leases") or ():
        try:
            leases.append(Lease.model_validate({k: v for k, v in lease.items() if k in _LEASE_FIELDS}))
        except ValidationError:
            continue
    rest = stored.read(NetworkStatus, {k: v for k, v in status.items() if k != "leases"}) or NetworkStatus()
    return rest.model_copy(update={"leases": leases})


_LEASE_FIELDS: Final = frozenset({"machine", "uid", "nic", "mac", "addresses"})
