"""A limit on what goes through several connections together. Used as a passage of relays (relay.py), by the agent.

Each connection has a thread of its own, which waits here until what it carries may go.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """So many bytes in a second, on the average; nothing is saved up while nothing goes."""

    def __init__(
        self,
        bytes_per_second: int,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._rate = max(bytes_per_second, 1)
        self._lifted = threading.Event()
        self._now, self._sleep = now, sleep or self._lifted.wait
        self._lock = threading.Lock()
        self._free_at = 0.0

    def lift(self) -> None:
        """No limit from here on, nor for what waits here already."""
        self._lifted.set()

    def passage(self, data: memoryview) -> memoryview:
        if self._lifted.is_set():
            return data
        with self._lock:
            begin = max(self._now(), self._free_at)
            self._free_at = begin + len(data) / self._rate
        wait = begin - self._now()
        if wait > 0:
            self._sleep(wait)
        return data
