"""Disks that are copied and memory that goes compressed over several connections, in one move: nothing of either is
lost, and a move that comes to nothing leaves the guest at its source, whatever it had come to."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from berth.api.order import Order
from tests.contract import pods
from tests.contract.test_agent_disks import CALM_LOOP, DATA, FILL, OLD, SIZE, blocks, file, opened
from tests.contract.test_agent_methods import told, with_cpus
from tests.contract.test_agent_moves import KILLS
from tests.contract.two_nodes import Side, Two, two_nodes

pytestmark = pytest.mark.timeout(240)  # several moves in one test, each with a disk and a survey
SLOW = 6 << 20
"""Bytes a second: the disk takes seconds, and the memory longer."""
KEEP = "dd if=/dev/urandom of=/kept bs=1M count=8 2>/dev/null; echo sum-$(sha256sum </kept)\n"
"""Memory that does not compress."""
SUM = r"sum-([0-9a-f]{64})"


@pytest.fixture
async def two(tmp_path: Path, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[Two]:
    async with two_nodes(tmp_path, start_pod) as made:
        yield made


async def writes(two: Two) -> str:
    """A guest with something in its memory, that writes to its disk; its uid."""
    return await two.start(f"{FILL}{KEEP}({CALM_LOOP}) &", 20, disks=(DATA,))


async def surveyed(two: Two) -> Order:
    """The source's order to send it, once its agent has found out that compressing pays."""
    await with_cpus(two.a, 4)
    source, _ = await two.listening(bytes_per_second=SLOW)
    source = source.model_copy(update={"leaving": source.outgoing})
    await two.a.controller.send(source.model_copy(update={"outgoing": None, "forward": None}))
    foretold = await two.hears(two.a, source.uid, "Surveyed")
    assert foretold["method"].startswith("multifd: ")
    print(f"foretold {foretold}")
    return source


async def compresses(two: Two) -> str:
    """The disk is over there, and some of the memory; the guest's uid."""
    source = await surveyed(two)
    await two.a.controller.send(source)

    def some() -> bool:
        said = two.a.report(source.uid).get("migration") or {}
        return bool(said.get("state") == "Sending" and said["rounds"] >= 1 and said["remaining"] > SLOW)

    await two.a.controller.hears(some, "some of the memory sent", 120)
    return source.uid


def sums(side: Side) -> list[str]:
    assert side.console is not None
    return re.findall(SUM, side.console.text)


async def whole(two: Two, side: Side, before: list[str]) -> None:
    """Its memory is what it was, and its disk has every block that it was told of as written."""
    assert side.console is not None
    await two.counts_on(side)
    count = len(sums(side))
    side.console.type("echo sum-$(sha256sum </kept)")
    await asyncio.to_thread(pods.until, lambda: len(sums(side)) > count, 60, "the sum of its memory")
    assert sums(side)[-1:] == before
    numbers = [int(n) for n in re.findall(r"\bn(\d+)\r\n", side.console.text)]
    written = blocks(side)
    assert written == list(range(len(written))), "a block is missing, or is somewhere else"
    assert numbers[-1] < len(written), "a block that was acknowledged is not there"


async def stays(two: Two, uid: str, before: list[str]) -> None:
    failed = await two.hears(two.a, uid, "Failed")
    print(failed["reason"], failed["message"])
    assert await two.one_runs(uid) == two.a.node.name
    await whole(two, two.a, before)
    assert opened(file(two.b)) == []
    await two.give_back(two.b)
    assert two.b.node.run("ls", "/run/berth/vms") == ""


async def test_memory_and_disk_are_whole_at_the_other_node(two: Two) -> None:
    uid = await writes(two)
    before = sums(two.a)
    source = await surveyed(two)
    begun, carried = time.monotonic(), two.a.node.sent()
    await two.a.controller.send(source)
    arrived = await two.hears(two.b, uid, "Arrived", 240)
    rate = (two.a.node.sent() - carried) / (time.monotonic() - begun)
    assert rate < 1.1 * SLOW, "it takes more of the way than it may"
    await two.a.controller.hears_state(uid, "Moved")
    assert await two.one_runs(uid) == two.b.node.name
    sending = [said for said in told(two.a, uid) if said["state"] == "Sending"]
    print(f"pause {arrived['pauseMs']} ms; {sending[-1]}")
    assert all(said["method"].startswith("multifd: ") for said in sending if said["method"])
    assert sending[-1]["sent"] < sending[-1]["total"], "nothing was compressed"
    await whole(two, two.b, before)
    ours, theirs = file(two.a).read_bytes(), file(two.b).read_bytes()
    assert ours[OLD:] == theirs[OLD:] != bytes(SIZE - OLD)


async def test_given_up_while_memory_is_compressed_it_stays_and_moves_later(two: Two) -> None:
    uid = await writes(two)
    before = sums(two.a)
    assert two.order is not None
    await compresses(two)
    await two.a.controller.send(two.order)
    await stays(two, uid, before)
    assert told(two.a, uid)[-1]["reason"] == "Cancelled"
    source, _ = await two.listening()
    await two.a.controller.send(source)
    await two.hears(two.b, uid, "Arrived", 120)
    await whole(two, two.b, before)


@pytest.mark.parametrize("what", ["the source's libvirtd", "the copy's QEMU"])
async def test_whatever_is_killed_while_memory_is_compressed_it_stays(two: Two, what: str) -> None:
    kill, where = KILLS[what]
    uid = await writes(two)
    before = sums(two.a)
    await compresses(two)
    await kill(two.a if where == "a" else two.b)
    await stays(two, uid, before)
