"""Guests outlive their agents and all else that is not their own pods: streams go on, uptimes never reset.

Two guests on two nodes, both on the pod network and on an overlay; a stream through a pod IP, and one between the two
over the overlay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest

from testbed.kube import SYSTEM, Cluster, Json, Machine, stream, stream_between, tiny, wait

Fault = Callable[[Cluster, Sequence[str]], None]
pytestmark = pytest.mark.disruptive
AGENT = "python.* -m berth.agent"


def kill_agent(cluster: Cluster, nodes: Sequence[str]) -> None:
    for node in nodes:
        cluster.signal(node, "KILL", "-f", AGENT)


def kill_libvirtd(cluster: Cluster, nodes: Sequence[str]) -> None:
    for node in nodes:
        cluster.signal(node, "KILL", "-x", "libvirtd")


def delete_agent_pod(cluster: Cluster, nodes: Sequence[str]) -> None:
    pods = [cluster.agent_pod(node)["metadata"]["name"] for node in nodes]
    cluster.kubectl("delete", "pod", "-n", SYSTEM, *pods, "--timeout=60s")


def roll_agent(cluster: Cluster, nodes: Sequence[str]) -> None:
    cluster.kubectl("rollout", "restart", "-n", SYSTEM, "daemonset/berth-agent")
    cluster.kubectl("rollout", "status", "-n", SYSTEM, "daemonset/berth-agent", "--timeout=120s", seconds=130)


def restart_controllers(cluster: Cluster, nodes: Sequence[str]) -> None:
    cluster.kubectl(
        "delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/component=controller", "--force", "--grace-period=0"
    )
    cluster.kubectl("rollout", "status", "-n", SYSTEM, "deployment/berth-controller", "--timeout=120s", seconds=130)


def restart_kubelet(cluster: Cluster, nodes: Sequence[str]) -> None:
    cluster.testbed("restart", "kubelet")


def restart_containerd(cluster: Cluster, nodes: Sequence[str]) -> None:
    cluster.testbed("restart", "containerd")


def restart_apiserver(cluster: Cluster, nodes: Sequence[str]) -> None:
    cluster.testbed("restart", "apiserver")


def restart_network_parts(cluster: Cluster, nodes: Sequence[str]) -> None:
    """What else has its hands in the nodes' packet paths: kube-proxy, the policy engine, the CNI's own daemon."""
    parts = cluster.testbed("status")
    for part in ("kube-proxy", "policy", "flannel", "kube-router"):
        if part in parts:
            cluster.testbed("restart", part)


FAULTS = [
    kill_agent, kill_libvirtd, delete_agent_pod, roll_agent, restart_controllers,
    restart_kubelet, restart_containerd, restart_apiserver, restart_network_parts,
]  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One machine on each node, both on one overlay."""

    machines: tuple[Machine, Machine]
    nodes: tuple[str, str]
    addresses: tuple[str, str]
    boots: list[str]


@pytest.fixture(scope="module")
def survivors(cluster: Cluster) -> Pair:
    """Two guests for the whole row of faults: each finds them after all those before."""
    namespace = "e2e-survival"
    overlay: Json = {"overlay": {}, "ipv4": {"range": "10.81.0.0/24"}, "ipv6": {"range": "fd81::/64"}}
    network: Json = {"apiVersion": "berth.dev/v1alpha1", "kind": "Network", "metadata": {"name": "lan"},
                     "spec": overlay}  # fmt: skip
    nics: list[Json] = [{"name": "default", "pod": {}}, {"name": "lan", "network": {"name": "lan"}}]
    found = cluster.items("/api/v1/nodes")
    nodes = sorted(node["metadata"]["name"] for node in found if not node["spec"].get("taints"))[:2]
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    names = ("survivor", "neighbour")
    places = [{"nodeSelector": {"kubernetes.io/hostname": node}} for node in nodes]
    guests = [tiny(name, nics=nics, placement=place) for name, place in zip(names, places, strict=True)]
    cluster.apply(network, *guests, namespace=namespace)
    one, other = (Machine(cluster, namespace, name) for name in names)
    one.wait_up(90)
    other.wait_up(90)
    addresses, boots = (lan_address(one), lan_address(other)), [one.boot_id(), other.boot_id()]
    pair = Pair((one, other), (nodes[0], nodes[1]), addresses, boots)
    wait("they reach each other", lambda: "1 packets received" in ping(other, pair.addresses[0]), 30)
    return pair


def lan_address(machine: Machine) -> str:
    return next(str(nic["addresses"][0]) for nic in machine.status()["nics"] if nic["name"] == "lan")


def ping(machine: Machine, address: str) -> str:
    return machine.shell(f"ping -c 1 -W 2 {address} || true")


def each(machines: Sequence[Machine], power: str, phase: str, seconds: float) -> None:
    for machine in machines:
        machine.patch({"power": power})
    for machine in machines:
        machine.wait_phase(phase, seconds)


def network_is_right(cluster: Cluster, pair: Pair) -> None:
    """What `berth net` shows of each: its network is ready, its lease, and on its node who is where."""

    def shown(number: int) -> bool:
        machine = pair.machines[number]
        text = cluster.berth("net", machine.name, "-n", machine.namespace).stdout
        fdb = next((part for part in text.split("--- ") if part.startswith("segments: who is where")), "")
        other = next(nic["mac"] for nic in pair.machines[1 - number].status()["nics"] if nic["name"] == "lan")
        there = any(line.startswith(f"  {other} ") and " dst " in line for line in fdb.splitlines())
        return "network ready" in text and pair.addresses[number] in text and "table netdev" in text and there

    together(*(partial(wait, f"berth net of {n} is right", partial(shown, n), 20) for n in (0, 1)))


def together(*checks: Callable[[], object]) -> None:
    """Each in a thread of its own: most of the time they wait."""
    with ThreadPoolExecutor(len(checks)) as pool:
        for done in [pool.submit(check) for check in checks]:
            done.result()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_guests_outlive(cluster: Cluster, survivors: Pair, fault: Fault) -> None:
    machines = survivors.machines
    with stream(machines[0]) as numbers, stream_between(machines[1], survivors.addresses[0]) as overlay:
        together(numbers.goes_on, overlay.goes_on)
        fault(cluster, survivors.nodes)
        together(partial(numbers.goes_on, 30), partial(overlay.goes_on, 30))
        # Fully managed again: a live order is carried out, and undone.
        for machine in machines:
            machine.wait_condition("AgentConnected", "True", seconds=90)
        each(machines, "Paused", "Paused", 90)
        each(machines, "On", "Running", 60)
        right = partial(network_is_right, cluster, survivors)
        together(partial(numbers.goes_on, 30), partial(overlay.goes_on, 30), right)
    assert [machine.boot_id() for machine in machines] == survivors.boots
    assert [machine.status()["epoch"] for machine in machines] == [1, 1]


def test_the_survivors_are_deleted_cleanly(cluster: Cluster, survivors: Pair) -> None:
    names = [machine.name for machine in survivors.machines]
    cluster.kubectl("delete", "vm", *names, "-n", survivors.machines[0].namespace, "--timeout=60s", seconds=70)
    cluster.kubectl("delete", "namespace", survivors.machines[0].namespace, "--wait=false")
