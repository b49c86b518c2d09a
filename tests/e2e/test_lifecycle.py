"""A machine's life as its user sees it: create, look, stop, start, restart, pause, change, delete."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import yaml

from testbed.kube import ROOT, Cluster, Machine, in_client, tiny, wait

Make = Callable[..., Machine]


def test_the_smallest_manifest_boots_linux(cluster: Cluster, namespace: str) -> None:
    text = (ROOT / "examples" / "tiny.yaml").read_text()
    body = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(body) <= 12
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)
    vm = Machine(cluster, namespace, yaml.safe_load(text)["metadata"]["name"])
    status = vm.wait_up()
    assert status["node"]
    assert all(c["status"] == "True" for c in vm.status()["conditions"]), vm.status()["conditions"]
    assert "berth-guest: up" in cluster.kubectl("logs", "-n", namespace, str(status["berth"]))


def test_columns_and_explain(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("columns"))
    vm.wait_phase("Running")
    head, row = cluster.kubectl("get", "vm", "columns", "-n", vm.namespace).splitlines()
    assert head.split() == ["NAME", "STATUS", "NODE", "IP", "CPU", "MEMORY", "AGE"]
    status = vm.status()
    assert row.split()[:6] == ["columns", "Running", status["node"], status["ip"], "1", "128Mi"]
    explained = cluster.kubectl("explain", "vm.spec", "--recursive")
    for field in ("power", "restart", "memory", "disks", "cloudInit", "gracePeriodSeconds"):
        assert field in explained


def test_every_port_of_the_pod_ip_is_the_guests_both_ways(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("net"))
    vm.wait_up()
    assert "hostname net" in vm.http()
    answer = in_client(cluster, "sh", "-c", f"echo hello | nc -w 3 {vm.status()['ip']} 7001")
    assert "hello" in answer
    # Outward: the guest reaches the API server's Service with its pod's identity.
    with vm.attach() as console:
        console.ask("nc -w 3 10.96.0.1 443 </dev/null && echo reached-$((40+2))", "reached-42")


def test_stop_start_restart(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("power"))
    vm.wait_up()
    first = vm.boot_id()
    vm.patch({"power": "Off"})
    status = vm.wait_phase("Stopped")
    assert status["lastExit"]["reason"] == "ShutDown"
    assert status["lastExit"]["exitCode"] == 0
    assert not cluster.items(f"/api/v1/namespaces/{vm.namespace}/pods")
    vm.patch({"power": "On"})
    vm.wait_up()
    second = vm.boot_id()
    assert second != first
    assert vm.status()["epoch"] == 2
    done = cluster.berth("restart", "power", "-n", vm.namespace, "--wait")
    assert done.returncode == 0, done.stderr
    vm.wait_up()
    assert vm.boot_id() not in (first, second)


def test_a_guest_that_ignores_the_button_is_cut_off(make: Make) -> None:
    vm = make(tiny("deaf", args="berth.ignore_button", shutdown={"gracePeriodSeconds": 3}))
    vm.wait_up()
    start = time.monotonic()
    vm.patch({"power": "Off"})
    status = vm.wait_phase("Stopped", 30)
    assert 2.5 < time.monotonic() - start < 20
    assert status["lastExit"]["reason"] == "ForcedOff"


def test_pause_keeps_memory_and_stream(make: Make) -> None:
    vm = make(tiny("pause"))
    vm.wait_up()
    boot = vm.boot_id()
    vm.patch({"power": "Paused"})
    vm.wait_phase("Paused")
    vm.patch({"power": "On"})
    vm.wait_phase("Running")
    assert vm.boot_id() == boot


def test_a_change_that_needs_a_boot_is_shown_until_then(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("change"))
    vm.wait_up()
    vm.patch({"memory": {"size": "192Mi"}})
    wait("pendingChanges", lambda: vm.status().get("pendingChanges") == ["spec.memory.size"], 10)
    assert vm.phase() == "Running"
    assert cluster.berth("restart", "change", "-n", vm.namespace, "--wait").returncode == 0
    vm.wait_up()
    assert not vm.status().get("pendingChanges")
    memory = next(line for line in vm.http().splitlines() if line.startswith("memory_kib"))
    assert int(memory.split()[1]) > 140 * 1024


def test_delete_leaves_nothing(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("gone"))
    status = vm.wait_up()
    node, uid = status["node"], (vm.object() or {})["metadata"]["uid"]
    vm.delete("--timeout=60s")
    assert vm.object() is None
    assert not cluster.items(f"/api/v1/namespaces/{vm.namespace}/pods")
    wait(
        "the node forgets it",
        lambda: uid not in cluster.on_node(node, "sh", "-c", "ls /run/berth/vms; ps -eo args"),
        10,
    )


def test_deleting_the_berth_pod_shuts_the_guest_down_and_starts_it_again(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("evicted"))
    vm.wait_up()
    first = vm.boot_id()
    cluster.kubectl("delete", "pod", vm.status()["berth"], "-n", vm.namespace, "--wait=false")
    wait("the guest saw its power button", lambda: "berth-guest: power button" in vm.log(), 10, every=0.1)
    wait("a second start", lambda: vm.status().get("epoch") == 2, 30)
    vm.wait_up()
    assert vm.boot_id() != first


def test_eviction_is_a_clean_shutdown(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("drained", restart="Never", eviction="Shutdown"))
    vm.wait_up()
    pod = vm.status()["berth"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": vm.namespace}}
    path = f"/api/v1/namespaces/{vm.namespace}/pods/{pod}/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
    wait("it ended in order", lambda: vm.status().get("lastExit", {}).get("reason") == "ShutDown", 30)
