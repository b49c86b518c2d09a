"""Machines move to another node while they run, and nobody who talks to them notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testbed.kube import Cluster, Json, Machine, in_client, stream, stream_between, tiny, wait
from tests.e2e.moves import berths, move, moved, over, status

Make = Callable[[dict[str, Any]], Machine]


def test_a_stream_through_the_pod_ip_goes_on(make: Make) -> None:
    vm = make(tiny("mover"))
    vm.wait_up()
    before, boot = vm.status(), vm.boot_id()
    with stream(vm) as numbers:
        numbers.goes_on()
        move(vm)
        told = moved(vm)
        numbers.goes_on()
    after = vm.status()
    assert (told["source"]["node"], told["target"]["node"]) == (before["node"], after["node"])
    assert after["node"] != before["node"]
    assert after["startedAt"] == before["startedAt"], "a move is no new start"
    assert told["pauseMs"] > 0
    assert vm.boot_id() == boot, "the guest under its new address"


def test_a_machine_keeps_its_address_on_an_overlay(cluster: Cluster, namespace: str, make: Make) -> None:
    network: Json = {
        "apiVersion": "berth.dev/v1alpha1",
        "kind": "Network",
        "metadata": {"name": "lab"},
        "spec": {"overlay": {}, "ipv4": {"range": "10.78.0.0/24"}},
    }
    cluster.apply(network, namespace=namespace)
    nics = [{"name": "default", "pod": {}}, {"name": "lab", "network": {"name": "lab"}}]
    vm, peer = make(tiny("mover", nics=nics)), make(tiny("peer", nics=nics))
    vm.wait_up()
    peer.wait_up()
    address = next(nic["addresses"][0] for nic in vm.status()["nics"] if nic["name"] == "lab")
    with stream_between(peer, address.split("/")[0]) as numbers:
        numbers.goes_on()
        move(vm)
        moved(vm)
        numbers.goes_on()
    again = next(nic["addresses"][0] for nic in vm.status()["nics"] if nic["name"] == "lab")
    assert again == address


def test_disks_of_the_node_go_along(make: Make) -> None:
    """An empty one, and what was written over an image: here any file of whole sectors is one."""
    image = {"image": "ghcr.io/berth-dev/guest-tiny:dev", "path": "/boot/initrd"}
    disks = [
        {"name": "data", "empty": {}, "size": "64Mi"},
        {"name": "root", "container": image, "size": "16Mi"},
        {"name": "read", "container": image, "readOnly": True},
    ]
    vm = make(tiny("mover", disks=disks))
    vm.wait_up()
    told = vm.condition("Migratable")
    assert (told["status"], told["reason"]) == ("True", "CopiesDisks"), told
    assert "data (64Mi), root (16Mi); at most 80Mi" in told["message"]
    write = (
        "for d in a b; do head -c 4194304 /dev/urandom | dd of=/dev/vd$d bs=4k seek=2000 conv=fsync 2>/dev/null; done"
    )
    sums = "echo 3 > /proc/sys/vm/drop_caches; cat /dev/vda /dev/vdb /dev/vdc | sha256sum"
    before = vm.shell(f"{write}; {sums}", 60)
    move(vm, bandwidth="100M")  # slow enough for how far it is to be asked
    told = moved(vm)
    assert told["totalBytes"] >= (128 + 80) << 20
    assert "data, root" in told["method"]
    assert vm.shell(sums, 60) == before
    assert vm.shell("echo more | dd of=/dev/vda conv=fsync 2>/dev/null; head -c 4 /dev/vda").strip() == "more"


def test_a_machine_keeps_its_cpu_and_board_over_moves(make: Make) -> None:
    asked = {"model": "Nehalem", "requireFeatures": ["aes"]}
    vm = make(tiny("modelled", cpu=asked, machineType="pc-q35-9.2"))
    vm.wait_up()
    first = vm.status()
    assert (first["cpuModel"], first["machineType"]) == ("Nehalem", "pc-q35-9.2")
    for name in ("one", "two"):
        before = vm.status()["node"]
        move(vm, name)
        moved(vm, name)
        after = vm.status()
        assert after["node"] != before
        assert (after["cpuModel"], after["machineType"]) == ("Nehalem", "pc-q35-9.2")
    assert vm.status()["startedAt"] == first["startedAt"]


def test_a_cpu_that_no_node_has_is_told_with_the_nodes(make: Make) -> None:
    vm = make(tiny("toonew", cpu={"requireFeatures": ["avx512f"]}))
    wait("the reason", lambda: vm.condition("PlacementReady").get("reason") == "NoCompatibleNode", 20)
    assert "lacks avx512f" in vm.condition("PlacementReady")["message"]


def test_what_cannot_move_is_refused_at_once(make: Make) -> None:
    vm = make(tiny("stays"))
    vm.wait_up()
    here = vm.status()["node"]
    move(vm, "nowhere", target={"nodeName": here})
    told = over(vm, "nowhere", 10)
    assert (told["phase"], told["reason"]) == ("Failed", "SameNode"), told
    vm.patch({"power": "Off"})
    vm.wait_phase("Stopped")
    move(vm, "stopped")
    told = over(vm, "stopped", 10)
    assert told["phase"] == "Failed", told
    assert "run" in told["message"], told


def service(vm: Machine, **spec: Any) -> Json:
    """A Service with the guest's counter; its address."""
    name = vm.name
    vm.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 7000}], **spec},
        },
        namespace=vm.namespace,
    )
    found = vm.cluster.get(f"/api/v1/namespaces/{vm.namespace}/services/{name}")
    assert found is not None
    return found


