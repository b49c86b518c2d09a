"""NICs plugged into a running guest and out of it again, by a whole agent over real libvirt, QEMU and bridges."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator

import pytest

from berth.api.order import NicKind, NicOrder, Order, SegmentKind, SegmentOrder
from tests.contract import pods
from tests.contract.agent_bench import Place, World
from tests.contract.lan import run

BRIDGE = "br-nics"
LAN = NicOrder(
    name="lan",
    mac="52:54:00:aa:bb:01",
    kind=NicKind.SEGMENT,
    segment=SegmentOrder(uid="5e9f0a52", name="team/lan", kind=SegmentKind.BRIDGE, device=BRIDGE),
    addresses=("10.9.0.4/24",),
    queues=2,
)


@pytest.fixture
def bridge() -> Iterator[None]:
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
    yield
    subprocess.run(["ip", "link", "del", BRIDGE], check=True)


def with_nics(place: Place, generation: int, *more: NicOrder) -> Order:
    machine = place.order.machine.model_copy(update={"nics": (*place.order.machine.nics, *more)})
    return place.order.model_copy(update={"generation": generation, "machine": machine})


def links(place: Place) -> set[str]:
    """The devices in the berth's network namespace."""
    return {line.split(": ")[1].split("@")[0] for line in run(place.net.netns, "ip -o link").splitlines()}


def ports() -> str:
    return subprocess.run(["ip", "-o", "link", "show", "master", BRIDGE], capture_output=True, text=True).stdout


async def until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(pods.until, condition, 20, what)


@pytest.mark.parametrize("killed", [False, True], ids=["", "agent-killed"])
async def test_a_nic_is_plugged_in_and_out_while_the_guest_runs(bridge: None, world: World, killed: bool) -> None:
    place = world.place()
    uid = await world.up(place)
    boot, before = place.boot_id(), links(place)
    await change(world, with_nics(place, 1, LAN), killed)
    place.console.type("until ip link show dev eth1; do sleep 0.3; done")
    place.console.type("until grep 1 /sys/class/net/eth1/carrier; do ip link set eth1 up; sleep 0.3; done")
    place.console.type("udhcpc -i eth1 -n -q -s /etc/dhcp; ip -4 addr show dev eth1")
    await asyncio.to_thread(place.console.says, "inet 10.9.0.4/24", 90)
    assert len(links(place) - before) == 2  # the tap, and the way to the bridge
    await until(ports, "a port of the bridge")
    await change(world, with_nics(place, 2), killed)
    place.console.type("while ip link show dev eth1 >/dev/null 2>&1; do sleep 0.3; done; echo it is gone: $((1+1))")
    await asyncio.to_thread(place.console.says, "it is gone: 2", 60)
    await until(lambda: links(place) == before, "the end of its devices")
    await until(lambda: not ports(), "the end of the port")
    assert place.boot_id() == boot
    report = await world.controller.hears_state(uid, "Running")
    assert {c["reason"] for c in report["conditions"] if c["type"] == "NetworkReady"} == {"Ready"}


async def change(world: World, order: Order, killed: bool) -> None:
    """Order it; an agent that is killed a moment later is followed by one that finishes the work."""
    status, answer = await world.controller.send(order)
    assert status == 200, answer
    if killed:
        await asyncio.sleep(0.15)
        await world.agent.kill()
        await world.agent.start()
        await world.controller.send(order)
