"""A real guest that is suspended and resumed: the same boot, no pod in between, on the same node or on another one."""

from __future__ import annotations

from collections.abc import Callable

from testbed.kube import Cluster, Json, Machine, away_from, tiny, wait

Make = Callable[..., Machine]


def pods(vm: Machine) -> list[Json]:
    return vm.cluster.items(f"/api/v1/namespaces/{vm.namespace}/pods")


def claims(vm: Machine) -> list[str]:
    found = vm.cluster.items(f"/api/v1/namespaces/{vm.namespace}/persistentvolumeclaims")
    return [claim["metadata"]["name"] for claim in found if "deletionTimestamp" not in claim["metadata"]]


def test_the_same_boot_before_and_after_on_a_claim_that_goes_with_the_machine(make: Make) -> None:
    vm = make(tiny("sleeper", savedState={"claim": {"size": "512Mi"}}))
    vm.wait_up()
    boot = vm.boot_id()
    assert vm.condition("Suspendable")["status"] == "True"
    vm.berth_does("suspend")
    wait("its pod is gone", lambda: not pods(vm), 30)
    status = vm.status()
    assert (status["phase"], status["savedState"]["epoch"]) == ("Suspended", 1)
    assert "node" not in status
    assert claims(vm) == ["sleeper-saved-state"]
    vm.berth_does("resume")
    assert vm.boot_id() == boot
    assert vm.status()["epoch"] == 2
    wait("the state is used", lambda: "savedState" not in vm.status(), 15)
    vm.delete("--wait=true")
    wait("its claim is gone", lambda: not claims(vm), 60)


def test_it_goes_on_on_another_node(cluster: Cluster, make: Make, shared: str) -> None:
    local = {"name": "local", "size": "32Mi", "empty": {}}
    vm = make(tiny("roamer", savedState={"pvc": {"claimName": shared}}, disks=[local]))
    first = vm.wait_up()["node"]
    boot = vm.boot_id()
    vm.shell("echo kept >/tmp/in-memory; echo local-data >/dev/vda; sync")
    vm.berth_does("suspend")
    vm.patch({"placement": away_from(first)})
    vm.berth_does("resume")
    assert vm.status()["node"] != first
    assert vm.boot_id() == boot
    shown = vm.shell("cat /tmp/in-memory; head -c 10 /dev/vda; echo").split()
    assert shown == ["kept", "local-data"], "the node's own disk went along"


def test_one_without_a_volume_runs_on(make: Make) -> None:
    vm = make(tiny("awake"))
    vm.wait_up()
    boot = vm.boot_id()
    done = vm.cluster.berth("suspend", vm.name, "-n", vm.namespace, "--wait", "--timeout", "30")
    assert done.returncode == 1
    assert "savedState" in done.stdout + done.stderr
    vm.wait_condition("Suspendable", "False", "NoSavedState")
    assert vm.phase() == "Running"
    assert vm.boot_id() == boot
