"""What a machine costs above its QEMU process: the berth pod's processes, and what agent and libvirtd grow by."""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks.metrics import controllers, samples
from testbed.kube import Cluster, Json, Machine, tiny

PROBE = r"""
import json, os, re, sys
uids = set(json.loads(sys.argv[1]))
def read(path):
    try:
        return open(path, "rb").read().decode(errors="replace")
    except OSError:
        return ""
def pss(pid):
    found = re.search(r"^Pss:\s+(\d+)", read(f"/proc/{pid}/smaps_rollup"), re.M)
    return int(found.group(1)) if found else 0
def network(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""
here = network("self")  # agent and libvirtd of other nodes may share the PID namespace, never the node's network
sums = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    words = read(f"/proc/{pid}/cmdline").split("\0")
    groups = read(f"/proc/{pid}/cgroup")
    mine = any(uid in groups or uid.replace("-", "_") in groups for uid in uids)
    name = os.path.basename(words[0]) if words[0] else ""
    if mine:
        kind = "qemu" if name.startswith(("qemu", "berth-qemu")) else "berth" if "berth" in name else "pause"
    elif name == "libvirtd" and network(pid) == here:
        kind = "libvirtd"
    elif "berth.agent" in words and network(pid) == here:
        kind = "agent"
    else:
        continue
    sums[kind] = sums.get(kind, 0) + pss(pid)
print(json.dumps(sums))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """KiB of PSS per machine, and RSS of Berth's own processes in MiB with all machines there."""

    count: int
    per_machine: dict[str, float]
    agent_mib: float
    controller_mib: float

    @property
    def above_qemu_kib(self) -> float:
        """Berth pod and agent growth; libvirtd's share and the runtime's shim are not Berth's."""
        return self.per_machine["berth"] + self.per_machine["pause"] + self.per_machine["agent"]


def probe(cluster: Cluster, node: str, pods: list[str]) -> dict[str, float]:
    return dict(json.loads(cluster.on_node(node, "python3", "-c", PROBE, json.dumps(pods)).strip().splitlines()[-1]))


def measure(cluster: Cluster, namespace: str, node: str, count: int) -> Cost:
    """Start ``count`` paused machines on one node (a paused guest touches no memory of its own) and see what grew."""
    before = probe(cluster, node, [])
    spec: Json = {
        "power": "Paused",
        "cpu": {"request": "10m"},
        "placement": {"nodeSelector": {"kubernetes.io/hostname": node}},
    }
    vms = [Machine(cluster, namespace, f"m{i}") for i in range(count)]
    cluster.apply(*(tiny(vm.name, **spec) for vm in vms), namespace=namespace)
    for vm in vms:
        vm.wait_phase("Paused", 240)
    uids = [str((vm.berth() or {})["metadata"]["uid"]) for vm in vms]
    after = probe(cluster, node, uids)
    grown = {kind: (after.get(kind, 0) - before.get(kind, 0)) / count for kind in ("agent", "libvirtd")}
    own = {kind: after.get(kind, 0) / count for kind in ("qemu", "berth", "pause")}
    rss = max(samples(cluster, pod)[("process_resident_memory_bytes", ())] for pod in controllers(cluster))
    return Cost(count, {**own, **grown}, after["agent"] / 1024, rss / 2**20)
