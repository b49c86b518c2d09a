"""The second pod network: flannel's VXLAN between the nodes instead of routes, a bridge on each instead of pairs.

Chosen with BERTH_CNI=flannel at the first `up` of a cluster; a note beside its data keeps the choice. flannel's own CNI
plugin only turns what flanneld found out into the bridge plugin's configuration, which is known here beforehand.
"""

from __future__ import annotations

import json
from typing import Any

from testbed import errors, files
from testbed.cluster import configs, layout
from testbed.cluster.units import Http, Inputs, Unit
from testbed.settings import Settings
from testbed.topology import Node, Topology

MTU = 1430  # of VXLAN over IPv6, the larger head
HEALTH_PORT = 10294


def chosen(settings: Settings) -> bool:
    """Whether the cluster that is there, or else the one to be made, has it."""
    noted = files.read(settings.data / "cni")
    return (noted or settings.cni) == "flannel"


def keep(settings: Settings) -> None:
    """Note the choice of a new cluster. One that is there keeps its own: its pods are wired."""
    note, is_new = settings.data / "cni", not settings.pki.exists()
    noted = files.read(note) or ("" if is_new else "plain")
    if settings.cni != "plain" and noted and noted != settings.cni:
        raise errors.TestbedError(f"BERTH_CNI={settings.cni}: the cluster was made with {noted}; run `down` first")
    files.write_if_changed(note, noted or settings.cni)


def configuration(topology: Topology) -> str:
    """What flanneld reads; each node's own part it takes from the Node object."""
    six = {"EnableIPv6": True, "IPv6Network": topology.pod_cidr6} if topology.pod_cidr6 else {}
    return json.dumps({"Network": topology.pod_cidr, **six, "Backend": {"Type": "vxlan"}}) + "\n"


def bridged(node: Node) -> dict[str, Any]:
    """What flannel's CNI plugin would hand to the bridge plugin."""
    return {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "mtu": MTU,
        "ipam": configs.addresses(node),
    }


# flanneld ends when its node has no part of the pods' addresses yet; it is registered and given it at any moment.
WAIT = 'until "$1" "--kubeconfig=$2" patch node "$NODE_NAME" -p "$3"; do sleep 0.2; done; shift 3; exec "$@"'


def unit(inputs: Inputs, node: Node) -> Unit:
    part = json.dumps({"spec": {"podCIDR": node.pod_cidr, "podCIDRs": list(node.pod_cidrs)}})
    kubeconfig = f"{layout.NODE_FILES}/flannel.kubeconfig"
    argv = (
        *("sh", "-c", WAIT, "flannel", inputs.node("kubectl"), kubeconfig, part),
        inputs.node("flannel"),
        "-kube-subnet-mgr",
        f"-kubeconfig-file={kubeconfig}",
        f"-net-config-path={layout.NODE_FILES}/flannel.json",
        "-iface=eth0",
        f"-public-ip={node.address}",
        *((f"-public-ipv6={node.address6}",) if node.address6 else ()),
        f"-healthz-ip={node.address}",
        f"-healthz-port={HEALTH_PORT}",
    )
    probe = Http(f"http://{node.address}:{HEALTH_PORT}/healthz")
    environment = (("NODE_NAME", node.name),)
    text = configuration(inputs.topology)
    return Unit(f"flannel@{node.name}", argv, probe, node.name, ("kube-apiserver",), text, environment)
