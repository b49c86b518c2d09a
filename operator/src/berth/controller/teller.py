"""Events about machines, told in the background: what was said a moment ago is not said again, and nobody waits for it.

Fed by the reconcile; one task sends. A full queue drops what comes, for an Event is help and never a record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from berth.effects.ports_cluster import ClusterPort
from berth.errors import BerthError
from berth.plan.tell import Tell
from berth.plan.world import Machine

AGAIN_SECONDS: Final = 600.0
REMEMBERED: Final = 2000
_log = logging.getLogger(__name__)


class Teller:
    def __init__(self, cluster: ClusterPort) -> None:
        self._cluster = cluster
        self._waiting: asyncio.Queue[tuple[Machine, Tell]] = asyncio.Queue(1000)
        self._told: dict[tuple[str, str, str], float] = {}

    def tell(self, machine: Machine, tell: Tell) -> None:
        key, now = (machine.uid, tell.reason, tell.message), time.monotonic()
        if tell.warning and now - self._told.get(key, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        self._told.pop(key, None)
        self._told[key] = now
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        try:
            self._waiting.put_nowait((machine, tell))
        except asyncio.QueueFull:
            _log.warning("an Event was dropped: %s: %s", tell.reason, tell.message)

    async def run(self) -> None:
        while True:
            machine, tell = await self._waiting.get()
            try:
                await self._cluster.tell(machine, tell)
            except BerthError as error:
                _log.warning("an Event could not be told (%s): %s", tell.reason, error)
