"""The work queue: one at a time per key, a bounded number at once, nothing forgotten."""

from __future__ import annotations

import asyncio
from collections import Counter

from berth.controller.queue import Queue
from berth.errors import Unavailable
from tests.unit.controller.apiserver import until


async def test_a_hundred_bells_are_one_and_one_more_afterwards() -> None:
    runs: Counter[str] = Counter()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def work(key: str, _: float) -> float | None:
        runs[key] += 1
        begun.set()
        await go_on.wait()
        return None

    queue: Queue[str] = Queue(work, 4)
    for _ in range(100):
        queue.ring("a")
    task = asyncio.create_task(queue.run())
    await begun.wait()
    for _ in range(100):
        queue.ring("a")
    assert runs["a"] == 1
    go_on.set()
    await until(lambda: queue.idle and runs["a"] == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_keys_run_side_by_side_up_to_the_limit() -> None:
    busy, most = 0, 0
    done: Counter[int] = Counter()

    async def work(key: int, _: float) -> float | None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.001)
        busy -= 1
        done[key] += 1
        return None

    queue: Queue[int] = Queue(work, 3)
    for key in range(20):
        queue.ring(key)
    task = asyncio.create_task(queue.run())
    await until(lambda: len(done) == 20)
    assert most == 3
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_it_looks_again_when_told_and_after_failures() -> None:
    runs: Counter[str] = Counter()

    async def work(key: str, _: float) -> float | None:
        runs[key] += 1
        if key == "fails" and runs[key] < 3:
            raise Unavailable("not now")
        if key == "breaks" and runs[key] < 2:
            raise ValueError("a bug")
        return 0.01 if key == "again" and runs[key] < 3 else None

    queue: Queue[str] = Queue(work, 1)
    for key in ("again", "fails", "breaks"):
        queue.ring(key)
    task = asyncio.create_task(queue.run())
    await until(lambda: runs["again"] == 3 and runs["fails"] == 3 and runs["breaks"] == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_machine_that_is_no_more_is_not_looked_at_again() -> None:
    runs: Counter[str] = Counter()

    async def work(key: str, _: float) -> float | None:
        runs[key] += 1
        return None

    queue: Queue[str] = Queue(work, 1)
    queue.ring_in("a", 0.01)
    queue.forget("a")
    queue.ring_in("b", 0.03)
    task = asyncio.create_task(queue.run())
    await until(lambda: runs["b"] == 1)
    assert runs["a"] == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
