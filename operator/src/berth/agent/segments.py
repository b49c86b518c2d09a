"""The node's segments: who is on them in, as the controller tells; kept tidy now and then. Used by api.py and node.py.

It remembers nothing itself, and decides nothing: a port does both.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from berth.agent.world import World
from berth.api.order import SegmentMembers
from berth.errors import BerthError

TIDY_SECONDS: Final = 30.0
"""How long the devices of a segment may stay that no guest is on any more: a pod takes its time to go."""
_log = logging.getLogger(__name__)


class Segments:
    def __init__(self, world: World) -> None:
        self._world = world

    async def take(self, members: SegmentMembers) -> None:
        """Make it so before the answer; the same again changes nothing."""
        await self._world.run(self._world.network.set_members, members)

    async def all(self) -> list[SegmentMembers]:
        return await self._world.run(self._world.network.members)

    async def run(self) -> None:
        """At once, for the guards must stand before strangers come; then again and again."""
        while True:
            try:
                await self._world.run(self._world.network.tidy)
            except BerthError as error:
                _log.warning("segments cannot be tidied", extra={"reason": error.reason, "error": str(error)})
            await asyncio.sleep(TIDY_SECONDS)
