"""What the contract tests share. They need root: namespaces, mounts, cgroups."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders
from tests.contract import agents, hostile, pods
from tests.contract.agent_bench import VMS, Libvirtd, World, destroy
from tests.contract.segment_lab import Lab


@pytest.fixture(scope="session")
def berth_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pods.binary("berth", tmp_path_factory.mktemp("berth"))


@pytest.fixture
def start_pod(berth_program: Path, tmp_path: Path) -> Iterator[Callable[..., pods.FakePod]]:
    """Start pods that are taken away after the test."""
    started: list[pods.FakePod] = []

    def start(style: str = "cgroupfs", version: int = 0) -> pods.FakePod:
        node = f"test-{tmp_path.name}{uuid.uuid4().hex[:6]}".replace("_", "")  # cgroups are the whole machine's
        pod = pods.FakePod(tmp_path / f"pod{len(started)}", style, node, version)
        started.append(pod)
        return pod.start(berth_program)

    yield start
    for pod in started:
        pod.stop()


@pytest.fixture
def machines() -> Iterator[MachineFolders]:
    """The machines' folders, on a file system of their own as /run is; a short path, for there are sockets in it."""
    root = Path(tempfile.mkdtemp(prefix="vms-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", root], check=True)
    yield MachineFolders(root)
    subprocess.run(["umount", "--recursive", root], check=True)
    root.rmdir()


@pytest.fixture
def berths(machines: MachineFolders) -> NodeBerths:
    return NodeBerths(machines, rescan_seconds=0)


@pytest.fixture
def lab(start_pod: Callable[..., pods.FakePod], berths: NodeBerths, tmp_path: Path) -> Iterator[Lab]:
    """Nodes with guests on segments, none yet."""
    made = Lab(start_pod, berths, tmp_path)
    yield made
    made.close()


@pytest.fixture
def stage(start_pod: Callable[..., pods.FakePod], berths: NodeBerths) -> Iterator[hostile.Stage]:
    """A guest that sends what it likes, and all who could hear it."""
    bench = hostile.find(start_pod, berths)
    with hostile.stage(bench) as made:
        yield made
    bench.down()


@pytest.fixture(scope="module")
def agent_libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirtd]:
    daemon = Libvirtd(tmp_path_factory.mktemp("libvirt") / "libvirtd.log")
    daemon.start()
    yield daemon
    daemon.kill()


@pytest.fixture
async def world(
    tmp_path: Path, agent_libvirtd: Libvirtd, start_pod: Callable[..., pods.FakePod]
) -> AsyncIterator[World]:
    os.makedirs(VMS, exist_ok=True)
    async with agents.agent_and_controller(tmp_path, VMS) as (agent, controller):
        world = World(agent, controller, agent_libvirtd, start_pod)
        yield world
    for place in world.places:
        await asyncio.to_thread(destroy, place.order.uid)
