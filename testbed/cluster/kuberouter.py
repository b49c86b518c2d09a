"""A policy engine that others made, on clusters with the second pod network: kube-router's firewall alone, for IPv4.

Elsewhere our own small engine (testbed/policy) enforces policies: what guests go through must not be right only because
both ends of the test are ours. Of IPv6 this version of kube-router loads no rules (they name its sets without the
prefix that those have): on these clusters, too, ours has that family.
"""

from __future__ import annotations

from testbed.cluster import layout
from testbed.cluster.units import Http, Inputs, Unit
from testbed.topology import Node

HEALTH_PORT = 20244


def unit(inputs: Inputs, node: Node) -> Unit:
    argv = (
        inputs.node("kube-router"),
        "--run-firewall",
        "--run-router=false",
        "--run-service-proxy=false",
        f"--kubeconfig={layout.NODE_FILES}/flannel.kubeconfig",
        f"--hostname-override={node.name}",
        f"--service-cluster-ip-range={inputs.topology.service_cidrs[0]}",
        f"--health-port={HEALTH_PORT}",
    )
    probe = Http(f"http://{node.address}:{HEALTH_PORT}/healthz")
    return Unit(f"kube-router@{node.name}", argv, probe, node.name, ("kube-apiserver", f"flannel@{node.name}"))
