"""Whatever is killed, `up` repairs it, and pods that ran go on running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testbed import builtin
from testbed.cluster import cgroups, layout, network, nodes, processes, units
from testbed.kube import wait

from .conftest import Bed, Space, pod


def _container(space: Space, name: str) -> tuple[str, int]:
    [status] = space.get(name)["status"]["containerStatuses"]
    return status["containerID"], status["restartCount"]


def test_a_second_up_touches_nothing(bed: Bed) -> None:
    before, began = bed.pids(), time.monotonic()
    bed.run("up")
    assert bed.pids() == before
    assert time.monotonic() - began < 15
    assert set(before) == set(units.names(bed.topology))


@pytest.mark.parametrize("unit", ["kubelet", "containerd", "kube-proxy"])
def test_a_killed_part_of_a_node_comes_back_and_the_pod_never_stopped(space: Space, unit: str) -> None:
    node = space.bed.workers[0]
    space.start(pod("steady", node))
    before = _container(space, "steady")
    os.kill(space.bed.pids()[f"{unit}@{node}"], signal.SIGKILL)
    space.bed.run("up")
    space.start(pod("fresh", node))
    assert _container(space, "steady") == before
    assert space.execute("steady", "hostname") == "steady\n"


@pytest.mark.parametrize("unit", units.HOST_COMPONENTS)
def test_a_killed_part_of_the_control_plane_comes_back(space: Space, unit: str) -> None:
    node = space.bed.workers[1]
    space.start(pod("steady", node))
    before, pid = _container(space, "steady"), space.bed.pids()[unit]
    os.kill(pid, signal.SIGKILL)
    space.bed.run("up")
    assert space.bed.pids()[unit] != pid
    space.start(pod("fresh", node))
    assert _container(space, "steady") == before


@pytest.mark.parametrize("component", ["apiserver", "kubelet"])
def test_restart_gives_a_component_a_new_process(bed: Bed, component: str) -> None:
    name = {"apiserver": "kube-apiserver", "kubelet": f"kubelet@{bed.workers[0]}"}[component]
    before = bed.pids()
    bed.run("restart", component, *(["worker"] if component == "kubelet" else []))
    after = bed.pids()
    assert {unit for unit in after if after[unit] != before[unit]} == {name}


def test_status_fails_while_something_is_down_and_names_it(bed: Bed) -> None:
    os.kill(bed.pids()["kube-scheduler"], signal.SIGKILL)
    wait("the scheduler is gone", lambda: "kube-scheduler" not in bed.pids(), 5)
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "status"], capture_output=True, text=True, env=bed.environment, check=False
    )
    assert done.returncode == 1
    assert "kube-scheduler" in done.stdout
    bed.run("up")


def test_a_node_that_lost_its_namespaces_is_made_anew(space: Space) -> None:
    bed, node = space.bed, space.bed.workers[1]
    subprocess.run(["umount", nodes.pins(bed.settings, node) / "mnt"], check=True)
    bed.run("up")
    space.start(pod("fresh", node))
    assert bed.on_node(node, "hostname").strip() == node


@pytest.mark.timeout(400, func_only=True)
def test_after_a_reboot_the_cluster_comes_back_with_what_it_held() -> None:
    """A reboot takes processes, namespaces, links, cgroups and /run; disks stay."""
    bed = Bed(2)
    bed.run("up")
    try:
        bed.cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        uid = _uid(bed)
        _reboot(bed)
        bed.run("up")
        assert _uid(bed) == uid
        assert all(part.healthy for part in builtin.Builtin(bed.settings, bed.topology).status())
    finally:
        bed.run("down")


def _uid(bed: Bed) -> str:
    found = bed.cluster.get("/api/v1/namespaces/default/configmaps/kept")
    assert found is not None
    return str(found["metadata"]["uid"])


def _reboot(bed: Bed) -> None:
    processes.kill_all(cgroups.processes(layout.cgroup(bed.settings)))
    nodes.remove_all(bed.settings)
    for node in bed.topology.nodes:
        network.remove_node(bed.settings, node.name, node.ordinal)
    network.remove_bridge(bed.settings)
    cgroups.remove(layout.cgroup(bed.settings))
    shutil.rmtree(bed.settings.state)


@pytest.mark.timeout(400, func_only=True)
def test_an_up_that_is_killed_at_any_moment_is_finished_by_the_next() -> None:
    young = Bed(2)
    try:
        for seconds in (0.7, 1.5, 3.0, 6.0):
            process = young.popen("up")
            try:
                process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        young.run("up")
        assert set(young.pids()) == set(units.names(young.topology))
    finally:
        young.run("down")
    assert not Path(young.settings.state).exists()
