"""Machines on Networks: real guests on both nodes, leased addresses that stay, NICs that come and go while they run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from testbed.kube import Cluster, Json, Machine, tiny, wait

Make = Callable[..., Machine]
NODES: list[str] = []
"""The cluster's two workers."""
NETWORKS = "/apis/berth.dev/v1alpha1/namespaces/{ns}/networks"
POD: Json = {"name": "default", "pod": {}}


def network(name: str = "office", **spec: Any) -> Json:
    spec = spec or {"overlay": {}, "ipv4": {"range": "10.77.0.0/24"}, "ipv6": {"range": "fd77::/64"}}
    return {"apiVersion": "berth.dev/v1alpha1", "kind": "Network", "metadata": {"name": name}, "spec": spec}


def lan(*addresses: str, of: str = "office", **more: Any) -> Json:
    asked: Json = {"addresses": list(addresses)} if addresses else {}
    return {"name": "lan", "network": {"name": of, **asked}, **more}


def on(node: int) -> Json:
    return {"nodeSelector": {"kubernetes.io/hostname": NODES[node]}}


def both(make: Make, name: str, node: int, *nics: Json) -> Machine:
    """A machine with a pod NIC, by which the test talks to it, and these."""
    return make(tiny(name, nics=[POD, *(nics or (lan(),))], placement=on(node)))


def given(machine: Machine, nic: str = "lan") -> list[str]:
    found: Json = next((n for n in machine.status().get("nics", []) if n["name"] == nic), {})
    return list(found.get("addresses") or [])


def has(machine: Machine, address: str, seconds: float = 30) -> None:
    """Wait until the guest itself has the address."""
    wait(f"{machine.name} has {address}", lambda: f"{address}/" in machine.shell("ip addr"), seconds, every=0.5)


def reaches(machine: Machine, address: str, seconds: float = 20) -> None:
    ping = "ping6" if ":" in address else "ping"
    wait(
        f"{machine.name} reaches {address}",
        lambda: "1 packets received" in machine.shell(f"{ping} -c 1 -W 2 {address} || true"),
        seconds,
        every=0.2,
    )


@pytest.fixture(autouse=True)
def nodes(cluster: Cluster) -> None:
    found = cluster.items("/api/v1/nodes")
    NODES[:] = sorted(node["metadata"]["name"] for node in found if not node["spec"].get("taints"))[:2]


@pytest.fixture
def office(cluster: Cluster, namespace: str) -> Json:
    cluster.apply(network(), namespace=namespace)
    return network()


def leases(cluster: Cluster, namespace: str, name: str = "office") -> dict[str, list[str]]:
    found = cluster.get(f"{NETWORKS.format(ns=namespace)}/{name}") or {}
    given = (found.get("status") or {}).get("leases") or ()
    return {lease["machine"].partition("/")[2]: lease["addresses"] for lease in given}


def test_machines_on_both_nodes_meet_on_an_overlay(cluster: Cluster, namespace: str, office: Json, make: Make) -> None:
    alice, bob = both(make, "alice", 0), both(make, "bob", 1)
    alice.wait_up(90)
    bob.wait_up(90)
    mine, theirs = given(alice), given(bob)
    assert sorted([mine[0], theirs[0]]) == ["10.77.0.1", "10.77.0.2"]
    assert leases(cluster, namespace) == {"alice": mine, "bob": theirs}
    for address in mine:
        has(alice, address)
    for address in theirs:
        has(bob, address)
        reaches(alice, address)
    big = alice.shell(f"ping -c 3 -s 20000 -W 5 {theirs[0]}")
    assert "3 packets received" in big


def test_addresses_stay_on_another_node_and_the_neighbours_know_at_once(
    cluster: Cluster, namespace: str, office: Json, make: Make
) -> None:
    alice, bob = both(make, "alice", 0), both(make, "bob", 1)
    alice.wait_up(90)
    bob.wait_up(90)
    kept = given(bob)
    reaches(alice, kept[0])
    bob.patch({"placement": {"nodeSelector": {"kubernetes.io/hostname": NODES[0]}}})
    assert cluster.berth("restart", "bob", "-n", namespace, "--wait").returncode == 0
    assert bob.status()["node"] == NODES[0]
    assert given(bob) == kept
    reaches(alice, kept[0])
    reaches(alice, kept[1])


