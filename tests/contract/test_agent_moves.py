"""Running guests move between two real agents, libvirts and QEMUs; and whatever is killed, one copy runs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.contract import pods
from tests.contract.two_nodes import Two, two_nodes


@pytest.fixture
async def two(tmp_path: Path, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[Two]:
    async with two_nodes(tmp_path, start_pod) as made:
        yield made


async def test_a_guest_moves_and_counts_on(two: Two) -> None:
    uid = await two.start()
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
