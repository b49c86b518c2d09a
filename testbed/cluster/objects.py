"""The objects every cluster of ours begins with: the default StorageClass and each node's pod subnet. Pure values."""

from __future__ import annotations

from typing import Any

from testbed.cluster import api, ready
from testbed.topology import Node, Topology

PROVISIONER = "berth.dev/testbed-volumes"


def storage_class() -> dict[str, Any]:
    """Volumes are folders on one node, so they wait for the scheduler's choice."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def publish(client: api.Client, topology: Topology, deadline: float = 60.0) -> None:
    """Write the base objects, give each node its pod subnet, wait until all are Ready."""
    client.apply("/apis/storage.k8s.io/v1/storageclasses/standard", storage_class())
    names = [node.name for node in topology.nodes]
    ready.until(
        lambda: set(names) <= set(_nodes(client)),
        deadline,
        lambda: f"nodes registered: {sorted(_nodes(client))}, wanted: {names}",
    )
    # Until the controller manager has made it, pods in the namespace are refused.
    ready.until(lambda: _has_account(client), deadline, lambda: "the service account `default` was not made")
    for node in topology.nodes:
        _set_subnet(client, node)
    ready.until(lambda: all(_is_ready(client, name) for name in names), deadline, lambda: _not_ready(client, names))


def _set_subnet(client: api.Client, node: Node) -> None:
    spec = _nodes(client)[node.name]["spec"]
    if "podCIDR" not in spec:
        body = {"spec": {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]}}
        client.merge(f"/api/v1/nodes/{node.name}", body)


def _has_account(client: api.Client) -> bool:
    accounts = client.get("/api/v1/namespaces/default/serviceaccounts")["items"]
    return any(account["metadata"]["name"] == "default" for account in accounts)


def _nodes(client: api.Client) -> dict[str, Any]:
    return {node["metadata"]["name"]: node for node in client.get("/api/v1/nodes")["items"]}


def ready_condition(node: Any) -> dict[str, Any]:
    """A node's Ready condition, or an empty one."""
    conditions = node.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "Ready"), {"status": "Unknown", "message": "no condition yet"})


def _is_ready(client: api.Client, name: str) -> bool:
    return bool(ready_condition(_nodes(client)[name])["status"] == "True")


def _not_ready(client: api.Client, names: list[str]) -> str:
    found = _nodes(client)
    lines = [f"node {name}: {ready_condition(found[name]).get('message', '')}" for name in names]
    return "nodes are not Ready; read the kubelet's logs in the state folder\n" + "\n".join(lines)
