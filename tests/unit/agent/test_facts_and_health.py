"""What the node can do, whether the agent lives, and its log: small edges around the machines."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from berth.agent import facts, health, log
from berth.agent.facts import FactFinder
from berth.agent.node import Node
from berth.agent.reports import Hub
from berth.agent.settings import Settings
from berth.agent.world import World
from berth.effects import memory
from berth.effects.memory import MemoryNode
from berth.effects.ports import Abilities, KvmProbe
from berth.errors import HostFault
from tests.unit.agent.orders import NODE
from tests.unit.agent.worlds import world_of


async def run(call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return call(*args, **kwargs)


@pytest.fixture
def node() -> MemoryNode:
    return MemoryNode()


@pytest.fixture
def world(node: MemoryNode) -> World:
    return world_of(node, run=run, now=lambda: datetime.now(UTC))


def proc(folder: Path, cgroup: str) -> Path:
    for name in ("sys/kernel/random", "self"):
        (folder / name).mkdir(parents=True)
    (folder / "meminfo").write_text("MemFree: 1 kB\nMemTotal:       2048 kB\n")
    (folder / "sys/kernel/random/boot_id").write_text("the-boot\n")
    (folder / "self/mounts").write_text(f"proc /proc proc rw 0 0\nx /sys/fs/cgroup {cgroup} rw 0 0\n")
    return folder


@pytest.mark.parametrize(("cgroup", "version"), [("cgroup2", 2), ("tmpfs", 1)])
async def test_facts_of_a_host(world: World, tmp_path: Path, cgroup: str, version: int) -> None:
    hub = Hub(facts.first(NODE))
    finder = FactFinder(world, hub, proc(tmp_path, cgroup), tmp_path / "kvm")
    await finder.probe()
    await finder.hypervisor(True, "")
    found = hub.facts
    assert (found.node, found.boot_id, found.memory_bytes, found.cgroup_version) == (NODE, "the-boot", 2 << 20, version)
    assert (found.kvm_usable, found.libvirt_version, found.qemu_version) == (True, "11.3.0", "10.0.0")
    assert (found.hypervisor_connected, found.hypervisor_message, found.cpus) == (True, "", os.cpu_count())
    assert found.machine_types == ("pc-q35-10.0",)
    assert [cpu.accelerator for cpu in found.host_cpus] == ["tcg"]


async def test_a_lost_libvirtd_is_told_and_its_versions_stay(world: World, node: MemoryNode, tmp_path: Path) -> None:
    hub = Hub(facts.first(NODE))
    finder = FactFinder(world, hub, proc(tmp_path, "cgroup2"), tmp_path / "kvm")
    await finder.hypervisor(True, "")
    await finder.hypervisor(False, "libvirtd closed the connection")
    assert (hub.facts.hypervisor_connected, hub.facts.libvirt_version) == (False, "11.3.0")
    assert hub.facts.hypervisor_message == "libvirtd closed the connection"
    node.up = False
    await finder.hypervisor(True, "")  # gone again before it could be asked
    assert not hub.facts.hypervisor_connected


async def test_a_libvirt_that_cannot_say_what_qemu_can_be_is_connected_all_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: object) -> Abilities:
        raise HostFault("QEMU ends at once")

    hub = Hub(facts.first(NODE))
    finder = FactFinder(world, hub, proc(tmp_path, "cgroup2"), tmp_path / "kvm")
    await finder.hypervisor(True, "")
    monkeypatch.setattr(memory.MemoryHypervisor, "abilities", broken)
    await finder.hypervisor(True, "")
    assert hub.facts.hypervisor_connected
    assert hub.facts.machine_types == ("pc-q35-10.0",), "what was known before stays"


async def test_a_probe_that_fails_is_no_kvm(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_self: object) -> KvmProbe:
        raise HostFault("QEMU is not installed")

    monkeypatch.setattr(memory.MemoryProber, "kvm", broken)
    hub = Hub(facts.first(NODE))
    await FactFinder(world, hub, proc(tmp_path, "cgroup2"), tmp_path / "kvm").probe()
    assert (hub.facts.kvm_usable, hub.facts.kvm_reason) == (False, "QEMU is not installed")


async def test_a_kvm_device_that_comes_later_is_probed(
    world: World, node: MemoryNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.kvm = KvmProbe(False, "no device")
    hub = Hub(facts.first(NODE))
    finder = FactFinder(world, hub, proc(tmp_path, "cgroup2"), tmp_path / "kvm")
    await finder.probe()
    rounds = 0

    async def sleep(_seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            os.mknod(tmp_path / "kvm", 0o600)
            node.kvm = KvmProbe(True, "it works")
        if rounds == 4:
            raise StopAsyncIteration

    monkeypatch.setattr("berth.agent.facts.asyncio.sleep", sleep)
    with pytest.raises(StopAsyncIteration):
        await finder.watch()
    assert hub.facts.kvm_usable


async def test_health_and_metrics(world: World) -> None:
    agent = Node(Settings(node_name=NODE, host_ip="127.0.0.1"), world)
    missing = "no certificate yet"
    async with TestClient(TestServer(health.application(agent, lambda: missing))) as client:
        assert (await client.get("/healthz")).status == 200
        answer = await client.get("/readyz")
        assert (answer.status, await answer.text()) == (503, "no certificate yet\n")
        missing = ""
        assert (await client.get("/readyz")).status == 200
        text = await (await client.get("/metrics")).text()
    for name in ("berth_agent_machines", "berth_agent_reconcile_seconds_bucket", "process_resident_memory_bytes"):
        assert name in text


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "berth.agent.node", "levelname": "INFO", "msg": "ready %s", "args": ("now",)})
    made.__dict__.update(extra)
    return made


def test_a_line_of_the_log_is_one_json_object() -> None:
    line = json.loads(log.JsonLines().format(record(vm="team/web", epoch=2, text="a\nb")))
    assert (line["message"], line["logger"], line["vm"], line["epoch"]) == ("ready now", "agent.node", "team/web", 2)
    assert "\n" not in log.JsonLines().format(record(text="a\nb"))
    assert "ready now vm=team/web" in log.Words().format(record(vm="team/web"))
