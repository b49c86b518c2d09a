"""A move while the parts that carry it out are killed, and a drain: one guest runs, and its stream goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testbed.kube import SYSTEM, Cluster, Machine, stream, tiny, wait
from tests.e2e.moves import berths, move, moved, over, status

Make = Callable[[dict[str, Any]], Machine]
pytestmark = pytest.mark.disruptive
AGENT = "python.* -m berth.agent"


def source_agent(cluster: Cluster, source: str, target: str) -> None:
    cluster.signal(source, "KILL", "-f", AGENT)


def target_agent(cluster: Cluster, source: str, target: str) -> None:
    cluster.signal(target, "KILL", "-f", AGENT)


def source_libvirtd(cluster: Cluster, source: str, target: str) -> None:
    cluster.signal(source, "KILL", "-x", "libvirtd")


def target_libvirtd(cluster: Cluster, source: str, target: str) -> None:
    cluster.signal(target, "KILL", "-x", "libvirtd")


def controllers(cluster: Cluster, source: str, target: str) -> None:
    selector = "app.kubernetes.io/component=controller"
    cluster.kubectl("delete", "pod", "-n", SYSTEM, "-l", selector, "--force", "--grace-period=0")


FAULTS = [source_agent, target_agent, source_libvirtd, target_libvirtd, controllers]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_whatever_is_killed_one_guest_runs(
    cluster: Cluster, make: Make, fault: Callable[[Cluster, str, str], None]
) -> None:
    vm = make(tiny("moving"))
    vm.wait_up()
    boot, source = vm.boot_id(), vm.status()["node"]
    with stream(vm) as numbers:
        numbers.goes_on()
        move(vm, bandwidth="40M")  # some seconds long
        wait("memory goes over", lambda: status(vm).get("phase") == "Running", 40)
        fault(cluster, source, status(vm)["target"]["node"])
        told = over(vm, seconds=90)
        numbers.goes_on()
    assert vm.boot_id() == boot
    if fault is controllers:
        assert told["phase"] == "Succeeded", told
    here = vm.status()["node"]
    assert (here != source) == (told["phase"] == "Succeeded"), told
    vm.wait_phase("Running")
    wait("one berth is left", lambda: len(berths(vm)) == 1, 60)
    move(vm, "again")
    moved(vm, "again")
    assert vm.boot_id() == boot


@pytest.fixture
def cordoned(cluster: Cluster) -> Iterator[list[str]]:
    """Nodes that the test drains; they take pods again afterwards."""
    nodes: list[str] = []
    yield nodes
    for node in nodes:
        cluster.kubectl("uncordon", node)


def test_a_drain_moves_machines_and_ends_with_0(cluster: Cluster, make: Make, cordoned: list[str]) -> None:
    vm = make(tiny("drained"))
    other = make(tiny("ends", eviction="Shutdown", restart="Never", placement={"nodeSelector": {}}))
    vm.wait_up()
    other.wait_up()
    node, boot = vm.status()["node"], vm.boot_id()
    forecast = cluster.berth("evacuate", node, "--plan").stdout
    row = next(line.split() for line in forecast.splitlines() if line.startswith(vm.namespace) and " drained " in line)
    assert row[2] == "Move", forecast
    cordoned.append(node)
    words = ("--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app.kubernetes.io/component=berth")
    cluster.kubectl("drain", node, *words, "--timeout=90s", seconds=100)
    assert vm.status()["node"] == row[3] != node
    assert vm.boot_id() == boot
    assert [name for name in berths(vm) if name.startswith("berth-drained")] == [vm.status()["berth"]]
