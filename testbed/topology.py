"""Turns kind-config.yaml into the nodes, addresses and subnets of the built-in cluster. Pure.

kind reads the same file, so both clusters have the same shape. What the built-in cluster cannot do is refused here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from testbed import errors

MAX_WORKERS = 9


@dataclass(frozen=True, slots=True)
class Node:
    """One worker: `ordinal` counts from 1 and gives its address and pod subnet."""

    name: str
    ordinal: int
    address: str
    pod_cidr: str
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole cluster: the control plane lives on the host, the workers in namespaces of their own."""

    name: str
    gateway: str
    node_prefix: int
    pod_cidr: str
    service_cidr: str
    nodes: tuple[Node, ...]

    @property
    def api_service(self) -> str:
        """The ClusterIP of the API server: always the first address of the service subnet."""
        return self._service_address(1)

    @property
    def dns_service(self) -> str:
        return self._service_address(10)

    def node(self, name: str) -> Node:
        """Find a node by its name; a suffix such as `worker2` is enough when it is unique."""
        found = [n for n in self.nodes if n.name == name] or [n for n in self.nodes if n.name.endswith(f"-{name}")]
        if len(found) == 1:
            return found[0]
        raise errors.TestbedError(f"node {name!r} is unknown; the nodes are {', '.join(n.name for n in self.nodes)}")

    def _service_address(self, offset: int) -> str:
        return str(ipaddress.ip_network(self.service_cidr)[offset])


def parse(text: str, index: int = 0) -> Topology:
    """Read kind's configuration; `index` moves names and addresses so that several testbeds fit on one machine."""
    config = yaml.safe_load(text)
    if not isinstance(config, Mapping) or config.get("kind") != "Cluster":
        raise errors.BadTopology("kind-config.yaml: kind: must be Cluster")
    networking = config.get("networking") or {}
    name = f"{config.get('name', 'kind')}{index or ''}"
    pods = _shifted(networking.get("podSubnet", "10.244.0.0/16"), "networking.podSubnet", index)
    services = _subnet(networking.get("serviceSubnet", "10.96.0.0/16"), "networking.serviceSubnet")
    links = ipaddress.IPv4Network(f"10.{200 + index}.0.0/24")
    return Topology(
        name=name,
        gateway=str(links[1]),
        node_prefix=links.prefixlen,
        pod_cidr=str(pods),
        service_cidr=str(services),
        nodes=_workers(config.get("nodes") or [], name, links, pods),
    )


def _workers(
    entries: list[Mapping[str, object]], cluster: str, links: ipaddress.IPv4Network, pods: ipaddress.IPv4Network
) -> tuple[Node, ...]:
    roles = [entry.get("role") for entry in entries]
    if roles.count("control-plane") != 1:
        raise errors.BadTopology(f"kind-config.yaml: nodes: exactly one control-plane is needed, given {roles}")
    workers = [entry for entry in entries if entry.get("role") == "worker"]
    if not 1 <= len(workers) <= MAX_WORKERS:
        raise errors.BadTopology(
            f"kind-config.yaml: nodes: 1 to {MAX_WORKERS} workers are possible, given {len(workers)}"
        )
    subnets = list(pods.subnets(new_prefix=24))
    return tuple(
        Node(
            name=f"{cluster}-worker{ordinal if ordinal > 1 else ''}",
            ordinal=ordinal,
            address=str(links[10 + ordinal]),
            pod_cidr=str(subnets[ordinal]),
            labels=_labels(entry),
        )
        for ordinal, entry in enumerate(workers, start=1)
    )


def _labels(entry: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    labels = entry.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise errors.BadTopology(f"kind-config.yaml: nodes[].labels: a mapping is needed, given {labels!r}")
    return tuple(sorted((str(key), str(value)) for key, value in labels.items()))


def _subnet(text: object, path: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(str(text))
    except ValueError as error:
        raise errors.BadTopology(f"kind-config.yaml: {path}: an IPv4 subnet is needed, given {text!r}") from error


def _shifted(text: object, path: str, index: int) -> ipaddress.IPv4Network:
    subnet = _subnet(text, path)
    if subnet.prefixlen > 20:
        raise errors.BadTopology(
            f"kind-config.yaml: {path}: a /20 or larger is needed (a /24 for each node), given {text!r}"
        )
    return ipaddress.IPv4Network((int(subnet.network_address) + index * subnet.num_addresses, subnet.prefixlen))
