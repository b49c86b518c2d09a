"""CPUs and machine types on real agents, libvirts and QEMUs: what nodes tell of them, and guests that keep them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from berth.api.hardware import CpuMode, CpuOrder
from berth.api.order import NodeFacts
from berth.plan import hosts
from berth.plan.cpu_baseline import baseline
from berth.plan.hosts import Kind
from tests.contract import pods
from tests.contract.two_nodes import CALM, Side, Two, two_nodes

OLDER = "pc-q35-9.2"


@pytest.fixture
async def two(tmp_path: Path, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[Two]:
    async with two_nodes(tmp_path, start_pod) as made:
        yield made


async def kind(side: Side) -> Kind:
    """What the agent has told of its node, once it knows all."""

    def told() -> NodeFacts | None:
        hellos = [line for line in side.controller.lines if line["type"] == "hello"]
        found = NodeFacts.model_validate(hellos[-1]["facts"]) if hellos else None
        return found if found is not None and found.machine_types else None

    await side.controller.hears(lambda: told() is not None, "what QEMU can be", 60)
    facts = told()
    assert facts is not None
    return hosts.read(facts).kind


async def common(two: Two) -> CpuOrder:
    """The baseline of both nodes. They emulate: of that, too, libvirt says what it can give."""
    found = [(side.node.name, (await kind(side)).tcg) for side in (two.a, two.b)]
    (group,) = baseline([(node, cpu) for node, cpu in found if cpu is not None]).groups
    assert group.nodes == ("node-a", "node-b")
    return group.cpu


async def there(two: Two, uid: str) -> None:
    source, target = await two.listening()
    await two.a.controller.send(source)
    await two.hears(two.b, uid, "Arrived")
    await two.hears(two.a, uid, "HandedOver")
    await two.b.controller.hears_state(uid, "Running")
    await two.counts_on(two.b)
    await two.give_back(two.a)
    two.turn_round(target)


async def test_a_guest_with_the_baseline_goes_there_and_back(two: Two) -> None:
    cpu = await common(two)
    assert len(cpu.require) > 40, cpu
    uid = await two.start(CALM, cpu=cpu, machine_type=OLDER)
    for name in ("node-a", "node-b", "node-a"):
        report = two.a.report(uid)
        assert two.a.node.name == name
        assert (report["machineType"], report["cpuMode"]) == (OLDER, "custom")
        assert hosts.release(report["qemuVersion"]) >= (10, 0)
        live = two.a.node.virsh("dumpxml", uid)
        assert f"<model fallback='forbid'>{cpu.model}</model>" in live
        assert "check='full'" in live, "libvirt has compared QEMU's CPU with what was ordered"
        if len(two.left) < 2:
            await there(two, uid)
    numbers = two.counted()
    assert numbers == list(range(len(numbers))), "a number is missing, or came twice"


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"cpu": CpuOrder(model="Nehalem", require=("avx512f",))}, "required features: avx512f"),
        ({"cpu": CpuOrder(model="Nehalem"), "machine_type": "pc-q35-99.0"}, "machine type 'pc-q35-99.0'"),
        ({"cpu": CpuOrder(model="NoSuchModel")}, "NoSuchModel"),
    ],
)
async def test_what_the_node_cannot_be_is_refused_in_words(two: Two, machine: dict[str, object], words: str) -> None:
    order = await two.ordered(**machine)
    report = await two.a.controller.hears_state(order.uid, "Failed")
    running = next(c for c in report["conditions"] if c["type"] == "GuestRunning")
    assert words in running["message"], running
    assert two.a.node.qemu(order.uid) == 0


async def test_everything_that_is_emulated(two: Two) -> None:
    order = await two.ordered(cpu=CpuOrder(mode=CpuMode.MAXIMUM))
    report = await two.a.controller.hears_state(order.uid, "Running")
    assert report["cpuMode"] == "maximum"
