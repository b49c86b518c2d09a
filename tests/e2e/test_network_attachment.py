"""A guest on a NetworkAttachmentDefinition: what Multus adds to the berth's pod is the guest's."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator

import pytest

from testbed.kube import Cluster, Json, Machine, tiny, wait

Make = Callable[..., Machine]
STATUS = "k8s.v1.cni.cncf.io/network-status"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/network-attachment-definitions.k8s.cni.cncf.io"


@pytest.fixture
def node(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A node with the network `blue` on it: a bridge of its own, addresses of both families."""
    assert cluster.get(DEFINITIONS), "this cluster has no Multus: install it, or use the built-in cluster"
    name, bridge = str(cluster.items("/api/v1/nodes")[0]["metadata"]["name"]), f"br-{namespace[-8:]}"
    ranges = [[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd78::/64"}]]
    ipam = {"type": "host-local", "dataDir": f"/run/cni-ipam/{namespace}", "ranges": ranges}
    plugin = {"cniVersion": "1.0.0", "name": "blue", "type": "bridge", "bridge": bridge, "ipam": ipam}
    body: Json = {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition"}
    cluster.apply({**body, "metadata": {"name": "blue"}, "spec": {"config": json.dumps(plugin)}}, namespace=namespace)
    yield name
    cluster.on_node(name, "sh", "-c", f"ip link del {bridge}; rm -rf /run/cni-ipam/{namespace}")


def attached(pod: Json) -> Json:
    """What the second interface of a pod is, as the pod says."""
    found: Json = json.loads(pod["metadata"]["annotations"][STATUS])[1]
    return found


def neighbour(cluster: Cluster, namespace: str, node: str) -> Json:
    """A plain pod on the same network."""
    container = {"name": "main", "image": "ghcr.io/berth-dev/testtools:dev", "imagePullPolicy": "IfNotPresent"}
    metadata = {"name": "neighbour", "annotations": {"k8s.v1.cni.cncf.io/networks": "blue"}}
    spec = {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, namespace=namespace)
    words = ("wait", "--for=condition=Ready", "-n", namespace, "pod/neighbour", "--timeout=60s")
    cluster.kubectl(*words, seconds=70)
    return cluster.get(f"/api/v1/namespaces/{namespace}/pods/neighbour") or {}


@pytest.mark.timeout(240)
def test_what_multus_adds_to_the_pod_is_the_guests(cluster: Cluster, namespace: str, node: str, make: Make) -> None:
    nics: list[Json] = [{"name": "default", "pod": {}}, {"name": "blue", "multus": {"name": "blue"}}]
    vm = make(tiny("second", nics=nics, placement={"nodeSelector": {"kubernetes.io/hostname": node}}))
    vm.wait_up(90)
    mine, theirs = attached(vm.berth() or {}), attached(neighbour(cluster, namespace, node))
    assert mine["interface"] == "net1"
    for address in mine["ips"]:
        wait(f"the guest has {address}", lambda a=address: f" {a}/" in vm.shell("ip addr show eth1"), 60)  # type: ignore[misc]
    assert vm.shell("cat /sys/class/net/eth1/address").strip() == mine["mac"]
    for address in theirs["ips"]:
        ping = "ping6" if ":" in address else "ping"
        wait(f"{address} answers", lambda a=address, p=ping: " 0% packet loss" in vm.shell(f"{p} -c1 -W2 {a}||:"), 20)  # type: ignore[misc]
    for address in mine["ips"]:
        family = f"-{ipaddress.ip_address(address).version}"
        words = ("exec", "-n", namespace, "neighbour", "--", "ping", family, "-c", "1", "-W", "3", address)
        wait(f"the guest answers at {address}", lambda w=words: cluster.run("kubectl", *w).returncode == 0, 20)  # type: ignore[misc]
    assert cluster.berth("restart", "second", "-n", namespace, "--wait").returncode == 0
    vm.wait_up(90)
    assert attached(vm.berth() or {})["mac"] == mine["mac"], "the MAC address stays"
    cluster.kubectl("delete", "pod", "-n", namespace, "neighbour")
    vm.delete("--timeout=60s")
    folder = f"/run/cni-ipam/{namespace}/blue"
    left = cluster.on_node(node, "sh", "-c", f"ls {folder} | grep -E '^(10|fd)' || true")
    assert not left.strip(), "the addresses are given back"


@pytest.mark.timeout(120)
def test_an_attachment_that_does_not_exist_is_named(cluster: Cluster, namespace: str, make: Make) -> None:
    vm = make(tiny("lost", nics=[{"name": "blue", "multus": {"name": "nowhere"}}]))

    def said() -> bool:
        return "nowhere" in json.dumps(vm.status().get("conditions", ""))

    wait("the machine says which network is missing", said, 60)
