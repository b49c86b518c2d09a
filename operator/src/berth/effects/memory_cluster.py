"""The cluster port in memory: machines, pods and Nodes as JSON, with those rules of the API server that count here.

Names are unique, versions only grow, finalizers hold a deletion back, a bound pod ends only when its kubelet says so.
For tests, which play user, scheduler and kubelet by the methods at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from berth.effects.ports_cluster import ApiRefused, Conflict, NotFound
from berth.plan.moves import Move
from berth.plan.segment import Segment
from berth.plan.snaps import Snap
from berth.plan.tell import Tell
from berth.plan.world import FINALIZER, GATE, GUARD, GUARDED, Machine, Object, PodEvent, format_time

Key = tuple[str, str]


class MemoryCluster:
    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._version = 0
        self._uids = 0
        self.machines: dict[Key, Object] = {}
        self.pods: dict[Key, Object] = {}
        self.nodes: dict[str, Object] = {}
        self.networks: dict[Key, Object] = {}
        self.migrations: dict[Key, Object] = {}
        self.snapshots: dict[Key, Object] = {}
        self.guards: set[str] = set()  # namespaces that have a budget
        self.claims: dict[tuple[str, str], Object] = {}
        self.events: list[PodEvent] = []
        self.told: list[tuple[str, Tell]] = []
        self.writes: list[str] = []
        self.refuse_pods: ApiRefused | None = None
        self.on_change: Callable[[str, str, Object], None] = lambda kind, change, obj: None

    # ClusterPort

    async def set_finalizers(self, machine: Machine, finalizers: list[str], version: str) -> Object:
        obj = self._machine(machine)
        if obj["metadata"]["resourceVersion"] != version:
            raise Conflict(409, "the machine has changed")
        self.writes.append("finalize")
        obj["metadata"]["finalizers"] = list(finalizers)
        return self._machine_changed(obj)

    async def write_status(self, machine: Machine, patch: Object, version: str | None = None) -> Object:
        obj = self._machine(machine)
        if version is not None and obj["metadata"]["resourceVersion"] != version:
            raise Conflict(409, "the machine has changed")
        self.writes.append("status")
        _merge_status(obj, patch)
        return self._machine_changed(obj)

    async def create_pod(self, manifest: Object) -> Object:
        self.writes.append("create")
        if self.refuse_pods is not None:
            raise self.refuse_pods
        key = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        if key in self.pods:
            raise Conflict(409, f'pods "{key[1]}" already exists', reason="AlreadyExists")
        obj = copy.deepcopy(manifest)
        obj["metadata"] |= {"uid": self.new_uid(), "creationTimestamp": format_time(self._clock())}
        obj["status"] = {"phase": "Pending"}
        self.pods[key] = obj
        return self.pod_changed(key, "ADDED")

    async def pod(self, namespace: str, name: str) -> Object | None:
        return copy.deepcopy(self.pods.get((namespace, name)))

    async def set_here(self, namespace: str, name: str, uid: str, here: bool) -> Object:
        obj = self.pods.get((namespace, name))
        if obj is None or obj["metadata"]["uid"] != uid:
            raise NotFound(404, f"pod {name} is not there")
        self.writes.append("here")
        others = [c for c in obj["status"].get("conditions", []) if c["type"] not in (GATE, "Ready")]
        well = any(c["type"] == "ContainersReady" and c["status"] == "True" for c in others)
        ready = {"type": "Ready", "status": "True" if here and well else "False"}
        obj["status"]["conditions"] = [*others, {"type": GATE, "status": str(here)}, ready]
        return self.pod_changed((namespace, name))

    async def set_guard(self, namespace: str, name: str, uid: str, guarded: bool) -> Object:
        obj = self.pods.get((namespace, name))
        if obj is None or obj["metadata"]["uid"] != uid:
            raise NotFound(404, f"pod {name} is not there")
        self.writes.append("guard")
        labels = {k: v for k, v in obj["metadata"].get("labels", {}).items() if k != GUARD}
        obj["metadata"]["labels"] = {**labels, **({GUARD: GUARDED} if guarded else {})}
        return self.pod_changed((namespace, name))

    async def create_guard(self, manifest: Object) -> None:
        self.guards.add(manifest["metadata"]["namespace"])

    async def create_claim(self, manifest: Object) -> Object:
        key = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        if key not in self.claims:
            self.writes.append("claim")
            self.claims[key] = manifest
        return self.claims[key]

    async def create_migration(self, manifest: Object) -> None:
        key = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        if key not in self.migrations:
            self.writes.append("migration")
            self.apply_migration(*key, manifest["spec"], manifest["metadata"].get("labels"))

    async def remove_migration(self, move: Move) -> None:
        known = self.migrations.get(move.key)
        if known is not None and known["metadata"]["uid"] == move.uid:
            self.writes.append("delete migration")
            self.delete_migration(*move.key)

    async def delete_pod(self, namespace: str, name: str, uid: str) -> Object | None:
        self.writes.append("delete")
        return self.end_pod((namespace, name), uid)

    async def pod_events(self, namespace: str, name: str, uid: str) -> list[PodEvent]:
        return list(self.events)

    async def tell(self, machine: Machine, tell: Tell) -> None:
        self.told.append((machine.name, tell))

    async def node(self, name: str) -> Object | None:
        return self.nodes.get(name)

    async def label_node(self, name: str, labels: dict[str, str]) -> None:
        self.nodes[name]["metadata"].setdefault("labels", {}).update(labels)

    async def machine(self, namespace: str, name: str) -> Object | None:
        return copy.deepcopy(self.machines.get((namespace, name)))

    async def machine_exists(self, namespace: str, name: str, uid: str) -> bool:
        found = self.machines.get((namespace, name))
        return found is not None and found["metadata"]["uid"] == uid

    async def set_network_finalizers(self, network: Segment, finalizers: list[str]) -> Object:
        obj = self._network(network)
        self.writes.append("network finalize")
        obj["metadata"]["finalizers"] = list(finalizers)
        if obj["metadata"].get("deletionTimestamp") and not finalizers:
            del self.networks[network.key]
            self.on_change("Network", "DELETED", copy.deepcopy(obj))
            return copy.deepcopy(obj)
        return self._network_changed(obj)

    async def write_network_status(self, network: Segment, patch: Object) -> Object:
        obj = self._network(network)
        self.writes.append("network status")
        _merge_status(obj, patch)
        return self._network_changed(obj)

    def _network(self, network: Segment) -> Object:
        obj = self.networks.get(network.key)
        if obj is None:
            raise NotFound(404, f'networks "{network.name}" not found')
        if obj["metadata"]["uid"] != network.uid or obj["metadata"]["resourceVersion"] != network.version:
            raise Conflict(409, "the network has changed")
        return obj

    def _network_changed(self, obj: Object) -> Object:
        self._stamp(obj)
        self.on_change("Network", "MODIFIED", copy.deepcopy(obj))
        return copy.deepcopy(obj)

    async def write_migration_status(self, move: Move, patch: Object) -> Object:
        obj = self.migrations.get(move.key)
        if obj is None or obj["metadata"]["uid"] != move.uid:
            raise NotFound(404, f'migrations "{move.name}" not found')
        if obj["metadata"]["resourceVersion"] != move.version:
            raise Conflict(409, "the migration has changed")
        self.writes.append("migration status")
        _merge_status(obj, patch)
        return self._migration_changed(obj)

    def _migration_changed(self, obj: Object) -> Object:
        self._stamp(obj)
        self.on_change("Migration", "MODIFIED", copy.deepcopy(obj))
        return copy.deepcopy(obj)

    async def set_snapshot_metadata(self, snap: Snap, metadata: Object) -> Object:
        obj = self._snapshot(snap)
        self.writes.append("snapshot hold")
        obj["metadata"] |= copy.deepcopy(metadata)
        return self._snapshot_changed(obj)

    async def write_snapshot_status(self, snap: Snap, patch: Object) -> Object:
        obj = self._snapshot(snap)
        self.writes.append("snapshot status")
        _merge_status(obj, patch)
        return self._snapshot_changed(obj)

    def _snapshot(self, snap: Snap) -> Object:
        obj = self.snapshots.get(snap.key)
        if obj is None or obj["metadata"]["uid"] != snap.uid:
            raise NotFound(404, f'snapshots "{snap.name}" not found')
        if obj["metadata"]["resourceVersion"] != snap.version:
            raise Conflict(409, "the snapshot has changed")
        return obj

    def _snapshot_changed(self, obj: Object) -> Object:
        self._stamp(obj)
        meta = obj["metadata"]
        gone = "deletionTimestamp" in meta and not meta["finalizers"]
        if gone:
            del self.snapshots[meta["namespace"], meta["name"]]
        self.on_change("Snapshot", "DELETED" if gone else "MODIFIED", copy.deepcopy(obj))
        return copy.deepcopy(obj)

    async def machine_names(self) -> set[Key]:
        return set(self.machines)

    # the user

    def apply(self, namespace: str, name: str, spec: Object, annotations: dict[str, str] | None = None) -> Object:
        """Create the machine, or change its spec and annotations."""
        obj = self.machines.get((namespace, name))
        if obj is None:
            meta: dict[str, Any] = {"namespace": namespace, "name": name, "uid": self.new_uid(), "generation": 0}
            meta |= {"creationTimestamp": format_time(self._clock()), "finalizers": [], "annotations": {}}
            obj = self.machines[namespace, name] = {"metadata": meta, "spec": None}
        if obj["spec"] != spec:
            obj["metadata"]["generation"] += 1
        obj["spec"] = copy.deepcopy(spec)
        obj["metadata"]["annotations"] |= annotations or {}
        return self._machine_changed(obj)

    def delete(self, namespace: str, name: str) -> None:
        obj = self.machines[namespace, name]
        obj["metadata"].setdefault("deletionTimestamp", format_time(self._clock()))
        self._machine_changed(obj)

    def apply_network(self, namespace: str, name: str, spec: Object) -> Object:
        """Create the Network, or change its spec."""
        obj = self.networks.get((namespace, name))
        if obj is None:
            meta: dict[str, Any] = {"namespace": namespace, "name": name, "uid": self.new_uid(), "generation": 0}
            obj = self.networks[namespace, name] = {"metadata": {**meta, "finalizers": []}, "spec": None}
        if obj["spec"] != spec:
            obj["metadata"]["generation"] += 1
        obj["spec"] = copy.deepcopy(spec)
        return self._network_changed(obj)

    def delete_network(self, namespace: str, name: str) -> None:
        obj = self.networks[namespace, name]
        obj["metadata"].setdefault("deletionTimestamp", format_time(self._clock()))
        if obj["metadata"]["finalizers"]:
            self._network_changed(obj)
            return
        del self.networks[namespace, name]
        self.on_change("Network", "DELETED", copy.deepcopy(obj))

    def apply_migration(self, namespace: str, name: str, spec: Object, labels: Object | None = None) -> Object:
        """Create the Migration, or change its spec."""
        obj = self.migrations.get((namespace, name))
        if obj is None:
            meta: dict[str, Any] = {"namespace": namespace, "name": name, "uid": self.new_uid(), "generation": 0}
            meta["creationTimestamp"] = format_time(self._clock())
            meta["labels"] = dict(labels or {})
            obj = self.migrations[namespace, name] = {"metadata": meta, "spec": None}
        if obj["spec"] != spec:
            obj["metadata"]["generation"] += 1
        obj["spec"] = copy.deepcopy(spec)
        return self._migration_changed(obj)

    def delete_migration(self, namespace: str, name: str) -> None:
        obj = self.migrations.pop((namespace, name))
        self.on_change("Migration", "DELETED", copy.deepcopy(obj))

    def apply_snapshot(self, namespace: str, name: str, spec: Object) -> Object:
        """Create the Snapshot."""
        meta: dict[str, Any] = {"namespace": namespace, "name": name, "uid": self.new_uid(), "generation": 1}
        meta |= {"creationTimestamp": format_time(self._clock()), "finalizers": []}
        obj = self.snapshots[namespace, name] = {"metadata": meta, "spec": copy.deepcopy(spec)}
        return self._snapshot_changed(obj)

    def delete_snapshot(self, namespace: str, name: str) -> None:
        obj = self.snapshots[namespace, name]
        obj["metadata"].setdefault("deletionTimestamp", format_time(self._clock()))
        self._snapshot_changed(obj)

    # scheduler and kubelet

    def pod_changed(self, key: Key, change: str = "MODIFIED") -> Object:
        obj = self.pods[key]
        self._stamp(obj)
        self.on_change("Pod", change, copy.deepcopy(obj))
        return copy.deepcopy(obj)

    def end_pod(self, key: Key, uid: str) -> Object | None:
        """DELETE: at once where no kubelet has it, else with its grace period."""
        obj = self.pods.get(key)
        if obj is None or obj["metadata"]["uid"] != uid:
            return None
        if obj["status"]["phase"] in ("Succeeded", "Failed") or not obj["spec"].get("nodeName"):
            self.remove_pod(key)
            return None
        if "deletionTimestamp" not in obj["metadata"]:
            grace = obj["spec"].get("terminationGracePeriodSeconds", 30)
            obj["metadata"]["deletionTimestamp"] = format_time(self._clock() + timedelta(seconds=grace))
        return self.pod_changed(key)

    def evict(self, key: Key) -> None:
        """The Eviction API: a budget refuses what it selects, unless that has ended or has no node yet."""
        obj = self.pods[key]
        guarded = obj["metadata"].get("labels", {}).get(GUARD) == GUARDED and key[0] in self.guards
        if guarded and obj["status"]["phase"] == "Running":
            raise ApiRefused(429, "Cannot evict pod as it would violate the pod's disruption budget.")
        self.end_pod(key, obj["metadata"]["uid"])

    def remove_pod(self, key: Key) -> None:
        """The object goes: kubelet is done with it, or somebody forced it."""
        obj = self.pods.pop(key)
        self._stamp(obj)
        self.on_change("Pod", "DELETED", copy.deepcopy(obj))

    def new_uid(self) -> str:
        self._uids += 1
        return f"00000000-0000-4000-8000-{self._uids:012d}"

    def _machine(self, machine: Machine) -> Object:
        obj = self.machines.get((machine.namespace, machine.name))
        if obj is None or obj["metadata"]["uid"] != machine.uid:
            raise NotFound(404, f"machine {machine.name} is not there")
        return obj

    def _machine_changed(self, obj: Object) -> Object:
        self._stamp(obj)
        meta = obj["metadata"]
        gone = "deletionTimestamp" in meta and FINALIZER not in meta["finalizers"]
        if gone:
            del self.machines[meta["namespace"], meta["name"]]
        self.on_change("VirtualMachine", "DELETED" if gone else "MODIFIED", copy.deepcopy(obj))
        return copy.deepcopy(obj)

    def _stamp(self, obj: Object) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)


def _merge_status(obj: Object, patch: Object) -> None:
    """As a merge patch: null takes a field away."""
    status = {**obj.get("status", {}), **copy.deepcopy(patch)}
    obj["status"] = {key: value for key, value in status.items() if value is not None}
