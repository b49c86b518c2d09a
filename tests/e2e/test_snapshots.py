"""A real guest and its disks at one moment: taken while it runs, gone back to on another node, deleted."""

from __future__ import annotations

import json
from collections.abc import Callable

from testbed.kube import Cluster, Json, Machine, away_from, tiny, wait

Make = Callable[..., Machine]
SNAPSHOTS = "/apis/berth.dev/v1alpha1/namespaces/{ns}/snapshots"


def snapshot(vm: Machine, name: str) -> Json:
    found = vm.cluster.get(f"{SNAPSHOTS.format(ns=vm.namespace)}/{name}")
    return found["status"] if found else {}


def test_it_goes_back_to_one_moment_on_another_node(cluster: Cluster, make: Make, shared: str) -> None:
    disks = [{"name": "data", "size": "64Mi", "pvc": {"claimName": shared, "path": "data.img"}},
             {"name": "local", "size": "32Mi", "empty": {}}]  # fmt: skip
    vm = make(tiny("keeper", savedState={"pvc": {"claimName": shared}}, disks=disks))
    first = vm.wait_up()["node"]
    boot = vm.boot_id()
    vm.shell("echo old >/tmp/in-memory; echo old-data >/dev/vda; echo old-local >/dev/vdb; sync")
    said = vm.berth_does("snapshot", "before")
    assert "in its volume; the guest stood still for" in said
    status = snapshot(vm, "before")
    assert (status["phase"], status["consistency"], status["epoch"]) == ("Ready", "Memory", 1)
    assert [disk["name"] for disk in status["disks"]] == ["data", "local"]
    assert 0 < status["pauseMs"] < 20_000
    assert vm.phase() == "Running"
    assert vm.boot_id() == boot, "it ran on"
    vm.shell("echo new >/tmp/in-memory; echo new-data >/dev/vda; echo new-local >/dev/vdb; sync")
    vm.patch({"placement": away_from(first)})
    vm.berth_does("revert", "before")
    assert vm.status()["node"] != first
    assert vm.boot_id() == boot
    shown = vm.shell("cat /tmp/in-memory; head -c 8 /dev/vda; echo; head -c 9 /dev/vdb; echo").split()
    assert shown == ["old", "old-data", "old-local"]
    vm.wait_condition("Reverted", "True", "Reverted")
    cluster.kubectl("delete", "vmsnap", "-n", vm.namespace, "before", "--timeout=60s", seconds=70)
    assert snapshot(vm, "before") == {}
    listed = cluster.berth("snapshots", vm.name, "-n", vm.namespace)
    assert "no Snapshots of keeper" in listed.stderr


def test_disks_alone_on_a_claim_that_goes_with_the_machine(cluster: Cluster, make: Make) -> None:
    vm = make(
        tiny("booter", savedState={"claim": {"size": "512Mi"}}, disks=[{"name": "d", "size": "32Mi", "empty": {}}])
    )
    vm.wait_up()
    boot = vm.boot_id()
    vm.shell("echo old-data >/dev/vda; sync")
    cluster.apply(_manifest("disks", vm.name, memory=False), namespace=vm.namespace)
    status = wait("it is taken", lambda: _ready(vm, "disks"), 60)
    assert status["consistency"] == "Crash", "this guest has no agent"
    vm.shell("echo new-data >/dev/vda; sync")
    vm.berth_does("revert", "disks")
    assert vm.boot_id() != boot
    assert vm.shell("head -c 8 /dev/vda").strip() == "old-data"
    columns = cluster.kubectl("get", "vmsnap", "-n", vm.namespace, "--no-headers").split()
    assert columns[:4] == ["disks", "Ready", "booter", "false"]
    vm.delete("--wait=true")
    wait("it goes with its machine", lambda: not snapshot(vm, "disks"), 60)


def _manifest(name: str, vm: str, **spec: object) -> Json:
    meta = {"name": name}
    return {"apiVersion": "berth.dev/v1alpha1", "kind": "Snapshot", "metadata": meta, "spec": {"vm": vm, **spec}}


def _ready(vm: Machine, name: str) -> Json | None:
    status = snapshot(vm, name)
    assert status.get("phase") != "Failed", json.dumps(status)
    return status if status.get("phase") == "Ready" else None
