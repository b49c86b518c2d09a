"""Migrations, as the tests make and read them."""

from __future__ import annotations

from typing import Any

from testbed.kube import Json, Machine, wait

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


def berths(vm: Machine) -> list[str]:
    path = f"/api/v1/namespaces/{vm.namespace}/pods"
    return [pod["metadata"]["name"] for pod in vm.cluster.items(path)]
