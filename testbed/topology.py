"""Turns kind-config.yaml into the nodes, addresses and subnets of the built-in cluster. Pure.

kind reads the same file, so both clusters have the same shape. What the built-in cluster cannot do is refused here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import yaml

from testbed import errors

MAX_WORKERS = 9
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Node:
    """One worker: `ordinal` counts from 1 and gives its addresses and pod subnets. Without IPv6 those are empty."""

    name: str
    ordinal: int
    address: str
    pod_cidr: str
    address6: str = ""
    pod_cidr6: str = ""
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of each family the cluster has, IPv4 first."""
        return tuple(filter(None, (self.address, self.address6)))

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.pod_cidr, self.pod_cidr6)))


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole cluster: the control plane lives on the host, the workers in namespaces of their own."""

    name: str
    gateway: str
    node_prefix: int
    pod_cidr: str
    service_cidr: str
    nodes: tuple[Node, ...]
    gateway6: str = ""
    pod_cidr6: str = ""
    service_cidr6: str = ""

    @property
    def gateways(self) -> tuple[str, ...]:
        """The host's address of each family the cluster has, IPv4 first; so with the others."""
        return tuple(filter(None, (self.gateway, self.gateway6)))

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.pod_cidr, self.pod_cidr6)))

    @property
    def service_cidrs(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.service_cidr, self.service_cidr6)))

    @property
    def dns_services(self) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_network(cidr)[10]) for cidr in self.service_cidrs)

    @property
    def api_service(self) -> str:
        """The ClusterIP of the API server: always the first address of the service subnet."""
        return str(ipaddress.ip_network(self.service_cidr)[1])

    def node(self, name: str) -> Node:
        """Find a node by its name; a suffix such as `worker2` is enough when it is unique."""
        found = [n for n in self.nodes if n.name == name] or [n for n in self.nodes if n.name.endswith(f"-{name}")]
        if len(found) == 1:
            return found[0]
        raise errors.TestbedError(f"node {name!r} is unknown; the nodes are {', '.join(n.name for n in self.nodes)}")


def parse(text: str, index: int = 0) -> Topology:
    """Read kind's configuration; `index` moves names and addresses so that several testbeds fit on one machine."""
    config = yaml.safe_load(text)
    if not isinstance(config, Mapping) or config.get("kind") != "Cluster":
        raise errors.BadTopology("kind-config.yaml: kind: must be Cluster")
    networking = config.get("networking") or {}
    name = f"{config.get('name', 'kind')}{index or ''}"
    pods, pods6 = _pair(networking, "podSubnet", "10.244.0.0/16", "fd00:10:244::/56")
    services, services6 = _pair(networking, "serviceSubnet", "10.96.0.0/16", "fd00:10:96::/112")
    links, links6 = f"10.{200 + index}.0", f"fd00:10:{200 + index}:"
    pods, pods6 = _shifted(pods, 20, index), pods6 and _shifted(pods6, 60, index)
    return Topology(
        name=name,
        gateway=f"{links}.1",
        node_prefix=24,
        pod_cidr=str(pods),
        service_cidr=str(services),
        nodes=_workers(config.get("nodes") or [], name, (links, links6), (pods, pods6)),
        gateway6=f"{links6}:1" if pods6 else "",
        pod_cidr6=str(pods6 or ""),
        service_cidr6=str(services6 or ""),
    )


def _workers(
    entries: list[Mapping[str, object]], cluster: str, links: tuple[str, str], pods: tuple[Subnet, Subnet | None]
) -> tuple[Node, ...]:
    roles = [entry.get("role") for entry in entries]
    if roles.count("control-plane") != 1:
        raise errors.BadTopology(f"kind-config.yaml: nodes: exactly one control-plane is needed, given {roles}")
    workers = [entry for entry in entries if entry.get("role") == "worker"]
    if not 1 <= len(workers) <= MAX_WORKERS:
        raise errors.BadTopology(
            f"kind-config.yaml: nodes: 1 to {MAX_WORKERS} workers are possible, given {len(workers)}"
        )
    subnets = list(pods[0].subnets(new_prefix=24))
    subnets6 = list(pods[1].subnets(new_prefix=64)) if pods[1] else []
    return tuple(
        Node(
            name=f"{cluster}-worker{ordinal if ordinal > 1 else ''}",
            ordinal=ordinal,
            address=f"{links[0]}.{10 + ordinal}",
            pod_cidr=str(subnets[ordinal]),
            address6=f"{links[1]}:{10 + ordinal}" if subnets6 else "",
            pod_cidr6=str(subnets6[ordinal]) if subnets6 else "",
            labels=_labels(entry),
        )
        for ordinal, entry in enumerate(workers, start=1)
    )


def _labels(entry: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    labels = entry.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise errors.BadTopology(f"kind-config.yaml: nodes[].labels: a mapping is needed, given {labels!r}")
    return tuple(sorted((str(key), str(value)) for key, value in labels.items()))


def _pair(networking: Mapping[str, object], key: str, usual: str, usual6: str) -> tuple[Subnet, Subnet | None]:
    """An IPv4 subnet and, where ipFamily is dual, an IPv6 one, written in one line as kind wants them."""
    family = networking.get("ipFamily", "ipv4")
    if family not in ("ipv4", "dual"):
        raise errors.BadTopology(f"kind-config.yaml: networking.ipFamily: ipv4 or dual is needed, given {family!r}")
    four, six = ipaddress.IPv4Network, ipaddress.IPv6Network
    wanted: tuple[Callable[[str], Subnet], ...] = (four, six) if family == "dual" else (four,)
    text = str(networking.get(key, f"{usual},{usual6}" if family == "dual" else usual))
    try:
        pairs = zip(wanted, text.split(","), strict=True)
        found = [kind(part.strip()) for kind, part in pairs]
    except ValueError as error:
        needed = " and an IPv6 subnet, with a comma between," if family == "dual" else " subnet"
        raise errors.BadTopology(
            f"kind-config.yaml: networking.{key}: an IPv4{needed} is needed, given {text!r}"
        ) from error
    return found[0], found[1] if len(found) > 1 else None


def _shifted(subnet: Subnet, largest: int, index: int) -> Subnet:
    """The pods' subnet of a further testbed lies right after the one before."""
    if subnet.prefixlen > largest:
        each = "a /24" if subnet.version == 4 else "a /64"
        raise errors.BadTopology(
            f"kind-config.yaml: networking.podSubnet: a /{largest} or larger is needed ({each} for each node),"
            f" given '{subnet}'"
        )
    return type(subnet)((int(subnet.network_address) + index * subnet.num_addresses, subnet.prefixlen))
