"""Snapshots: what the controller last saw of them, and what it says of them after each look at their machine.

A Snapshot has no reconcile of its own: its machine's (reconcile.py) tells its node what to take, and comes here last. A
Snapshot that is about to be taken gets its finalizer first, and the machine as its owner: it goes with it, and not
before its files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from berth.api.snapshot import FINALIZER, SnapshotPhase
from berth.controller.known import Indexed, Key
from berth.effects.ports_cluster import ClusterPort, Conflict, NotFound
from berth.plan import snap_status as saying
from berth.plan import snaps, taking
from berth.plan.snaps import Snap
from berth.plan.status import merge_patch
from berth.plan.taking import Word
from berth.plan.times import format_time
from berth.plan.world import Object, World, owner_reference

PROGRESS_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


class Snapshots(Indexed[Snap]):
    """The Snapshots as they were last seen."""

    def __init__(self) -> None:
        super().__init__(snaps.read, lambda snap: (snap.of,))

    def of(self, machine: Key) -> tuple[Snap, ...]:
        """All of a machine's, who comes first first."""
        return tuple(sorted(self.found_by(machine), key=lambda snap: snap.order))


class Speaker:
    """Writes Snapshots' statuses, and holds them as long as they have files."""

    def __init__(self, known: Snapshots, cluster: ClusterPort, clock: Callable[[], datetime]) -> None:
        self._known = known
        self._cluster = cluster
        self._clock = clock
        self._written: dict[str, datetime] = {}

    async def speak(self, machine: Key, world: World | None) -> float | None:
        """All of one machine's; in how many seconds to look again."""
        waits = [await self._try(snap, machine, world) for snap in self._known.of(machine)]
        return min((wait for wait in waits if wait is not None), default=None)

    async def _try(self, snap: Snap, machine: Key, world: World | None) -> float | None:
        try:
            return await self._one(snap, machine, world)
        except NotFound:
            self._known.lose(snap.key, snap.uid)
            return 0.0
        except Conflict:
            return 0.2  # the news is on the way

    async def _one(self, snap: Snap, machine: Key, world: World | None) -> float | None:
        if world is None and await self._cluster.machine(*machine) is not None:
            return 1.0  # the machine is there, and not known here
        if world is None or taking.releases(world, snap):
            if snap.deleted and snap.held:
                return await self._hold(snap, {"finalizers": [f for f in snap.finalizers if f != FINALIZER]})
        elif taking.holds(world, snap):
            return await self._hold(snap, _held(snap, world))
        word = taking.word(world, snap) if world is not None else taking.without_machine(snap)
        return await self._say(snap, word, world)

    async def _hold(self, snap: Snap, metadata: Object) -> float:
        """What is ordered rests on it: the machine is looked at again."""
        obj = await self._cluster.set_snapshot_metadata(snap, metadata)
        if snap.deleted and not obj["metadata"].get("finalizers"):
            self._known.lose(snap.key, snap.uid)
        else:
            self._known.see(obj)
        return 0.0

    async def _say(self, snap: Snap, word: Word, world: World | None) -> float | None:
        new = saying.status(snap, word, world, format_time(self._clock()))
        patch = merge_patch(self._known.stored(snap.key), saying.as_json(new))
        if saying.only_progress(patch) and (left := self._left(snap)) > 0:
            return left
        if not patch:
            return None
        self._known.see(await self._cluster.write_snapshot_status(snap, patch))
        if new.phase is snap.phase:
            self._written[snap.uid] = self._clock()
            return None
        self._written.pop(snap.uid, None)
        _tell(snap, new.phase, word)
        return 0.0

    def _left(self, snap: Snap) -> float:
        at = self._written.get(snap.uid)
        return PROGRESS_SECONDS - (self._clock() - at).total_seconds() if at is not None else 0.0


def _held(snap: Snap, world: World) -> Object:
    """The garbage collector removes it with its machine."""
    owner = {**owner_reference(world.machine), "controller": False}
    return {"finalizers": [*snap.finalizers, FINALIZER], "ownerReferences": [owner]}


def _tell(snap: Snap, phase: SnapshotPhase, word: Word) -> None:
    said = {"snapshot": f"{snap.namespace}/{snap.name}", "phase": phase.value, "reason": word.reason}
    _log.info("snapshot", extra=said)
