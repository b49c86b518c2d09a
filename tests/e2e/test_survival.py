"""A guest outlives its agent and all else that is not its own pod: its stream goes on, its uptime never resets."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testbed.kube import SYSTEM, Cluster, Machine, stream, tiny, wait

Make = Callable[..., Machine]
pytestmark = pytest.mark.disruptive


def kill_agent(cluster: Cluster, node: str) -> None:
    cluster.signal(node, "KILL", "-f", "python.* -m berth.agent")


def kill_libvirtd(cluster: Cluster, node: str) -> None:
    cluster.signal(node, "KILL", "-x", "libvirtd")


def delete_agent_pod(cluster: Cluster, node: str) -> None:
    cluster.kubectl("delete", "pod", "-n", SYSTEM, cluster.agent_pod(node)["metadata"]["name"], "--timeout=60s")


def roll_agent(cluster: Cluster, node: str) -> None:
    cluster.kubectl("rollout", "restart", "-n", SYSTEM, "daemonset/berth-agent")
    cluster.kubectl("rollout", "status", "-n", SYSTEM, "daemonset/berth-agent", "--timeout=120s", seconds=130)


def restart_controllers(cluster: Cluster, node: str) -> None:
    cluster.kubectl(
        "delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/component=controller", "--force", "--grace-period=0"
    )
    cluster.kubectl("rollout", "status", "-n", SYSTEM, "deployment/berth-controller", "--timeout=120s", seconds=130)


def restart_kubelet(cluster: Cluster, node: str) -> None:
    cluster.testbed("restart", "kubelet", node)


def restart_containerd(cluster: Cluster, node: str) -> None:
    cluster.testbed("restart", "containerd", node)


def restart_apiserver(cluster: Cluster, node: str) -> None:
    cluster.testbed("restart", "apiserver")


FAULTS = [
    kill_agent, kill_libvirtd, delete_agent_pod, roll_agent, restart_controllers,
    restart_kubelet, restart_containerd, restart_apiserver,
]  # fmt: skip


@pytest.fixture(scope="module")
def survivor(cluster: Cluster) -> Machine:
    """One guest for the whole row of faults: each finds it after all those before."""
    namespace = "e2e-survival"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    cluster.apply(tiny("survivor"), namespace=namespace)
    vm = Machine(cluster, namespace, "survivor")
    vm.wait_up()
    return vm


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_guest_outlives(cluster: Cluster, survivor: Machine, fault: Callable[[Cluster, str], None]) -> None:
    boot, node = survivor.boot_id(), survivor.status()["node"]
    with stream(survivor) as numbers:
        numbers.goes_on()
        fault(cluster, node)
        numbers.goes_on(30)
        # Fully managed again: a live order is carried out, and undone.
        wait("the agent is connected", lambda: survivor.condition("AgentConnected").get("status") == "True", 90)
        survivor.patch({"power": "Paused"})
        survivor.wait_phase("Paused", 90)
        survivor.patch({"power": "On"})
        survivor.wait_phase("Running", 60)
        numbers.goes_on(30)
    assert survivor.boot_id() == boot
    assert survivor.status()["epoch"] == 1


def test_the_survivor_is_deleted_cleanly(cluster: Cluster, survivor: Machine) -> None:
    survivor.delete("--timeout=60s")
    cluster.kubectl("delete", "namespace", survivor.namespace, "--wait=false")