def test_a_machine_without_pod_nic_reaches_services_through_its_berth(
    cluster: Cluster, namespace: str, make: Make
) -> None:
    spec: Json = {"overlay": {}, "ipv4": {"range": "10.78.0.0/24"}, "egress": {"type": "NAT"}}
    cluster.apply(network("way-out", **spec), namespace=namespace)
    web = make(tiny("web"))
    web.wait_up(90)
    port: Json = {"port": 80, "targetPort": 80}
    service: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                     "spec": {"selector": {"berth.dev/vm": "web"}, "ports": [port]}}  # fmt: skip
    cluster.apply(service, namespace=namespace)
    helper = both(make, "helper", 0, lan(of="way-out"))
    inner = make(tiny("inner", nics=[lan(of="way-out")], placement=on(1)))
    helper.wait_up(90)
    inner.wait_up(90)
    cluster_ip = (cluster.get(f"/api/v1/namespaces/{namespace}/services/web") or {})["spec"]["clusterIP"]
    (address,) = given(inner)
    reaches(helper, address)

    def fetched() -> bool:
        command = f"wget -T 3 -qO- http://{cluster_ip}/"
        return "boot_id" in helper.shell(f"echo '{command}' | nc -w 10 {address} 7002 || true", 30)

    wait("the inner machine reads from the Service", fetched, 40)


def test_addresses_asked_for_are_given_and_those_of_others_refused(
    cluster: Cluster, namespace: str, office: Json, make: Make
) -> None:
    first = both(make, "first", 0, lan("10.77.0.50"))
    first.wait_up(90)
    assert given(first)[0] == "10.77.0.50"
    has(first, "10.77.0.50")
    second = make(tiny("second", nics=[lan("10.77.0.50")]))
    said = second.wait_condition("NetworkReady", "False", "AddressTaken")
    assert f"{namespace}/first" in said["message"]
    second.patch({"nics": [lan("10.99.0.1")]})
    assert "10.77.0.0/24" in second.wait_condition("NetworkReady", "False", "AddressRefused")["message"]
    third = make(tiny("third", nics=[{"name": "lan", "network": {"name": "nowhere"}}]))
    assert f"{namespace}/nowhere" in third.wait_condition("NetworkReady", "False", "NetworkMissing")["message"]
    second.patch({"nics": [lan("10.77.0.51")]})
    second.wait_phase("Running", 60)


def test_a_nic_comes_and_goes_while_the_guest_runs(cluster: Cluster, namespace: str, office: Json, make: Make) -> None:
    peer, machine = both(make, "peer", 0), make(tiny("machine", nics=[POD], placement=on(1)))
    peer.wait_up(90)
    machine.wait_up(90)
    boot = machine.boot_id()
    machine.patch({"nics": [POD, lan()]})
    wait("it has a lease", lambda: given(machine), 20)
    address = given(machine)[0]
    has(machine, address)
    reaches(peer, address)
    assert machine.status().get("pendingChanges", []) == []
    machine.patch({"nics": [POD]})
    wait("the guest has lost the NIC", lambda: "eth1" not in machine.shell("ls /sys/class/net"), 40, every=0.5)
    wait("its lease is given back", lambda: "machine" not in leases(cluster, namespace), 20)
    machine.patch({"nics": [POD, lan()]})
    has(machine, address)
    assert machine.boot_id() == boot


