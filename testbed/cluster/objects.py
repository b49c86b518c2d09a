"""The objects every cluster of ours begins with: StorageClass, DNS and metrics Services, each node's pod subnet.

Services without selectors point at the host, where their servers run. Called by apply.py after everything is started.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from testbed.cluster import api, layout, ready
from testbed.settings import Settings
from testbed.topology import Node, Topology

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
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


def service(name: str, addresses: Sequence[str], ports: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """A Service in kube-system whose server runs on the host; `ports` are (name, protocol, port)."""
    families = "RequireDualStack" if len(addresses) > 1 else "SingleStack"
    fixed = {"clusterIP": addresses[0], "clusterIPs": [*addresses], "ipFamilyPolicy": families} if addresses else {}
    entries = [{"name": n, "protocol": protocol, "port": port} for n, protocol, port in ports]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"ports": entries, **fixed},
    }


def endpoints(name: str, address: str, ports: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """Where that Service's server listens."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-6" if ":" in address else name,
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "berth-testbed"},
        },
        "addressType": "IPv6" if ":" in address else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": n, "protocol": protocol, "port": port} for n, protocol, port in ports],
    }


def metrics_api(authority: bytes) -> dict[str, Any]:
    """Sends metrics.k8s.io (`kubectl top`, autoscaling) to the metrics server."""
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "service": {"name": "metrics-server", "namespace": "kube-system"},
            "caBundle": base64.b64encode(authority).decode(),
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }


def attachment_definitions() -> dict[str, Any]:
    """NetworkAttachmentDefinition, as Multus installs it; go/attach reads it here."""
    names = {"plural": "network-attachment-definitions", "singular": "network-attachment-definition",
             "kind": "NetworkAttachmentDefinition", "shortNames": ["net-attach-def"]}  # fmt: skip
    spec = {"type": "object", "properties": {"config": {"type": "string"}}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "network-attachment-definitions.k8s.cni.cncf.io"},
        "spec": {
            "group": "k8s.cni.cncf.io",
            "scope": "Namespaced",
            "names": names,
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }


def base(settings: Settings, topology: Topology) -> dict[str, dict[str, Any]]:
    """Every base object by the path it is written to."""
    system, slices = (
        "/api/v1/namespaces/kube-system/services",
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
    )
    dns, metrics = layout.dns_port(settings), layout.metrics_port(settings)
    dns_service = service("kube-dns", topology.dns_services, [("dns", "UDP", 53), ("dns-tcp", "TCP", 53)])
    dns_ports = [("dns", "UDP", dns), ("dns-tcp", "TCP", dns)]
    dns_endpoints = [endpoints("kube-dns", gateway, dns_ports) for gateway in topology.gateways]
    return {
        "/apis/storage.k8s.io/v1/storageclasses/standard": storage_class(),
        f"{system}/kube-dns": dns_service,
        f"{DEFINITIONS}/network-attachment-definitions.k8s.cni.cncf.io": attachment_definitions(),
        **{f"{slices}/{found['metadata']['name']}": found for found in dns_endpoints},
        f"{system}/metrics-server": service("metrics-server", (), [("https", "TCP", 443)]),
        f"{slices}/metrics-server": endpoints("metrics-server", topology.gateway, [("https", "TCP", metrics)]),
        "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io": metrics_api(
            (settings.pki / "ca.crt").read_bytes()
        ),
    }


def publish(client: api.Client, settings: Settings, topology: Topology, deadline: float = 60.0) -> None:
    """Write the base objects, give each node its pod subnet, wait until all are Ready."""
    ready.until(lambda: _exists(client, "kube-system"), deadline, lambda: "the namespace kube-system was not made")
    for path, body in base(settings, topology).items():
        client.apply(path, body)
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
        body = {"spec": {"podCIDR": node.pod_cidr, "podCIDRs": list(node.pod_cidrs)}}
        client.merge(f"/api/v1/nodes/{node.name}", body)


def _exists(client: api.Client, namespace: str) -> bool:
    return any(item["metadata"]["name"] == namespace for item in client.get("/api/v1/namespaces")["items"])


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
