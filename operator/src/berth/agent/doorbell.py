"""A queue of keys to look at, soonest first, each by one worker at a time. Used by node.py's workers.

Ringing says "look again", never what happened. A key rung while it is being worked on is looked at once more later.
It knows nothing of machines.
"""

from __future__ import annotations

import asyncio


class Doorbell:
    """For the loop's own thread only; other threads ring through ``loop.call_soon_threadsafe``."""

    def __init__(self) -> None:
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        self._working: set[str] = set()
        self._again: set[str] = set()  # rung while being worked on

    def ring(self, key: str, delay: float = 0.0) -> None:
        """Look at the key in ``delay`` seconds at the latest; an earlier ring stays."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + delay:
            return
        if timer is not None:
            self._timers.pop(key).cancel()
        if delay > 0:
            self._timers[key] = loop.call_later(delay, self._due, key)
        else:
            self._due(key)

    async def next(self) -> str:
        """The next key that is due. The caller says ``done`` when it has looked at it."""
        key = await self._ready.get()
        self._queued.discard(key)
        self._working.add(key)
        return key

    def done(self, key: str) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._due(key)

    def forget(self, key: str) -> None:
        """Drop a waiting timer: there is nothing to look at any more."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)
