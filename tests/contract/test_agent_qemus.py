"""Two nodes with two versions of QEMU, as while agents are upgraded: guests go to the newer one, and not back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from berth.api.hardware import CpuOrder
from berth.api.order import Emulation, Report
from berth.plan import compatible
from berth.plan.compatible import Trouble
from berth.plan.hardware import Choice, Hardware, to_text
from berth.plan.hosts import Host, release
from berth.plan.world import Cluster
from testbed import guests
from tests.contract import pods
from tests.contract.test_agent_cpu import common, kind, there
from tests.contract.two_nodes import CALM, Two, two_nodes
from tests.unit.plan.cluster_worlds import agent, up, world

OLDER, NEWER = "pc-q35-7.2", "pc-q35-10.0"
ALWAYS = Emulation.ALWAYS


@pytest.fixture
async def two(tmp_path: Path, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[Two]:
    """The agent image's QEMU on node-a, Debian 12's on node-b."""
    async with two_nodes(tmp_path, start_pod, guests.older_qemu()) as made:
        yield made


async def trouble(two: Two, uid: str, cpu: CpuOrder) -> Trouble | None:
    """What the controller makes of a move to the other node, from what these very agents have told."""
    report = Report.model_validate(two.a.report(uid))
    hosts = tuple([Host(side.node.name, await kind(side)) for side in (two.a, two.b)])
    resolved = to_text(Hardware(machine_type=report.machine_type, cpus=(Choice(cpu=cpu),)))
    berth = replace(up(), uid=report.pod_uid, node=two.a.node.name, hardware=resolved, emulation=ALWAYS.value)
    seen = world(cluster=Cluster(emulation=ALWAYS, hosts=hosts), pod=berth, agent=agent(report))
    return compatible.move_troubles(seen).get(two.b.node.name)


async def test_from_the_older_to_the_newer_and_not_back(two: Two) -> None:
    cpu = await common(two)
    two.a, two.b = two.b, two.a
    uid = await two.start(CALM, cpu=cpu, machine_type=OLDER)
    assert release(two.a.report(uid)["qemuVersion"]) == (7, 2)
    assert await trouble(two, uid, cpu) is None
    await there(two, uid)
    report = two.a.report(uid)
    assert (two.a.node.name, report["machineType"]) == ("node-a", OLDER)
    assert release(report["qemuVersion"]) >= (10, 0)
    numbers = two.counted()
    assert numbers == list(range(len(numbers))), "a number is missing, or came twice"
    found = await trouble(two, uid, cpu)
    assert found is not None
    old, new = (await kind(two.b)).qemu, report["qemuVersion"]
    assert found == Trouble("QemuOlder", f"has QEMU {old}, which is older than the guest's QEMU {new}")


async def test_a_newer_board_is_refused_beforehand_and_would_be_by_libvirt(two: Two) -> None:
    cpu = await common(two)
    uid = await two.start(CALM, cpu=cpu, machine_type=NEWER)
    found = await trouble(two, uid, cpu)
    assert found is not None
    assert found.reason == "MachineTypeUnknown"
    assert f"has QEMU {(await kind(two.b)).qemu}, which does not know machine type {NEWER}" in found.message
    source, _ = await two.listening()
    await two.a.controller.send(source)
    said = await two.hears(two.a, uid, "Failed")
    assert NEWER in said["message"], said
    assert await two.one_runs(uid) == "node-a"
    await two.counts_on(two.a)
    await two.give_back(two.b)
