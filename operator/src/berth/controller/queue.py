"""The work queue: bells in, one reconcile at a time per machine out, a bounded number at once, back-off on failure.

A bell that rings while its machine is worked on makes it be worked on once more afterwards; a hundred bells are one.
Used by main.py; it knows nothing of machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from berth.errors import Unavailable
from berth.plan.backoff import retry_seconds

Key = TypeVar("Key", bound=Hashable)
Work = Callable[[Key, float], Awaitable[float | None]]
"""Works on one key; given when its bell rang (time.monotonic), it says in how many seconds to look again."""

DEPTH = Gauge("berth_queue_depth", "Machines waiting for a reconcile.")
RECONCILES = Counter("berth_reconciles", "Reconciles done.", ["outcome"])
SECONDS = Histogram("berth_reconcile_seconds", "Time from bell to end of a reconcile.")
_log = logging.getLogger(__name__)


class Queue(Generic[Key]):
    def __init__(self, work: Work[Key], workers: int) -> None:
        self._work = work
        self._workers = workers
        self._waiting: dict[Key, float] = {}  # with the time of the first bell; in order
        self._busy: set[Key] = set()
        self._again: dict[Key, float] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._some = asyncio.Semaphore(0)

    def ring(self, key: Key) -> None:
        """There may be something to do."""
        if key in self._busy:
            self._again.setdefault(key, time.monotonic())
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            DEPTH.set(len(self._waiting))
            self._some.release()

    def ring_in(self, key: Key, seconds: float) -> None:
        """Ring later; the last word on when counts."""
        self._cancel(key)
        self._timers[key] = asyncio.get_running_loop().call_later(max(seconds, 0.0), self._timed, key)

    def forget(self, key: Key) -> None:
        """The machine is no more."""
        self._cancel(key)
        self._failures.pop(key, None)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._busy

    async def run(self) -> None:
        """Work for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._workers):
                group.create_task(self._worker())

    def _timed(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.ring(key)

    def _cancel(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def _worker(self) -> None:
        while True:
            await self._some.acquire()
            key = next(iter(self._waiting))
            rang = self._waiting.pop(key)
            DEPTH.set(len(self._waiting))
            self._busy.add(key)
            try:
                await self._one(key, rang)
            finally:
                self._busy.discard(key)
            if self._again.pop(key, None) is not None:
                self.ring(key)

    async def _one(self, key: Key, rang: float) -> None:
        with contextlib.suppress(KeyError):
            self._cancel(key)
        try:
            again = await self._work(key, rang)
        except Exception as error:  # one machine's trouble must not end the others' worker
            again = self._failed(key, error)
        else:
            self._failures.pop(key, None)
            RECONCILES.labels("done").inc()
        SECONDS.observe(time.monotonic() - rang)
        if again is not None and key not in self._again:
            self.ring_in(key, again)

    def _failed(self, key: Key, error: Exception) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        RECONCILES.labels("failed").inc()
        wait = retry_seconds(failures, first=0.2, longest=30)
        expected = isinstance(error, Unavailable)
        _log.log(
            logging.WARNING if expected else logging.ERROR,
            "reconcile of %s failed, again in %.1f s: %s",
            key,
            wait,
            error,
            exc_info=None if expected else error,
        )
        return wait
