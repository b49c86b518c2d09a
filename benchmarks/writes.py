"""How often Berth writes to the Kubernetes API: per start, when idle, and after a restart."""

from __future__ import annotations

import time

from benchmarks.metrics import controllers, samples, total
from testbed.kube import SYSTEM, VMS, Cluster, Machine, tiny, wait

WRITES, RECONCILES, DEPTH = "berth_api_writes_total", "berth_reconciles_total", "berth_queue_depth"


def written(cluster: Cluster) -> float:
    """Writes so far; Events and the election's Lease apart."""
    return total(cluster, WRITES, without={"kind": ("Event", "Lease")})


def per_start(cluster: Cluster, namespace: str, count: int) -> float:
    """Writes per machine from its creation until it runs."""
    before = written(cluster)
    vms = [Machine(cluster, namespace, f"w{i}") for i in range(count)]
    for vm in vms:
        cluster.apply(tiny(vm.name), namespace=namespace)
        vm.wait_up()
    return (written(cluster) - before) / count


def idle(cluster: Cluster, seconds: float = 30) -> float:
    """Writes of the whole controller while nothing happens."""
    before = written(cluster)
    time.sleep(seconds)  # the measured span itself
    return written(cluster) - before


def restart(cluster: Cluster, namespace: str, count: int) -> tuple[float, float]:
    """Seconds from a new leader's first reconcile until its queue is empty with all seen, and its writes meanwhile."""
    cluster.apply(*(tiny(f"s{i}", power="Off") for i in range(count)), namespace=namespace)

    def stopped() -> bool:
        vms = cluster.items(VMS.format(ns=namespace))
        return len([vm for vm in vms if (vm.get("status") or {}).get("phase") == "Stopped"]) >= count

    wait("all are Stopped", stopped, 300, every=2)
    old = controllers(cluster)
    cluster.kubectl("delete", "pod", "-n", SYSTEM, *old, "--force", "--grace-period=0")

    begun = 0.0

    def quiet() -> float:
        """Seconds since the first reconcile was seen, once every machine had one and none waits; 0 before."""
        nonlocal begun
        for pod in (p for p in controllers(cluster) if p not in old):
            try:
                found = samples(cluster, pod)
            except AssertionError:
                continue  # the pod does not answer yet
            done = sum(value for (name, _), value in found.items() if name == RECONCILES)
            begun = begun or (time.monotonic() if done else 0.0)
            if done >= count and found.get((DEPTH, ()), 1.0) == 0:
                return max(time.monotonic() - begun, 0.001)
        return 0.0

    seconds = wait("the new leader is quiet", quiet, 120, every=0.1)
    return seconds, written(cluster)
