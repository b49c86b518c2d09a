"""Machines come and go in numbers, and both nodes are what they were: nothing of them is left.

Eight lives in every run; `make test-lives` asks for two hundred.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed.kube import VMS, Cluster, Json, Machine, tiny, wait

Make = Callable[..., Machine]
pytestmark = pytest.mark.disruptive  # what other tests do on the nodes would be counted
LIVES = int(os.environ.get("BERTH_LIVES", "8"))
BATCH = 8
NETWORKS = "/apis/berth.dev/v1alpha1/namespaces/{ns}/networks"

# Each line counts or lists one kind of thing; what counts packets or seconds is left out.
LOOK = r"""
look() {
  ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/' | sed "s/^/$1 device /"
  ip -o addr | awk '{print $2, $3, $4}' | sed "s/^/$1 address /"
  { ip route show table all; ip -6 route show table all; } | sed "s/ expires [0-9]*sec//; s/^/$1 route /"
  { ip rule; ip -6 rule; } | sed "s/^/$1 rule /"
  ip neigh show nud permanent | sed "s/^/$1 neighbour /"
  nft -s list ruleset | sed "s/ # handle.*//; s/^/$1 nft /"
  tc qdisc show | sed "s/ refcnt.*//; s/^/$1 qdisc /"
  bridge fdb show | grep -E 'permanent|dst' | sed "s/^/$1 forwarding /"
}
if [ "$1" = inside ]; then look segments; exit; fi
look node
nsenter --net=/run/berth/segments sh -c "$2" look inside "$2"
echo "net namespaces $(ls /run/netns | wc -l)"
find /run/berth /var/lib/berth /var/lib/cni | grep -v '/log/qemu/.*\.log$' | sed 's/^/file /'
[ "$(ls /var/lib/berth/log/qemu | wc -l)" -le 20 ] || echo "more than twenty logs of guests that are no more"
ls /var/lib/kubelet/pods | sed 's/^/pod /'
awk '{print $5}' /proc/self/mountinfo | sed 's/^/mount /'
for hierarchy in $(find /sys/fs/cgroup -maxdepth 5 -type d -path "*/$(hostname)"); do
  echo "cgroups of ${hierarchy#/sys/fs/cgroup/}: $(find "$hierarchy" -type d | wc -l)"
done
echo "machines $(pgrep --ns $$ --nslist net -c qemu-system)"
"""


@pytest.fixture
def nodes(cluster: Cluster) -> list[str]:
    found = cluster.items("/api/v1/nodes")
    return sorted(node["metadata"]["name"] for node in found if not node["spec"].get("taints"))[:2]


def seen(cluster: Cluster, nodes: list[str]) -> dict[str, list[str]]:
    """All that there is on each node."""
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda node: cluster.on_node(node, "sh", "-c", LOOK, "look", "node", LOOK), nodes))
    return {node: sorted(text.splitlines()) for node, text in zip(nodes, told, strict=True)}


def strangers(cluster: Cluster, nodes: list[str]) -> set[str]:
    """Pods that kubelet keeps folders of and that are no more."""
    known = {pod["metadata"]["uid"] for pod in cluster.items("/api/v1/pods")}
    return {pod for node in nodes for pod in cluster.on_node(node, "ls", "/var/lib/kubelet/pods").split()} - known


def difference(before: dict[str, list[str]], now: dict[str, list[str]]) -> list[str]:
    """What has come and what is missing; a line that stands there twice counts twice."""
    found = []
    for node, lines in before.items():
        left, there = list(now[node]), []
        for line in lines:
            left.remove(line) if line in left else there.append(line)
        found += [f"{node}: + {line}" for line in left] + [f"{node}: - {line}" for line in there]
    return found


def one_batch(cluster: Cluster, namespace: str, machines: list[Machine]) -> None:
    """Up, all the way into the guests' own user space, and away."""
    for machine in machines:
        machine.wait_up(120)
    for machine in machines:
        machine.delete("--wait=false")
    wait("all have gone", lambda: not cluster.items(VMS.format(ns=namespace)), 90)


def life(number: int) -> Json:
    """On whichever node; with a pod NIC, one on an overlay, one on an overlay with a way out, and any two of these."""
    nics: list[Json] = [{"name": "default", "pod": {}}] if number % 3 else []
    nics += [{"name": n, "network": {"name": n}} for at, n in enumerate(("lan", "out")) if (number + at) % 4]
    return tiny(f"life-{number}", nics=nics, shutdown={"gracePeriodSeconds": 0})


def batches(count: int) -> Iterator[list[int]]:
    numbers = iter(range(1, count + 1))
    while batch := list(itertools.islice(numbers, BATCH)):
        yield batch


@pytest.mark.timeout(120 + 20 * LIVES)
def test_many_lives_leave_nothing_behind(cluster: Cluster, namespace: str, make: Make, nodes: list[str]) -> None:
    for name, egress in (("lan", "None"), ("out", "NAT")):
        spec: Json = {"overlay": {}, "ipv4": {"range": f"10.8{len(name)}.{len(egress)}.0/24"},
                      "ipv6": {"range": f"fd8{len(name)}:{len(egress)}::/64"}, "egress": {"type": egress}}  # fmt: skip
        network: Json = {"apiVersion": "berth.dev/v1alpha1", "kind": "Network", "metadata": {"name": name}}
        cluster.apply({**network, "spec": spec}, namespace=namespace)
    places = [{"nodeSelector": {"kubernetes.io/hostname": node}} for node in nodes]
    lan: Json = {"name": "lan", "network": {"name": "lan"}}
    first = [tiny(f"first-{at}", nics=[lan], placement=place) for at, place in enumerate(places)]
    one_batch(cluster, namespace, [make(manifest) for manifest in first])  # what stays on a node from its first one on
    wait("kubelet has tidied up", lambda: not strangers(cluster, nodes), 60)
    before, began = seen(cluster, nodes), time.monotonic()
    for batch in batches(LIVES):
        one_batch(cluster, namespace, [make(life(number)) for number in batch])
    took = time.monotonic() - began
    try:
        wait("nothing is left", lambda: not difference(before, seen(cluster, nodes)), 60, every=1)
    except AssertionError:
        pytest.fail("\n".join(difference(before, seen(cluster, nodes))))
    for name in ("lan", "out"):
        status = (cluster.get(f"{NETWORKS.format(ns=namespace)}/{name}") or {})["status"]
        assert (status["used"], status["leases"]) == (0, [])
    print(f"{LIVES} lives in {took:.0f} s; on {len(nodes)} nodes {sum(map(len, before.values()))} things as before")
