"""The doorbell: what is rung is looked at once, by one worker at a time, and never forgotten."""

from __future__ import annotations

import asyncio

import pytest

from berth.agent.doorbell import Doorbell


async def taken(bell: Doorbell) -> str:
    return await asyncio.wait_for(bell.next(), 1)


async def nothing(bell: Doorbell) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bell.next(), 0.05)


async def test_rings_are_answered_in_order_and_once() -> None:
    bell = Doorbell()
    for key in ("a", "b", "a"):
        bell.ring(key)
    assert [await taken(bell), await taken(bell)] == ["a", "b"]
    await nothing(bell)


async def test_a_key_in_work_is_looked_at_again_afterwards_only() -> None:
    bell = Doorbell()
    bell.ring("a")
    await taken(bell)
    bell.ring("a")
    bell.ring("a")
    await nothing(bell)
    bell.done("a")
    assert await taken(bell) == "a"
    bell.done("a")
    await nothing(bell)


async def test_an_earlier_ring_wins() -> None:
    bell = Doorbell()
    bell.ring("a", 10)
    bell.ring("a", 0.01)
    bell.ring("a", 5)
    assert await taken(bell) == "a"
    bell.done("a")
    await nothing(bell)


async def test_a_delayed_ring_waits_its_time() -> None:
    bell = Doorbell()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    bell.ring("a", 0.05)
    await taken(bell)
    assert loop.time() - begin >= 0.05


async def test_what_is_forgotten_rings_no_more() -> None:
    bell = Doorbell()
    bell.ring("a", 0.01)
    bell.forget("a")
    bell.forget("never rung")
    await nothing(bell)


async def test_a_timer_that_ends_during_work_is_kept() -> None:
    bell = Doorbell()
    bell.ring("a")
    await taken(bell)
    bell.ring("a", 0.01)
    await asyncio.sleep(0.03)
    bell.done("a")
    assert await taken(bell) == "a"
