"""Turns the topology into ip(8) commands for the bridge, the cables and the routes, and takes them away again.

IPv6 stays within the cluster: to let it out, the host would have to forward it, and a host that forwards no longer
takes its own address from its router. Called by apply.py and teardown.py. It touches only links and namespaces that
carry the testbed's own names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from testbed import shell
from testbed.cluster import flannel, layout
from testbed.settings import Settings
from testbed.topology import Node, Topology


def make_bridge(settings: Settings, topology: Topology) -> None:
    """The host's side: a bridge with the gateway address, and a way out for pods and nodes."""
    bridge = layout.bridge(settings)
    if bridge not in links():
        shell.run(["ip", "link", "add", bridge, "type", "bridge"])
    shell.run(["ip", "addr", "replace", f"{topology.gateway}/{topology.node_prefix}", "dev", bridge])
    if topology.gateway6:
        shell.run(["ip", "addr", "replace", f"{topology.gateway6}/64", "dev", bridge, "nodad"])
    shell.run(["ip", "link", "set", bridge, "up"])
    shell.run(["nft", "-f", "-"], stdin=host_rules(settings, topology))


def host_rules(settings: Settings, topology: Topology) -> str:
    """An nftables table of our own: masquerade what leaves the cluster."""
    bridge, table = layout.bridge(settings), layout.cgroup(settings)
    sources = f"{{ {_link_subnet(topology)}, {topology.pod_cidr} }}"
    return f"""\
table ip {table} {{}}
delete table ip {table}
table ip {table} {{
  chain out {{
    type nat hook postrouting priority 100;
    ip saddr {sources} ip daddr != {sources} oifname != "{bridge}" masquerade
  }}
}}
"""


def make_node(settings: Settings, topology: Topology, node: Node) -> None:
    """A network namespace with one cable to the bridge, and routes to the pods of every other node."""
    cable = layout.cable(settings, node.ordinal)
    if node.name not in namespaces():
        shell.run(["ip", "netns", "add", node.name])
    if cable not in links():
        shell.run(["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", node.name])
    inside = ["ip", "netns", "exec", node.name]
    # A pod's gateway address must answer at once, not after the second in which it looks for a duplicate.
    shell.run([*inside, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.forwarding=1"])
    shell.run([*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
    host = f"link set {cable} master {layout.bridge(settings)} up\n{_routes((node,))}"
    shell.run(["ip", "-batch", "-"], stdin=host)
    others = [] if flannel.chosen(settings) else [other for other in topology.nodes if other.name != node.name]
    shell.run(["ip", "-n", node.name, "-batch", "-"], stdin=_node_commands(topology, node, others))
    shell.run([*inside, "nft", "-f", "-"], stdin=node_rules(topology, node))


def _node_commands(topology: Topology, node: Node, others: Iterable[Node]) -> str:
    six = f"addr replace {node.address6}/64 dev eth0 nodad\n" if node.address6 else ""
    # A Service's address is replaced on the way out, but only of packets that have a way.
    services = f"route replace {topology.service_cidr6} via {topology.gateway6}\n" if node.address6 else ""
    return (
        "link set lo up\n"
        f"addr replace {node.address}/{topology.node_prefix} dev eth0\n{six}"
        "link set eth0 up\n"
        f"route replace default via {topology.gateway}\n{services}" + _routes(others)
    )


def _routes(nodes: Iterable[Node]) -> str:
    pairs = [pair for node in nodes for pair in zip(node.pod_cidrs, node.addresses, strict=True)]
    return "".join(f"route replace {subnet} via {address}\n" for subnet, address in pairs)


def node_rules(topology: Topology, node: Node) -> str:
    """Pods keep their address inside the cluster and take the node's towards the rest of the world."""
    inside = f"{{ {_link_subnet(topology)}, {topology.pod_cidr}, {topology.service_cidr} }}"
    return f"""\
table ip berth-testbed {{}}
delete table ip berth-testbed
table ip berth-testbed {{
  chain out {{
    type nat hook postrouting priority 100;
    ip saddr {node.pod_cidr} ip daddr != {inside} masquerade
  }}
}}
"""


def remove_node(settings: Settings, node: str, ordinal: int) -> None:
    """Take a node's namespace and cable away; both may be gone already."""
    if layout.cable(settings, ordinal) in links():
        shell.run(["ip", "link", "del", layout.cable(settings, ordinal)])
    if node in namespaces():
        shell.run(["ip", "netns", "del", node])


def remove_bridge(settings: Settings) -> None:
    """Take the bridge (its routes go with it) and the host's rules away."""
    if layout.bridge(settings) in links():
        shell.run(["ip", "link", "del", layout.bridge(settings)])
    shell.quiet(["nft", "delete", "table", "ip", layout.cgroup(settings)])


def links() -> set[str]:
    """Names of all links of the host."""
    return {entry["ifname"] for entry in _json(["ip", "-json", "link", "show"])}


def namespaces() -> set[str]:
    """Names of all named network namespaces."""
    return {entry["name"] for entry in _json(["ip", "-json", "netns", "list"])}


def proxy_mode() -> str:
    """nftables where the kernel has what kube-proxy needs (fib), iptables elsewhere; asked without a trace."""
    probe = "table ip berth-probe { chain c { type nat hook prerouting priority 0; fib daddr type local return; }; }"
    return "nftables" if shell.quiet(["unshare", "-n", "nft", "-f", "-"], stdin=probe) else "iptables"


def _link_subnet(topology: Topology) -> str:
    return f"{topology.gateway.rpartition('.')[0]}.0/{topology.node_prefix}"


def _json(command: list[str]) -> list[dict[str, Any]]:
    return json.loads(shell.run(command) or "[]") or []
