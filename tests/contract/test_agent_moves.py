"""Running guests move between two real agents, libvirts and QEMUs; and whatever is killed, one copy runs."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from berth.api.order import CloudInitOrder
from tests.contract import agents, pods
from tests.contract.two_nodes import CALM, PEER_PORT, Side, Two, two_nodes


@pytest.fixture
async def two(tmp_path: Path, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[Two]:
    async with two_nodes(tmp_path, start_pod) as made:
        yield made


async def test_a_guest_moves_and_counts_on(two: Two) -> None:
    seed = CloudInitOrder(instance_id="web", hostname="web", user_data="#cloud-config\n")
    uid = await two.start(vnc=True, cloud_init=seed, cpus=2)
    source, _ = await two.listening()
    begin = time.monotonic()
    await two.a.controller.send(source)
    arrived = await two.hears(two.b, uid, "Arrived")
    total = time.monotonic() - begin
    await two.hears(two.a, uid, "HandedOver")
    await two.a.controller.hears_state(uid, "Moved")
    await two.b.controller.hears_state(uid, "Running")
    assert await two.one_runs(uid) == "node-b"
    await two.counts_on(two.b)
    numbers = two.counted()
    assert numbers == list(range(len(numbers))), "a number is missing, or came twice"
    print(f"total {total * 1000:.0f} ms, pause {arrived['pauseMs']} ms, sent {two.a.report(uid)['migration']}")
    assert 0 < arrived["pauseMs"] < 10_000
    assert two.a.pod is not None
    assert two.b.pod is not None
    assert two.a.report(uid)["epoch"] == 1
    assert two.b.report(uid)["epoch"] == 2


SLOW = 8 << 20
"""Bytes a second: the guest's memory takes seconds, so that things can be killed meanwhile."""


async def sends(two: Two) -> str:
    """The guest's memory is on its way; its uid."""
    source, _ = await two.listening(bytes_per_second=SLOW)
    await two.a.controller.send(source)
    await two.hears(two.a, source.uid, "Sending")
    await two.a.controller.hears(
        lambda: (two.a.report(source.uid).get("migration") or {}).get("sent", 0) > 1 << 20, "some of it sent"
    )
    return source.uid


async def stays(two: Two, uid: str) -> None:
    """The guest runs on at its source, and the copy's berth goes."""
    await two.hears(two.a, uid, "Failed")
    assert await two.one_runs(uid) == two.a.node.name
    await two.counts_on(two.a)
    await two.give_back(two.b)


async def kill_agent(side: Side) -> None:
    await side.agent.kill()
    await side.agent.start(BERTH_PEER_PORT=str(PEER_PORT))


async def kill_libvirtd(side: Side) -> None:
    await asyncio.to_thread(side.node.kill_libvirtd)
    await asyncio.to_thread(side.node.start_libvirtd)


async def kill_qemu(side: Side) -> None:
    assert side.order_uid is not None
    os.kill(side.node.qemu(side.order_uid), signal.SIGKILL)


KILLS = {
    "the source's agent": (kill_agent, "a"),
    "the target's agent": (kill_agent, "b"),
    "the source's libvirtd": (kill_libvirtd, "a"),
    "the target's libvirtd": (kill_libvirtd, "b"),
    "the copy's QEMU": (kill_qemu, "b"),
}


async def struck(two: Two, uid: str, what: str) -> Side:
    """Kill that in a move at about the moment when the guest has been stopped; where it runs afterwards."""
    kill, where = KILLS[what]
    source, _ = await two.listening()
    watched = asyncio.create_task(asyncio.to_thread(two.stopped, uid))
    await two.a.controller.send(source)
    await watched
    await kill(two.a if where == "a" else two.b)
    runs_at = await two.one_runs(uid)
    print(f"killed {what}: it runs at {runs_at}")
    return two.a if runs_at == two.a.node.name else two.b


async def test_whatever_is_killed_while_it_is_sent_it_stays(two: Two) -> None:
    await two.start(CALM)
    for what, (kill, where) in KILLS.items():
        uid = await sends(two)
        print(f"kill {what}")
        await kill(two.a if where == "a" else two.b)
        await stays(two, uid)
    numbers = two.counted(two.a)
    assert numbers == list(range(len(numbers)))


async def test_cancelled_or_too_late_it_stays(two: Two) -> None:
    await two.start(CALM)
    assert two.order is not None
    uid = await sends(two)
    await two.a.controller.send(two.order)
    failed = await two.hears(two.a, uid, "Failed")
    assert failed["reason"] == "Cancelled"
    await stays(two, uid)
    soon = (agents.now() + datetime.timedelta(seconds=3)).isoformat()
    source, _ = await two.listening(bytes_per_second=SLOW, deadline=soon)
    await two.a.controller.send(source)
    migration = source.outgoing.migration if source.outgoing is not None else ""
    await two.a.controller.hears(
        lambda: (two.a.report(uid).get("migration") or {}).get("reason") == "DeadlineExceeded", "too late", 60
    )
    assert two.a.report(uid)["migration"]["uid"] == migration
    await stays(two, uid)


@pytest.mark.parametrize("what", ["the source's agent", "the target's agent"])
async def test_what_was_promised_is_kept_whatever_is_killed(two: Two, what: str) -> None:
    """At the moment when the source's QEMU is dead and nobody knows it yet: only the target can have it."""
    kill, where = KILLS[what]
    uid = await two.start()
    source, target = await two.listening()
    watched = asyncio.create_task(asyncio.to_thread(two.dead, two.a.node.qemu(uid)))
    await two.a.controller.send(source)
    await watched
    await kill(two.a if where == "a" else two.b)
    assert await two.one_runs(uid) == "node-b"
    await two.hears(two.a, uid, "HandedOver")
    await two.a.controller.hears_state(uid, "Moved")
    await two.b.controller.send(target)
    await two.hears(two.b, uid, "Arrived")
    await two.counts_on(two.b)
    numbers = two.counted()
    assert numbers == list(range(len(numbers)))
    await two.give_back(two.a)
    assert await two.one_runs(uid) == "node-b"


@pytest.mark.parametrize("what", [what for what in KILLS if what != "the copy's QEMU"])
async def test_whatever_is_killed_at_the_hand_over_one_runs(two: Two, what: str) -> None:
    """At about the moment when the guest has been stopped: either side may have it afterwards, never both."""
    uid = await two.start()
    side = await struck(two, uid, what)
    await two.counts_on(side)
    numbers = two.counted() if side is two.b else two.counted(two.a)
    assert numbers == list(range(len(numbers)))


async def test_there_and_back_again(two: Two) -> None:
    uid = await two.start()
    for there in ("node-b", "node-a", "node-b"):
        source, target = await two.listening()
        await two.a.controller.send(source)
        await two.hears(two.b, uid, "Arrived")
        await two.a.controller.hears_state(uid, "Moved")
        await two.give_back(two.a)
        assert await two.one_runs(uid) == there
        await two.counts_on(two.b)
        two.turn_round(target)
    numbers = two.counted()
    assert numbers == list(range(len(numbers)))
