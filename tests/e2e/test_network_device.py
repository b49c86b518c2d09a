"""A virtual function of a card: the scheduler finds the node that has one, and what its device plugin forgot is told.

No such card is here: the node is given the resource by hand, as a device plugin would advertise it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from testbed.kube import Cluster, Machine, tiny

Make = Callable[..., Machine]
RESOURCE = "example.com/e2e-vf"


@pytest.fixture
def node(cluster: Cluster) -> Iterator[str]:
    """The node that is to have one."""
    name = sorted(n["metadata"]["name"] for n in cluster.items("/api/v1/nodes") if not n["spec"].get("taints"))[-1]
    yield name
    _set(cluster, name, None)


def _set(cluster: Cluster, node: str, count: str | None) -> None:
    patch = json.dumps({"status": {"capacity": {RESOURCE: count}, "allocatable": {RESOURCE: count}}})
    cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", patch)


def test_it_is_scheduled_where_the_resource_is_and_a_missing_function_is_named(
    cluster: Cluster, node: str, make: Make
) -> None:
    machine = make(tiny("fast", nics=[{"name": "fast", "device": {"resource": RESOURCE}}]))
    machine.wait_condition("PlacementReady", "False", "InsufficientResources", 20)
    assert RESOURCE in machine.condition("PlacementReady")["message"]
    _set(cluster, node, "1")
    machine.wait_condition("PlacementReady", "True", "Placed", 60)
    assert machine.status()["node"] == node
    said = machine.wait_condition("GuestRunning", "False", "DeviceMissing", 30)
    assert RESOURCE in said["message"]
    assert "device plugin" in said["message"]
