"""The cluster port over the Kubernetes API, each method one request. Called by the reconcile; it decides nothing."""

from __future__ import annotations

import contextlib
import uuid
from datetime import UTC, datetime
from typing import Final

from berth.api.base import API_VERSION, GROUP, VERSION
from berth.api.migration import PLURAL as MIGRATIONS
from berth.api.network import PLURAL as NETWORKS
from berth.api.snapshot import PLURAL as SNAPSHOTS
from berth.api.virtualmachine import KIND, PLURAL
from berth.effects.kube import STRATEGIC, Kube, path
from berth.effects.ports_cluster import ApiRefused, Conflict, NotFound
from berth.plan.moves import Move
from berth.plan.segment import Segment
from berth.plan.snaps import Snap
from berth.plan.tell import Tell
from berth.plan.world import GATE, GUARD, GUARDED, Machine, Object, PodEvent, format_time, parse_time

MACHINES: Final = f"/apis/{GROUP}/{VERSION}"
CORE: Final = "/api/v1"
COMPONENT: Final = "berth-controller"
PAGE: Final = 500


class Cluster:
    """ClusterPort. ``instance`` names this replica in the Events it makes."""

    def __init__(self, kube: Kube, instance: str) -> None:
        self._kube = kube
        self._instance = instance

    async def set_finalizers(self, machine: Machine, finalizers: list[str], version: str) -> Object:
        body = {"metadata": {"uid": machine.uid, "resourceVersion": version, "finalizers": finalizers}}
        return await self._kube.call("PATCH", _machine(machine), body, kind=KIND, verb="finalize", merge=True)

    async def write_status(self, machine: Machine, patch: Object, version: str | None = None) -> Object:
        at = {"resourceVersion": version} if version is not None else {}
        body = {"metadata": {"uid": machine.uid, **at}, "status": patch}
        where = f"{_machine(machine)}/status"
        try:
            return await self._kube.call("PATCH", where, body, kind=KIND, verb="status", merge=True)
        except Conflict as error:
            if version is not None:
                raise
            # another machine has the name now: its uid differs
            raise NotFound(404, str(error)) from error

    async def create_pod(self, manifest: Object) -> Object:
        namespace = manifest["metadata"]["namespace"]
        where = path(CORE, "namespaces", namespace, "pods")
        return await self._kube.call("POST", where, manifest, kind="Pod", verb="create")

    async def pod(self, namespace: str, name: str) -> Object | None:
        try:
            return await self._kube.call("GET", path(CORE, "namespaces", namespace, "pods", name))
        except NotFound:
            return None

    async def delete_pod(self, namespace: str, name: str, uid: str) -> Object | None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        where = path(CORE, "namespaces", namespace, "pods", name)
        try:
            answer = await self._kube.call("DELETE", where, body, kind="Pod", verb="delete")
        except (NotFound, Conflict):  # gone, or another pod has the name
            return None
        meta = answer.get("metadata") or {}
        immediately = meta.get("deletionTimestamp") is None or meta.get("deletionGracePeriodSeconds") == 0
        return None if answer.get("kind") != "Pod" or immediately else answer

    async def set_here(self, namespace: str, name: str, uid: str, here: bool) -> Object:
        where = f"{path(CORE, 'namespaces', namespace, 'pods', name)}/status"
        said = {
            "type": GATE,
            "status": "True" if here else "False",
            "lastTransitionTime": format_time(datetime.now(UTC)),
        }
        body = {"metadata": {"uid": uid}, "status": {"conditions": [said]}}
        try:
            return await self._kube.call("PATCH", where, body, kind="Pod", verb="status", content=STRATEGIC)
        except ApiRefused as error:
            raise _is_another(error) from error

    async def set_guard(self, namespace: str, name: str, uid: str, guarded: bool) -> Object:
        body = {"metadata": {"uid": uid, "labels": {GUARD: GUARDED if guarded else None}}}
        where = path(CORE, "namespaces", namespace, "pods", name)
        try:
            return await self._kube.call("PATCH", where, body, kind="Pod", verb="label", merge=True)
        except ApiRefused as error:
            raise _is_another(error) from error

    async def create_guard(self, manifest: Object) -> None:
        where = path("/apis/policy/v1", "namespaces", manifest["metadata"]["namespace"], "poddisruptionbudgets")
        with contextlib.suppress(Conflict):
            await self._kube.call("POST", where, manifest, kind="PodDisruptionBudget", verb="create")

    async def create_claim(self, manifest: Object) -> Object:
        where = path(CORE, "namespaces", manifest["metadata"]["namespace"], "persistentvolumeclaims")
        try:
            return await self._kube.call("POST", where, manifest, kind="PersistentVolumeClaim", verb="create")
        except Conflict:
            return await self._kube.call("GET", f"{where}/{manifest['metadata']['name']}")

    async def create_migration(self, manifest: Object) -> None:
        where = path(MACHINES, "namespaces", manifest["metadata"]["namespace"], MIGRATIONS)
        with contextlib.suppress(Conflict):
            await self._kube.call("POST", where, manifest, kind="Migration", verb="create")

    async def pod_events(self, namespace: str, name: str, uid: str) -> list[PodEvent]:
        selector = f"involvedObject.kind%3DPod%2CinvolvedObject.name%3D{name}%2CinvolvedObject.uid%3D{uid}"
        where = f"{path(CORE, 'namespaces', namespace, 'events')}?fieldSelector={selector}&limit=100"
        answer = await self._kube.call("GET", where)
        return [_event(item) for item in answer.get("items") or ()]

    async def tell(self, machine: Machine, tell: Tell) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        body: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{machine.name[:200]}.{uuid.uuid4().hex[:16]}", "namespace": machine.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": machine.namespace,
                "name": machine.name,
                "uid": machine.uid,
            },
            "type": "Warning" if tell.warning else "Normal",
            "reason": tell.reason[:128],
            "message": tell.message[:1024],
            "action": tell.reason[:128],
            "firstTimestamp": f"{now[:19]}Z",
            "lastTimestamp": f"{now[:19]}Z",
            "count": 1,
            "eventTime": now,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance[:128],
        }
        where = path(CORE, "namespaces", machine.namespace, "events")
        await self._kube.call("POST", where, body, kind="Event", verb="create")

    async def node(self, name: str) -> Object | None:
        try:
            return await self._kube.call("GET", path(CORE, "nodes", name))
        except NotFound:
            return None

    async def label_node(self, name: str, labels: dict[str, str]) -> None:
        body = {"metadata": {"labels": labels}}
        await self._kube.call("PATCH", path(CORE, "nodes", name), body, kind="Node", verb="label", merge=True)

    async def machine(self, namespace: str, name: str) -> Object | None:
        try:
            return await self._kube.call("GET", path(MACHINES, "namespaces", namespace, PLURAL, name))
        except NotFound:
            return None

    async def machine_exists(self, namespace: str, name: str, uid: str) -> bool:
        found = await self.machine(namespace, name)
        return found is not None and bool(found["metadata"]["uid"] == uid)

    async def set_network_finalizers(self, network: Segment, finalizers: list[str]) -> Object:
        body = {"metadata": {"uid": network.uid, "resourceVersion": network.version, "finalizers": finalizers}}
        return await self._kube.call("PATCH", _network(network), body, kind="Network", verb="finalize", merge=True)

    async def write_network_status(self, network: Segment, patch: Object) -> Object:
        body = {"metadata": {"uid": network.uid, "resourceVersion": network.version}, "status": patch}
        where = f"{_network(network)}/status"
        return await self._kube.call("PATCH", where, body, kind="Network", verb="status", merge=True)

    async def write_migration_status(self, move: Move, patch: Object) -> Object:
        body = {"metadata": {"uid": move.uid, "resourceVersion": move.version}, "status": patch}
        where = f"{path(MACHINES, 'namespaces', move.namespace, MIGRATIONS, move.name)}/status"
        return await self._kube.call("PATCH", where, body, kind="Migration", verb="status", merge=True)

    async def remove_migration(self, move: Move) -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": move.uid}}
        where = path(MACHINES, "namespaces", move.namespace, MIGRATIONS, move.name)
        with contextlib.suppress(NotFound, Conflict):  # gone, or another one has the name
            await self._kube.call("DELETE", where, body, kind="Migration", verb="delete")

    async def set_snapshot_metadata(self, snap: Snap, metadata: Object) -> Object:
        body = {"metadata": {**metadata, "uid": snap.uid, "resourceVersion": snap.version}}
        return await self._kube.call("PATCH", _snapshot(snap), body, kind="Snapshot", verb="finalize", merge=True)

    async def write_snapshot_status(self, snap: Snap, patch: Object) -> Object:
        body = {"metadata": {"uid": snap.uid, "resourceVersion": snap.version}, "status": patch}
        where = f"{_snapshot(snap)}/status"
        return await self._kube.call("PATCH", where, body, kind="Snapshot", verb="status", merge=True)

    async def machine_names(self) -> set[tuple[str, str]]:
        names: set[tuple[str, str]] = set()
        token = ""
        while True:
            where = f"{MACHINES}/{PLURAL}?limit={PAGE}" + (f"&continue={token}" if token else "")
            answer = await self._kube.call("GET", where, verb="list")
            names |= {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in answer.get("items") or ()}
            token = (answer.get("metadata") or {}).get("continue") or ""
            if not token:
                return names


def _is_another(error: ApiRefused) -> ApiRefused:
    """Another pod has the name now: that is told as a conflict, or as an attempt to change a pod's uid."""
    other = isinstance(error, Conflict) or (error.code == 422 and "metadata.uid" in str(error))
    return NotFound(404, str(error)) if other else error


def _machine(machine: Machine) -> str:
    return path(MACHINES, "namespaces", machine.namespace, PLURAL, machine.name)


def _network(network: Segment) -> str:
    return path(MACHINES, "namespaces", network.namespace, NETWORKS, network.name)


def _snapshot(snap: Snap) -> str:
    return path(MACHINES, "namespaces", snap.namespace, SNAPSHOTS, snap.name)


def _event(item: Object) -> PodEvent:
    series = item.get("series") or {}
    moments = (series.get("lastObservedTime"), item.get("lastTimestamp"), item.get("eventTime"))
    at = next((parse_time(m) for m in moments if m), None)
    return PodEvent(item.get("reason", ""), item.get("message", ""), at)
