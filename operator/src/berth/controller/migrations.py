"""Migrations: what the controller last saw of them, and what it says of them after each look at their machine.

A Migration has no reconcile of its own: its machine's (reconcile.py) plans with the one that is under way, and comes
here last. So there is one thing at a time for one machine, and what a Migration says rests on what its plan saw.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from berth.controller.known import Indexed
from berth.effects.ports_cluster import ClusterPort, Conflict, NotFound
from berth.plan import migration_status as saying
from berth.plan import moves, moving_on
from berth.plan.moves import Key, Limits, Move
from berth.plan.status import merge_patch
from berth.plan.times import format_time
from berth.plan.world import World

PROGRESS_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


class Migrations(Indexed[Move]):
    """The Migrations as they were last seen."""

    def __init__(self) -> None:
        super().__init__(moves.read, lambda move: (move.of,))

    def of(self, machine: Key) -> list[Move]:
        """A machine's Migrations that are not finished, who goes first first."""
        mine = [move for move in self.found_by(machine) if not move.finished]
        return sorted(mine, key=lambda move: (not move.underway, move.order))

    def surplus(self, machine: Key) -> list[Move]:
        return moves.surplus(self.found_by(machine))

    def underway(self, machine: Key) -> Move | None:
        return next((move for move in self.of(machine) if move.underway), None)


class Speaker:
    """Writes Migrations' statuses. ``freed`` is told when one has ended: others may have their turn."""

    def __init__(
        self,
        known: Migrations,
        cluster: ClusterPort,
        limits: Limits,
        freed: Callable[[Move], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._known = known
        self._cluster = cluster
        self._limits = limits
        self._freed = freed
        self._clock = clock
        self._written: dict[str, datetime] = {}

    async def speak(self, machine: Key, world: World | None) -> float | None:
        """All of one machine's; in how many seconds to look again."""
        waits = [await self._one(move, machine, world) for move in self._known.of(machine)]
        for move in self._known.surplus(machine):
            await self._cluster.remove_migration(move)
            self._known.lose(move.key, move.uid)
        return min((wait for wait in waits if wait is not None), default=None)

    async def _one(self, move: Move, machine: Key, world: World | None) -> float | None:
        word = await self._word(move, machine, world)
        if word is None:
            return 1.0
        new = saying.status(move, word, world, format_time(self._clock()))
        patch = merge_patch(self._known.stored(move.key), saying.as_json(new))
        if saying.only_progress(patch):
            left = self._left(move)
            if left > 0:
                return left
        if not patch:
            return None
        try:
            self._known.see(await self._cluster.write_migration_status(move, patch))
        except NotFound:
            self._known.lose(move.key, move.uid)
            return 0.0
        except Conflict:
            return 0.2  # the news is on the way
        self._written[move.uid] = self._clock()
        if new.phase is not move.phase or new.ending is not move.ending:
            return self._has_changed(move, new.phase.value, word.reason)
        return None

    async def _word(self, move: Move, machine: Key, world: World | None) -> moving_on.Word | None:
        """None when nothing can be said yet: the machine is there, and not known here."""
        if world is not None:
            return moving_on.word(world, move, self._known.all(), self._limits)
        if await self._cluster.machine(*machine) is not None:
            return None
        return moving_on.without_machine(move)

    def _left(self, move: Move) -> float:
        at = self._written.get(move.uid)
        return PROGRESS_SECONDS - (self._clock() - at).total_seconds() if at is not None else 0.0

    def _has_changed(self, move: Move, phase: str, reason: str) -> float:
        _log.info("migration", extra={"migration": f"{move.namespace}/{move.name}", "phase": phase, "reason": reason})
        now = next((each for each in self._known.all() if each.uid == move.uid), None)
        if now is None or now.finished:
            self._written.pop(move.uid, None)
            self._freed(move)
        return 0.0
