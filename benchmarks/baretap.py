"""What a guest's network carries with nothing of Berth's around it: the same domain, its tap bare on the node.

Called by network.py. libvirt starts the domain as one of its own (start.py makes its XML); the client runs beside it in
the node's network, and speaks to the address that the guest makes of its MAC address: nobody gives it another.
"""

from __future__ import annotations

import ipaddress
import re

from benchmarks import baredomain, start
from testbed.kube import Cluster, Machine, tiny

TAP = "bare0"
CONSOLE = "/var/log/libvirt/bare.console"
RUN = f"""
set -e
cat >/tmp/bare.xml
rm -f {CONSOLE}
virsh -q create /tmp/bare.xml
trap 'virsh -q destroy bare' EXIT
for i in $(seq 600); do grep -q '{start.LINE}' {CONSOLE} 2>/dev/null && break; sleep 0.1; done
for i in $(seq 300); do python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], 7001), 1)' "$2" && break
  sleep 0.1; done 2>/dev/null
python3 -c "$@"
"""


def measure(cluster: Cluster, namespace: str, node: str, client: str, *arguments: str) -> str:
    """The last line that the client prints; it gets the guest's address before its other arguments."""
    cluster.apply(
        tiny("bare", power="Paused", placement={"nodeSelector": {"kubernetes.io/hostname": node}}), namespace=namespace
    )
    paused = Machine(cluster, namespace, "bare")
    paused.wait_phase("Paused", 90)
    pod = cluster.agent_pod(node)["metadata"]
    inside = ("-n", pod["namespace"], pod["name"], "-c", "libvirt", "--")
    live = cluster.kubectl("exec", *inside, "virsh", "dumpxml", (paused.object() or {})["metadata"]["uid"])
    words = ("exec", "-i", *inside, "bash", "-c", RUN, "bare", client, f"{address(live)}%{TAP}", *arguments)
    said = cluster.kubectl(*words, stdin=baredomain.bare_xml(live, CONSOLE), seconds=300)
    paused.delete("--timeout=60s")
    return said.splitlines()[-1]


def address(domain: str) -> ipaddress.IPv6Address:
    """The link-local address that belongs to the MAC address of the domain's interface."""
    found = re.search(r"<mac address='([0-9a-f:]{17})'", domain)
    assert found is not None, domain
    mac = bytes.fromhex(found.group(1).replace(":", ""))
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:])