def opens(cluster: Cluster, address: str) -> bool:
    """Whether the tests' pod gets a connection to a guest's counter there."""
    script = f"nc -w 2 {address} 7000 </dev/null | head -n 1"
    return bool(in_client(cluster, "sh", "-c", script).strip())


def labelled(manifest: Json) -> Json:
    manifest["metadata"]["labels"] = {"app": manifest["metadata"]["name"]}
    return manifest


def endpoints(vm: Machine) -> list[str]:
    """The addresses that the Service of the machine's name sends new connections to."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{vm.namespace}/endpointslices"
    slices = [s for s in vm.cluster.items(path) if s["metadata"]["labels"]["kubernetes.io/service-name"] == vm.name]
    found = [e for s in slices if s["addressType"] == "IPv4" for e in s["endpoints"] or []]
    return [e["addresses"][0] for e in found if e["conditions"]["ready"]]


def test_services_follow_there_and_back_again(make: Make) -> None:
    vm = make(labelled(tiny("served")))
    vm.wait_up()
    cluster_ip = service(vm)["spec"]["clusterIP"]
    wait("kube-proxy knows the Service", lambda: opens(vm.cluster, cluster_ip), 30)
    homes = [vm.status()["node"]]
    for name in ("there", "back"):
        wait("the Service leads to the machine", lambda: endpoints(vm) == [vm.status()["ip"]], 30)
        with stream(vm, cluster_ip) as numbers:
            numbers.goes_on()
            move(vm, name)
            moved(vm, name)
            numbers.goes_on()
            wait("the Service leads to the new berth alone", lambda: endpoints(vm) == [vm.status()["ip"]], 15)
            with stream(vm, cluster_ip) as fresh:
                fresh.goes_on()
        homes.append(vm.status()["node"])
    assert homes[0] == homes[2] != homes[1]
    wait("the doors are closed", lambda: len(berths(vm)) == 1, 60)


def test_a_move_can_be_watched_and_given_up(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("slow"))
    vm.wait_up()
    here = vm.status()["node"]
    with stream(vm) as numbers:
        move(vm, "slow", bandwidth="1M")
        wait("memory goes over", lambda: status(vm, "slow").get("phase") == "Running", 40)
        wait("progress is told", lambda: (status(vm, "slow").get("percent") or 0) > 0, 20)
        assert vm.phase() == "Migrating"
        second = "second"
        move(vm, second)
        told = over(vm, second, 10)
        assert told["phase"] == "Failed", told
        done = cluster.berth("migrate", "slow", "-n", vm.namespace, "--cancel")
        assert done.returncode == 0, done.stderr
        assert over(vm, "slow")["phase"] == "Cancelled"
        numbers.goes_on()
    assert vm.status()["node"] == here
    wait("the other berth is gone", lambda: len(berths(vm)) == 1, 40)
    done = cluster.berth("migrate", "slow", "-n", vm.namespace, "--watch")
    assert done.returncode == 0, done.stderr
    assert vm.status()["node"] != here
