"""From `kubectl apply` to the guest's first line, against a plain pod plus a bare libvirt start of that guest.

Floor: a plain pod applied until kubelet says Ready, plus `virsh create` of the same domain to the same line. Both run
on the same node in the same rounds: Berth needs both, and may overlap them.
"""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.baredomain import bare_xml
from testbed.kube import Cluster, Json, Machine, tiny, wait

LINE = "berth-guest: up"


@dataclass(slots=True)
class Starts:
    """Seconds of each round."""

    pod: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    berth: list[float] = field(default_factory=list)

    def ratios(self) -> list[float]:
        return [berth / (pod + bare) for pod, bare, berth in zip(self.pod, self.bare, self.berth, strict=True)]


@contextmanager
def scratch(cluster: Cluster) -> Iterator[str]:
    """A namespace for one benchmark; it goes with everything in it."""
    name = f"bench-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    try:
        yield name
    finally:
        cluster.kubectl("delete", "vm", "--all", "-n", name, seconds=600)
        cluster.kubectl("delete", "namespace", name, "--wait=false")


def wall(stamp: str) -> float:
    """RFC 3339 with nanoseconds in UTC, as kubectl prints it, to seconds since the epoch."""
    head, _, rest = stamp.rstrip("Z").partition(".")
    return datetime.datetime.fromisoformat(head + "+00:00").timestamp() + float(f"0.{rest or 0}")


def plain_pod(cluster: Cluster, namespace: str, node: str) -> float:
    """Seconds from apply until the pod's Ready condition is seen."""
    name = f"plain-{uuid.uuid4().hex[:6]}"
    container = {"name": "main", "image": "ghcr.io/berth-dev/testtools:dev", "command": ["sleep", "600"]}
    pod: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
        },
    }
    start = time.monotonic()
    cluster.apply(pod, namespace=namespace)
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"

    def ready() -> bool:
        conditions = (cluster.get(path) or {}).get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    wait("a plain pod is Ready", ready, 60, every=0.02)
    seconds = time.monotonic() - start
    cluster.kubectl("delete", "pod", name, "-n", namespace)
    return seconds


def machine(cluster: Cluster, namespace: str, node: str) -> float:
    """Seconds from apply until the guest's first user-space line, by the container runtime's time stamp of it."""
    name = f"vm-{uuid.uuid4().hex[:6]}"
    manifest = tiny(name, placement={"nodeSelector": {"kubernetes.io/hostname": node}})
    start = time.time()
    cluster.apply(manifest, namespace=namespace)
    vm = Machine(cluster, namespace, name)
    wait("the first line", lambda: LINE in vm.log(), 60, every=0.3)
    log = cluster.kubectl("logs", "--timestamps", "-n", namespace, str(vm.status()["berth"]))
    stamp = next(line for line in log.splitlines() if LINE in line).split()[0]
    vm.delete("--timeout=60s")
    return wall(stamp) - start


BARE = f"""
set -e
cat >/tmp/bare.xml
rm -f /var/log/libvirt/bare.console
start=$(date +%s%N)
virsh -q create /tmp/bare.xml
for i in $(seq 6000); do grep -q '{LINE}' /var/log/libvirt/bare.console 2>/dev/null && break; sleep 0.01; done
end=$(date +%s%N)
virsh -q destroy bare
echo "took $((end - start))"
"""


def bare_libvirt(cluster: Cluster, node: str, uid: str) -> float:
    """Seconds `virsh create` of the reference machine's own domain takes to the same line, with the agent's libvirt."""
    pod = cluster.agent_pod(node)["metadata"]
    inside = ("-n", pod["namespace"], pod["name"], "-c", "libvirt", "--")
    live = cluster.kubectl("exec", *inside, "virsh", "dumpxml", uid)
    xml = bare_xml(live, "/var/log/libvirt/bare.console")
    out = cluster.kubectl("exec", "-i", *inside, "bash", "-c", BARE, stdin=xml, seconds=90)
    return int(out.split("took ")[1].split()[0]) / 1e9


def measure(cluster: Cluster, namespace: str, node: str, rounds: int) -> Starts:
    """Rounds of all three in turn: a slow minute of the machine falls on all of them. The first round warms up."""
    reference = tiny("reference", power="Paused", placement={"nodeSelector": {"kubernetes.io/hostname": node}})
    cluster.apply(reference, namespace=namespace)
    paused = Machine(cluster, namespace, "reference")
    paused.wait_phase("Paused")
    uid = (paused.object() or {})["metadata"]["uid"]
    starts = Starts()
    for turn in range(rounds + 1):
        samples = (
            plain_pod(cluster, namespace, node),
            bare_libvirt(cluster, node, uid),
            machine(cluster, namespace, node),
        )
        if turn:
            for series, sample in zip((starts.pod, starts.bare, starts.berth), samples, strict=True):
                series.append(sample)
    paused.delete("--timeout=60s")
    return starts
