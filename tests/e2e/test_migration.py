"""Machines move to another node while they run, and nobody who talks to them notices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testbed.kube import Cluster, Json, Machine, stream, stream_between, tiny, wait

Make = Callable[[dict[str, Any]], Machine]
MIGRATION = "/apis/berth.dev/v1alpha1/namespaces/{ns}/migrations/{name}"


def move(machine: Machine, name: str = "move", **spec: Any) -> None:
    kind = {"apiVersion": "berth.dev/v1alpha1", "kind": "Migration", "metadata": {"name": name}}
    machine.cluster.apply({**kind, "spec": {"vm": machine.name, **spec}}, namespace=machine.namespace)


def status(machine: Machine, name: str = "move") -> Json:
    found = machine.cluster.get(MIGRATION.format(ns=machine.namespace, name=name))
    assert found is not None
    answer: Json = found.get("status", {})
    return answer


def over(machine: Machine, name: str = "move", seconds: float = 60) -> Json:
    """The Migration's status once it has ended, however it ended."""
    ended = ("Succeeded", "Failed", "Cancelled")
    wait(f"{name} is over", lambda: status(machine, name).get("phase") in ended, seconds)
    return status(machine, name)


def moved(machine: Machine, name: str = "move") -> Json:
    told = over(machine, name)
    assert told["phase"] == "Succeeded", told
    return told


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