def test_link_and_bandwidth_change_on_the_running_machine(
    cluster: Cluster, namespace: str, office: Json, make: Make
) -> None:
    peer, machine = both(make, "peer", 0), both(make, "machine", 0)
    peer.wait_up(90)
    machine.wait_up(90)
    address = given(machine)[0]
    reaches(peer, address)
    machine.patch({"nics": [POD, lan(link="Down")]})
    carrier = "cat /sys/class/net/eth1/carrier 2>/dev/null || true"
    wait("the cable is out", lambda: machine.shell(carrier).strip() in ("0", ""), 20, every=0.3)
    assert "100% packet loss" in peer.shell(f"ping -c 2 -W 1 {address} || true")
    machine.patch({"nics": [POD, lan(bandwidth={"outbound": {"rate": "2M", "burst": "16Ki"}})]})
    wait("the cable is in", lambda: machine.shell(carrier).strip() == "1", 20, every=0.3)
    reaches(peer, address)
    limited = seconds_for(peer, address, 1_000_000)
    machine.patch({"nics": [POD, lan()]})
    wait("the limit is off", lambda: seconds_for(peer, address, 1_000_000) < limited / 2, 40)
    assert limited > 3  # a megabyte at two megabits a second takes four


def seconds_for(reader: Machine, address: str, count: int) -> float:
    """How long the guest at that address takes to send so many bytes."""
    began = time.monotonic()
    command = f"echo 'head -c {count} /dev/zero' | nc -w 30 {address} 7002 | wc -c"
    got = int(reader.shell(command, 60).split()[-1])
    assert got >= count
    return time.monotonic() - began


def test_a_network_in_use_is_not_deleted_and_says_by_whom(cluster: Cluster, namespace: str, make: Make) -> None:
    cluster.apply(network("kept"), namespace=namespace)
    machine = make(tiny("machine", nics=[lan(of="kept")]))
    machine.wait_phase("Running", 60)
    cluster.kubectl("delete", "vmnet", "-n", namespace, "kept", "--wait=false")
    path = f"{NETWORKS.format(ns=namespace)}/kept"
    said = wait("it says who uses it", lambda: "machine" in (cluster.get(path) or {})["status"].get("message", ""), 10)
    assert said
    machine.delete()
    wait("it goes with its last machine", lambda: cluster.get(path) is None, 20)


def test_a_bridge_of_the_nodes_and_one_that_is_not_there(cluster: Cluster, namespace: str, make: Make) -> None:
    cluster.on_node(NODES[0], "sh", "-c", "ip link add e2ebr0 type bridge; ip link set e2ebr0 up")
    try:
        cluster.apply(network("lab", bridge={"name": "e2ebr0"}, ipv4={"range": "10.79.0.0/24"}), namespace=namespace)
        alice, bob = both(make, "alice", 0, lan(of="lab")), both(make, "bob", 0, lan(of="lab"))
        alice.wait_up(90)
        bob.wait_up(90)
        reaches(alice, given(bob)[0])
        stranger = make(tiny("stranger", nics=[lan(of="lab")], placement=on(1)))
        said = stranger.wait_condition("NetworkReady", "False", "BridgeMissing", 30)
        assert "e2ebr0" in said["message"]
        for machine in (alice, bob, stranger):
            machine.delete()
    finally:
        cluster.on_node(NODES[0], "ip", "link", "delete", "e2ebr0")


def test_only_who_may_names_a_bridge_of_the_nodes(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("create", "rolebinding", "dev", "-n", namespace, "--clusterrole=edit", "--user=dev")

    def create(manifest: Json) -> str:
        words = ("kubectl", "create", "-n", namespace, "--as=dev", "-f", "-")
        done = cluster.run(*words, stdin=json.dumps(manifest))
        return done.stdout + done.stderr

    assert "created" in create(network("overlay"))
    refused = create(network("lab", bridge={"name": "br0"}))
    assert "berth-node-networks" in refused
    cluster.kubectl("create", "rolebinding", "dev2", "-n", namespace, "--clusterrole=berth-node-networks", "--user=dev")
    wait("the right is there", lambda: "created" in create(network("lab", bridge={"name": "br0"})), 20)


def test_the_whole_network_is_shown_by_one_command(cluster: Cluster, namespace: str, office: Json, make: Make) -> None:
    machine = both(make, "machine", 0)
    machine.wait_up(90)
    shown = cluster.berth("net", "machine", "-n", namespace).stdout
    assert given(machine)[0] in shown
    assert "berth: rules" in shown
    assert "segments: who is where" in shown
