"""Looks for berth processes that orders wait for, often at first, and rings when one is there. Used by reconcile.py.

cgroupfs announces nothing, and a guest's start waits for this moment: so it looks every 20 ms for a while, at nothing
but the pod's cgroup.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from berth.agent.world import World

_PACES: Final = ((20.0, 0.02), (120.0, 0.2))  # until so many seconds after the order: look this often
_SLOW: Final = 1.0


@dataclass(slots=True)
class _Waiting:
    uid: str
    since: float
    next: float


class BerthWatch:
    def __init__(self, world: World, ring: Callable[[str], None]) -> None:
        self._world = world
        self._ring = ring
        self._waiting: dict[str, _Waiting] = {}
        self._some = asyncio.Event()

    def wait_for(self, pod_uid: str, uid: str) -> None:
        """Instead of what was waited for on the machine's behalf before."""
        now = asyncio.get_running_loop().time()
        if pod_uid not in self._waiting:
            self.forget(uid)
            self._waiting[pod_uid] = _Waiting(uid, now, now)
            self._some.set()

    def forget(self, uid: str) -> None:
        for pod in [pod for pod, waiting in self._waiting.items() if waiting.uid == uid]:
            del self._waiting[pod]

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            now = loop.time()
            due = [pod for pod, waiting in self._waiting.items() if waiting.next <= now]
            for pod in due and await self._world.run(self._found, due):
                if (waiting := self._waiting.pop(pod, None)) is not None:
                    self._ring(waiting.uid)
            for pod in due:
                if (waiting := self._waiting.get(pod)) is not None:
                    waiting.next = loop.time() + _pace(now - waiting.since)
            if not self._waiting:
                self._some.clear()
                continue
            await asyncio.sleep(max(min(w.next for w in self._waiting.values()) - loop.time(), 0.001))

    def _found(self, pods: list[str]) -> list[str]:
        return [pod for pod in pods if self._world.berths.find(pod) is not None]


def _pace(age: float) -> float:
    return next((pace for until, pace in _PACES if age < until), _SLOW)
