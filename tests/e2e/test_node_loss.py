"""A node is lost for good: its machine starts on another with the addresses it had, and its neighbours find it there.

In the lane of `make test-lives`: Kubernetes lets go of a deleted node's pods no sooner than after a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from testbed.kube import Cluster, Json, Machine, tiny, wait

Make = Callable[..., Machine]
pytestmark = [pytest.mark.disruptive, pytest.mark.lives]
POD: Json = {"name": "default", "pod": {}}
LAN: Json = {"name": "lan", "network": {"name": "lan"}}
HOST = "kubernetes.io/hostname"


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[list[str]]:
    """The two workers; both are there again afterwards."""
    found = cluster.items("/api/v1/nodes")
    yield sorted(node["metadata"]["name"] for node in found if not node["spec"].get("taints"))[:2]
    wait("both are back", lambda: is_up(cluster), 300)  # a kubelet without a Node object may need a second attempt
    cluster.testbed("install", seconds=300)


def is_up(cluster: Cluster) -> bool:
    try:
        cluster.testbed("up", seconds=300)
    except AssertionError:
        return False
    return True


def lan_of(machine: Machine) -> Json:
    return next((nic for nic in machine.status().get("nics", []) if nic["name"] == "lan"), {})


def prefer(node: str) -> Json:
    """There if it can be, elsewhere if not."""
    term = {"matchExpressions": [{"key": HOST, "operator": "In", "values": [node]}]}
    wish = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": term}]}
    return {"affinity": {"nodeAffinity": wish}}


def pings(machine: Machine, address: str) -> bool:
    program = "ping6" if ":" in address else "ping"
    return "1 packets received" in machine.shell(f"{program} -c 1 -W 2 {address} || true")


def reaches(machine: Machine, addresses: list[str]) -> None:
    for address in addresses:
        wait(f"{machine.name} reaches {address}", partial(pings, machine, address), 30)


@pytest.mark.timeout(600)
def test_a_machine_of_a_lost_node_keeps_its_addresses_on_another(
    cluster: Cluster, namespace: str, make: Make, nodes: list[str]
) -> None:
    spec: Json = {"overlay": {}, "ipv4": {"range": "10.82.0.0/24"}, "ipv6": {"range": "fd82::/64"}}
    network: Json = {"apiVersion": "berth.dev/v1alpha1", "kind": "Network", "metadata": {"name": "lan"}, "spec": spec}
    cluster.apply(network, namespace=namespace)
    doomed = make(tiny("doomed", nics=[POD, LAN], placement=prefer(nodes[1]), restart="Always"))
    peer = make(tiny("peer", nics=[POD, LAN], placement={"nodeSelector": {HOST: nodes[0]}}))
    doomed.wait_up(90)
    peer.wait_up(90)
    assert doomed.status()["node"] == nodes[1]
    before, boot, peers_boot = lan_of(doomed), doomed.boot_id(), peer.boot_id()
    reaches(peer, before["addresses"])

    cluster.testbed("lose", nodes[1])
    doomed.wait_condition("AgentConnected", "False", seconds=60)
    time.sleep(5)  # a silent node is no dead node: for as long as its Node object is there nothing is started anew
    assert doomed.status()["epoch"] == 1
    assert not pings(peer, before["addresses"][0])

    began = time.monotonic()
    cluster.kubectl("delete", "node", nodes[1])
    wait("the second start", lambda: doomed.status().get("epoch") == 2, 180)
    doomed.wait_up(90)
    reaches(peer, before["addresses"])
    print(f"reached {time.monotonic() - began:.0f} s after its Node was deleted")
    after = lan_of(doomed)
    assert doomed.status()["node"] == nodes[0]
    assert (after["mac"], after["addresses"]) == (before["mac"], before["addresses"])
    assert doomed.boot_id() != boot
    assert peer.boot_id() == peers_boot
