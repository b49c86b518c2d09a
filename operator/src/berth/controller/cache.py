"""What the controller last saw of machines and berth pods: watch events and answers to its own writes in, views out.

The newest resourceVersion wins, whichever way it came: a late watch event never hides what the controller itself did.
A berth that went is remembered as it was last seen, because its end is evidence. Fed by main.py, read by the reconcile.
"""

from __future__ import annotations

from berth.plan import berths
from berth.plan.berthpod import pod_name
from berth.plan.berths import Berths
from berth.plan.world import Object, Pod, read_pod

Key = tuple[str, str]
"""Namespace and name."""


def version_of(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)


class Cache:
    def __init__(self) -> None:
        self.machines: dict[Key, Object] = {}
        self._pods: dict[Key, tuple[int, Pod]] = {}
        self._of: dict[Key, set[Key]] = {}  # a machine → its pods
        self._gone_pods: dict[str, None] = {}  # uids, the latest last
        self._departed: dict[Key, Pod] = {}

    def see_machine(self, obj: Object) -> bool:
        """Keep it, if it is news."""
        meta = obj["metadata"]
        key = (meta["namespace"], meta["name"])
        old = self.machines.get(key)
        if old is not None and version_of(old) >= version_of(obj):
            return False
        meta.pop("managedFields", None)  # as large as all the rest
        (meta.get("annotations") or {}).pop("kubectl.kubernetes.io/last-applied-configuration", None)
        self.machines[key] = obj
        return True

    def lose_machine(self, key: Key) -> None:
        self.machines.pop(key, None)
        self._departed.pop(key, None)

    def see_pod(self, obj: Object) -> Key | None:
        """Keep it, if it is news; the key of its machine then."""
        meta = obj["metadata"]
        key, version = (meta["namespace"], meta["name"]), version_of(obj)
        old = self._pods.get(key)
        if meta["uid"] in self._gone_pods or (old is not None and old[0] >= version):
            return None
        pod = read_pod(obj)
        self._pods[key] = version, pod
        self._of.setdefault((pod.namespace, pod.machine_name), set()).add(key)
        return (pod.namespace, pod.machine_name) if pod.machine_name else None

    def lose_pod(self, key: Key, last: Object | None) -> Key | None:
        """It is gone; ``last`` is how it was then, if that is known. The key of its machine."""
        known = self._pods.get(key)
        if last is not None and known is not None and last["metadata"]["uid"] != known[1].uid:
            return None  # the name has been taken by a newer one
        self._pods.pop(key, None)
        pod = read_pod(last) if last is not None else known[1] if known else None
        if pod is None:
            return None
        mine = self._of.get((pod.namespace, pod.machine_name), set())
        mine.discard(key)
        if not mine:
            self._of.pop((pod.namespace, pod.machine_name), None)
        self._gone_pods[pod.uid] = None
        if len(self._gone_pods) > 1000:
            del self._gone_pods[next(iter(self._gone_pods))]
        machine = (pod.namespace, pod.machine_name)
        obj = self.machines.get(machine)
        if obj is None or berths.is_active(berths.owner(obj, pod_name(machine[1])), pod):
            self._departed[machine] = pod
        return machine

    def berths(self, machine: Key) -> Berths:
        """The machine's pods, each in its place."""
        obj, lock = self.machines.get(machine), pod_name(machine[1])
        found = [self._pods[key][1] for key in self._of.get(machine, ()) if key in self._pods]
        squatter = self._pods.get((machine[0], lock))
        if squatter is not None and squatter[1] not in found:
            found.append(squatter[1])
        return berths.sort(berths.owner(obj, lock), found) if obj is not None else Berths(next(iter(found), None))

    def pod(self, machine: Key) -> Pod | None:
        """The pod that the machine is in; without one, the pod that has the name of its berth."""
        return self.berths(machine).active

    def departed(self, machine: Key) -> Pod | None:
        """The berth this machine had last, if it went while we watched."""
        return self._departed.get(machine)

    def pod_versions(self) -> dict[Key, int]:
        return {key: version for key, (version, _) in self._pods.items()}

    def on_node(self, node: str) -> list[Key]:
        """The machines that have a berth on this node, or whose last place it was."""
        berths = {(p.namespace, p.machine_name) for _, p in self._pods.values() if p.node == node}
        placed = {k for k, m in self.machines.items() if (m.get("status") or {}).get("node") == node}
        return [key for key in berths | placed if key in self.machines]

    def unplaced(self) -> list[Key]:
        """The machines one of whose berths waits for a node."""
        return [(p.namespace, p.machine_name) for _, p in self._pods.values() if p.node is None]

    def by_uid(self, uid: str) -> Key | None:
        """The machine of a berth's owner."""
        return next((k for k, m in self.machines.items() if m["metadata"]["uid"] == uid), None)
