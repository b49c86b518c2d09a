"""Networks for the tests of the cluster's plan."""

from __future__ import annotations

from typing import Any

from berth.api.network import Lease
from berth.plan.segment import Segment, read
from berth.plan.world import Object
from tests.unit.plan.cluster_worlds import UID

NETWORK_UID = "6f1c1f0e-0000-4000-8000-0000000000bb"
ON_LAN: Object = {"name": "lan", "network": {"name": "office"}}
MAC = "02:00:00:00:00:01"


def lease(number: int = 1, *, uid: str = UID, nic: str = "lan", mac: str = "") -> Lease:
    mac = mac or f"02:00:00:00:00:{number:02x}"
    return Lease(machine="default/web", uid=uid, nic=nic, mac=mac, addresses=[f"10.9.0.{number}"])


def network(*leases: Lease, name: str = "office", namespace: str = "default", **changes: Any) -> Segment:
    """A Network that is well: changes of "spec", "status" and "metadata" are merged in."""
    meta = {"namespace": namespace, "name": name, "uid": NETWORK_UID, "resourceVersion": "7", "generation": 1}
    status = {"vni": 4096, "leases": [held.model_dump(by_alias=True) for held in leases]}
    spec = {"overlay": {}, "ipv4": {"range": "10.9.0.0/24"}}
    parts = {"metadata": meta, "spec": spec, "status": status}
    return read({part: {**had, **changes.get(part, {})} for part, had in parts.items()})
