"""Faults one after another at every moment of a move, and what each ends in: one copy that runs, its memory whole.

A lane of its own (`make test-faults`): a hundred of them with one guest that goes back and forth. What is broken, and
when, is drawn from a seed: BERTH_FAULTS_SEED of a run that failed brings the same row of faults again. The part of the
controller is played by this test: it tells both sides what is to be, again and again, and hears what is.
"""

from __future__ import annotations

import asyncio
import collections
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from berth.api.order import Order
from tests.contract import pods
from tests.contract.two_nodes import PEER_PORT, Side, Two, two_nodes

FAULTS = int(os.environ.get("BERTH_FAULTS", "100"))
SEED = int(os.environ.get("BERTH_FAULTS_SEED", "1"))
RATES = (8 << 20, 64 << 20, None)
"""Bytes a second: some moves are slow, some as fast as they go."""
COUNT = (
    "dd if=/dev/urandom of=/tmp/m bs=1024 count=1024 2>/dev/null; s=$(md5sum </tmp/m); i=0; "
    "while :; do echo n$i; i=$((i+1)); usleep 2000; "
    '[ $((i % 500)) = 0 ] && [ "$(md5sum </tmp/m)" != "$s" ] && echo memory is spoi\'\'led; done'
)
"""The guest's shell counts, and looks at a megabyte of its memory again and again."""

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120 + 90 * FAULTS)]


@pytest.fixture
async def two(tmp_path: Path, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[Two]:
    async with two_nodes(tmp_path, start_pod) as made:
        yield made


# --- what is broken


async def agent(*sides: Side) -> None:
    for side in sides:
        await side.agent.kill()
    for side in sides:
        await side.agent.start(BERTH_PEER_PORT=str(PEER_PORT))


async def libvirtd(*sides: Side) -> None:
    for side in sides:
        await asyncio.to_thread(side.node.kill_libvirtd)
    for side in sides:
        await asyncio.to_thread(side.node.start_libvirtd)


async def copy(two: Two) -> None:
    assert two.order is not None
    pid = two.b.node.qemu(two.order.uid)
    assert pid, "there is no copy"
    os.kill(pid, signal.SIGKILL)


def link(seconds: float) -> Callable[[Two], Awaitable[None]]:
    async def cut(two: Two) -> None:
        await asyncio.to_thread(two.a.node.cut, two.b.node.address)
        await asyncio.to_thread(two.b.node.cut, two.a.node.address)
        if seconds < FOR_EVER:
            await asyncio.sleep(seconds)
            await mend(two)

    return cut


async def mend(two: Two) -> None:
    for side in (two.a, two.b):
        await asyncio.to_thread(side.node.mend)


FOR_EVER = float("inf")
"""Until it has come to rest."""
BREAK: dict[str, Callable[[Two], Awaitable[None]]] = {
    "the source's agent": lambda two: agent(two.a),
    "the target's agent": lambda two: agent(two.b),
    "both agents": lambda two: agent(two.a, two.b),
    "the source's libvirtd": lambda two: libvirtd(two.a),
    "the target's libvirtd": lambda two: libvirtd(two.b),
    "both libvirtds": lambda two: libvirtd(two.a, two.b),
    "the copy's QEMU": copy,
    "the link for 1 s": link(1),
    "the link for 10 s": link(10),
    "the link for 60 s": link(60),
    "the link for ever": link(FOR_EVER),
}
WEIGHTS = [3, 3, 3, 3, 3, 3, 3, 3, 2, 1, 3]


# --- when


async def at_once(two: Two, uid: str) -> None:
    """Before the source knows that it is to send."""


async def sent(two: Two, uid: str) -> None:
    """Some of the memory is over there; or it went so fast that all of it is."""

    def some() -> bool:
        said = two.a.report(uid).get("migration") or {}
        return said.get("sent", 0) > random.randrange(1, 60) << 20 or said.get("state") != "Sending"

    await two.a.controller.hears(lambda: two.a.migration(uid) == "Sending", "the source sends", 60)
    await two.a.controller.hears(some, "some of it sent", 60)


async def stopped(two: Two, uid: str) -> None:
    """The guest stands still at the source."""
    await asyncio.to_thread(two.stopped, uid)


async def dead(two: Two, uid: str) -> None:
    """The source has let go, and nobody knows it yet."""
    await asyncio.to_thread(two.dead, two.a.node.qemu(uid))


MOMENTS = {"before": at_once, "sending": sent, "stopped": stopped, "let go": dead}


# --- the controller's part


def said(side: Side, order: Order, migration: str) -> dict[str, object]:
    """The node's word on this very migration."""
    found = side.report(order.uid).get("migration") or {}
    return dict(found) if found.get("uid") == migration else {}


async def comes_to_rest(two: Two, source: Order, target: Order) -> bool:
    """Tell both what is to be until the guest has moved for good, or stays for good."""
    assert source.outgoing is not None
    assert target.incoming is not None
    migration = source.outgoing.migration
    released = target.model_copy(update={"incoming": target.incoming.model_copy(update={"released": True})})
    async with asyncio.timeout(150):
        while True:
            here, there = said(two.a, source, migration), said(two.b, target, migration)
            if there.get("state") == "Arrived":
                return True
            if here.get("state") == "Failed" or there.get("state") == "Failed":
                return False
            alone = here.get("state") == "HandedOver" and there.get("alone")
            await two.a.controller.send(source)
            await two.b.controller.send(released if alone else target)
            await asyncio.sleep(0.5)


async def clear(two: Two, target: Order, *, moved: bool) -> None:
    """What is left of the move goes."""
    assert two.order is not None
    if moved:
        await two.give_back(two.a)
        two.turn_round(target)
    else:
        await two.a.controller.send(two.order)
        await two.give_back(two.b)
    await two.a.controller.send(two.order)
    await mend(two)


def whole(two: Two) -> int:
    """How far it has counted, nothing left out and nothing twice: then no second copy ever ran."""
    numbers = two.counted(two.a)
    assert numbers == list(range(len(numbers))), "a number is missing, or came twice"
    assert two.a.console is not None
    assert "memory is spoiled" not in two.a.console.text
    return len(numbers)


async def test_whatever_breaks_one_copy_runs_and_its_memory_is_whole(two: Two) -> None:
    draw = random.Random(SEED)
    random.seed(SEED)
    uid = await two.start(COUNT)
    ends: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for number in range(FAULTS):
        [what] = draw.choices(list(BREAK), WEIGHTS)
        when, rate = draw.choice(list(MOMENTS)), draw.choice(RATES)
        if what == "the copy's QEMU":  # once the source has let go, it is no copy any more: the guest would be lost
            when, rate = "sending", RATES[0]
        source, target = await two.listening(bytes_per_second=rate)
        print(f"{number}: {what} {when} at {rate}", flush=True)
        moment = asyncio.create_task(MOMENTS[when](two, uid))
        if when != "before":
            await two.a.controller.send(source)
        await moment
        broken = asyncio.create_task(BREAK[what](two))
        moved = await comes_to_rest(two, source, target)
        at = await two.one_runs(uid, 90)
        assert at == (two.b if moved else two.a).node.name
        await broken
        await clear(two, target, moved=moved)
        assert await two.one_runs(uid) == at
        await two.counts_on(two.a)
        ends[what, when, "moved" if moved else "stayed"] += 1
        print(f"{number}: {'moved' if moved else 'stayed'}; counted to {whole(two)}", flush=True)
    for (what, when, end), count in sorted(ends.items()):
        print(f"{what:24} {when:8} {end:7} {count}")
