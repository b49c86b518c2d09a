"""A move while the parts that carry it out are killed, and a drain: one guest runs, and its stream goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testbed.kube import SYSTEM, Cluster, Json, Machine, stream, tiny, wait
from tests.contract.two_nodes import CUT
from tests.e2e.moves import berths, move, moved, over, status

Make = Callable[[dict[str, Any]], Machine]
Fault = Callable[[Machine, Json], None]
pytestmark = pytest.mark.disruptive
AGENT = "python.* -m berth.agent"


def source_agent(vm: Machine, told: Json) -> None:
    vm.cluster.signal(told["source"]["node"], "KILL", "-f", AGENT)


def target_agent(vm: Machine, told: Json) -> None:
    vm.cluster.signal(told["target"]["node"], "KILL", "-f", AGENT)


def source_libvirtd(vm: Machine, told: Json) -> None:
    vm.cluster.signal(told["source"]["node"], "KILL", "-x", "libvirtd")


def target_libvirtd(vm: Machine, told: Json) -> None:
    vm.cluster.signal(told["target"]["node"], "KILL", "-x", "libvirtd")


def controllers(vm: Machine, told: Json) -> None:
    selector = "app.kubernetes.io/component=controller"
    vm.cluster.kubectl("delete", "pod", "-n", SYSTEM, "-l", selector, "--force", "--grace-period=0")


def kubelets(vm: Machine, told: Json) -> None:
    vm.cluster.testbed("restart", "kubelet")


def containerds(vm: Machine, told: Json) -> None:
    vm.cluster.testbed("restart", "containerd")


def apiserver(vm: Machine, told: Json) -> None:
    vm.cluster.testbed("restart", "apiserver")


def target_berth(vm: Machine, told: Json) -> None:
    vm.cluster.kubectl("delete", "pod", "-n", vm.namespace, told["target"]["berth"], "--wait=false")


def link(seconds: float) -> Fault:
    """Neither node hears of the other."""

    def cut(vm: Machine, told: Json) -> None:
        nodes = [told[side]["node"] for side in ("source", "target")]
        for node, other in (nodes, reversed(nodes)):
            vm.cluster.on_node(node, "nft", CUT.format(address(vm.cluster, other)))
        time.sleep(seconds)  # so long is the fault
        for node in nodes:
            vm.cluster.on_node(node, "nft", "delete", "table", "inet", "cut")

    cut.__name__ = f"link_{seconds:.0f}_s"
    return cut


def address(cluster: Cluster, node: str) -> str:
    found = cluster.get(f"/api/v1/nodes/{node}") or {}
    return next(str(a["address"]) for a in found["status"]["addresses"] if a["type"] == "InternalIP")


FAULTS: list[Fault] = [source_agent, target_agent, source_libvirtd, target_libvirtd, controllers]
MORE: list[Fault] = [kubelets, containerds, apiserver, target_berth, link(1), link(10), link(60)]
"""In the lane of `make test-faults`."""
GOES_ON = (controllers, kubelets, containerds, apiserver)
"""What has no hand in the memory's way."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "fault",
    [*FAULTS, *(pytest.param(fault, marks=pytest.mark.faults) for fault in MORE)],
    ids=lambda fault: str(fault.__name__),
)
def test_whatever_is_killed_one_guest_runs(make: Make, fault: Fault) -> None:
    vm = make(tiny("moving"))
    vm.wait_up()
    boot, source = vm.boot_id(), vm.status()["node"]
    with stream(vm) as numbers:
        numbers.goes_on()
        move(vm, bandwidth="40M")  # some seconds long
        wait("memory goes over", lambda: status(vm).get("phase") == "Running", 40)
        fault(vm, status(vm))
        told = over(vm, seconds=90)
        numbers.goes_on(60)
    assert vm.boot_id() == boot
    if fault in GOES_ON:
        assert told["phase"] == "Succeeded", told
    here = vm.status()["node"]
    assert (here != source) == (told["phase"] == "Succeeded"), told
    vm.wait_phase("Running")
    wait("one berth is left", lambda: len(berths(vm)) == 1, 60)
    move(vm, "again")
    moved(vm, "again")
    assert vm.boot_id() == boot


@pytest.mark.faults
def test_the_source_s_berth_is_deleted_and_the_machine_starts_anew(make: Make) -> None:
    vm = make(tiny("moving"))
    vm.wait_up()
    boot, epoch = vm.boot_id(), vm.status()["epoch"]
    move(vm, bandwidth="10M")
    wait("memory goes over", lambda: status(vm).get("phase") == "Running", 40)
    vm.cluster.kubectl("delete", "pod", "-n", vm.namespace, status(vm)["source"]["berth"], "--wait=false")
    told = over(vm, seconds=90)
    assert told["phase"] in ("Failed", "Cancelled"), told
    wait("it is started anew", lambda: vm.status().get("epoch", 0) > epoch, 90)
    vm.wait_up(90)
    assert vm.boot_id() != boot
    wait("one berth is left", lambda: len(berths(vm)) == 1, 60)


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
