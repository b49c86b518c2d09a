"""Turns the topology into the text of every configuration file. Pure: golden-testable, writes nothing.

apply.py writes what this returns; a changed text changes the digest of the process that reads it, which restarts it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import yaml

from testbed.cluster import layout
from testbed.topology import Node, Topology


def kubeconfig(server: str, authority: bytes, certificate: bytes, key: bytes, *, name: str = "berth") -> str:
    """A self-contained kubeconfig: it works from any folder and inside a node's namespaces."""

    def encoded(raw: bytes) -> str:
        return base64.b64encode(raw).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": encoded(authority)}}],
        "users": [
            {"name": name, "user": {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}}
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return yaml.safe_dump(config, sort_keys=False)


def kubelet(node: Node, topology: Topology, cgroup_root: str) -> str:
    """Kubelet's configuration; the comments in code say which machine needed which line."""
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "healthzBindAddress": node.address,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,  # machines with cgroup v1 are supported on purpose
        "failSwapOn": False,
        "oomScoreAdj": 0,  # lowering it needs CAP_SYS_RESOURCE, which containers and microVMs often lack
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.NODE_FILES / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{layout.CONTAINERD_SOCKET}",
        "tlsCertFile": str(layout.NODE_FILES / "kubelet.crt"),
        "tlsPrivateKeyFile": str(layout.NODE_FILES / "kubelet.key"),
        "clusterDomain": "cluster.local",
        "clusterDNS": list(topology.dns_services),
        "resolvConf": "/etc/resolv.conf",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",  # the default lies in /usr, which all nodes share
        "imageGCHighThresholdPercent": 100,  # images were imported and cannot be pulled again
        "evictionHard": {"memory.available": "100Mi"},
        "serializeImagePulls": False,
        "maxPods": 240,
        "syncFrequency": "1m0s",
        # Tests kill containers on purpose: by default each start would wait longer than the one before, up to minutes.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
    }
    return yaml.safe_dump(config, sort_keys=False)


def containerd() -> str:
    """containerd's configuration, the same on every node because each node has its own file system view."""
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
# opt and NRI would make folders in /opt, which all nodes share.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]

[grpc]
  address = "{layout.CONTAINERD_SOCKET}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{layout.PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{layout.CNI_PLUGINS}", "{layout.NODE_PLUGINS}"]
    conf_dir = "{layout.NODE_FILES}/cni"
"""


def addresses(node: Node) -> dict[str, Any]:
    """The node's own part of the pods' addresses."""
    return {
        "type": "host-local",
        "dataDir": "/run/cni-ipam",  # in memory: addresses of a node that was switched off are free again
        "ranges": [[{"subnet": subnet}] for subnet in node.pod_cidrs],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in node.pod_cidrs],
    }


def routed(node: Node) -> dict[str, Any]:
    """Routed pairs, so that Services work between pods of one node without br_netfilter."""
    return {"type": "ptp", "ipMasq": False, "ipam": addresses(node)}


def network(node: Node, plugin: Mapping[str, Any], topology: Topology, api_port: int) -> str:
    """The node's CNI chain around the plugin that makes the pod's interface."""
    chain = {
        "cniVersion": "1.0.0",
        "name": "testbed",
        "plugins": [
            {"type": "no-dad"},
            plugin,
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {
                "type": "attach",
                "capabilities": {"io.kubernetes.cri.pod-annotations": True},
                "server": f"https://{topology.gateway}:{api_port}",
                "files": str(layout.NODE_FILES),
            },
        ],
    }
    return json.dumps(chain, indent=2) + "\n"


# A CNI plugin that makes nothing: it only spares pods the two seconds in which their network namespace would ask for
# duplicates of IPv6 addresses that IPAM gives out once.
NO_DAD = """\
#!/bin/sh
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
ADD)
    nsenter --net="$CNI_NETNS" sysctl -qw net.ipv6.conf.default.accept_dad=0 >&2 || exit 1
    echo '{"cniVersion": "1.0.0"}'
    ;;
esac
"""


def kube_proxy(node: Node, topology: Topology, mode: str) -> str:
    """kube-proxy for one node; `mode` is what this kernel can do (see apply.py)."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "clientConnection": {"kubeconfig": str(layout.NODE_FILES / "kube-proxy.kubeconfig")},
        "clusterCIDR": ",".join(topology.pod_cidrs),
        "hostnameOverride": node.name,
        "healthzBindAddress": f"{node.address}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        # These limits belong to the host; a network namespace may not set them.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
        "nftables": {"minSyncPeriod": "0s", "syncPeriod": "30s"},
    }
    return yaml.safe_dump(config, sort_keys=False)


def hosts(topology: Topology, node: Node) -> str:
    """A node's /etc/hosts. libvirt waits 10 s at each start of a guest when its own host name does not resolve."""
    others = "".join(f"{address} {other.name}\n" for other in topology.nodes for address in other.addresses)
    control = "".join(f"{gateway} {topology.name}-control-plane\n" for gateway in topology.gateways)
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{others}{control}"


def resolv_conf(host_text: str) -> str:
    """The host's name servers without those on loopback addresses: a node has its own loopback."""
    lines = [line for line in host_text.splitlines() if not line.startswith(("nameserver 127.", "nameserver ::1"))]
    return "\n".join(lines) + "\n"


def corefile(topology: Topology, kubeconfig: str, port: int, health_port: int) -> str:
    """The cluster's DNS: names of Services and pods, everything else as the host resolves it."""
    return f"""\
.:{port} {{
  bind {" ".join(topology.gateways)}
  health 127.0.0.1:{health_port} {{
    lameduck 0s
  }}
  errors
  cache 5
  kubernetes cluster.local in-addr.arpa ip6.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    fallthrough in-addr.arpa ip6.arpa
  }}
  forward . /etc/resolv.conf
}}
"""
