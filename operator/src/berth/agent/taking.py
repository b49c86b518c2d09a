"""One attempt at taking a snapshot: memory while the guest stands still, then its disks as they were at that moment,
while it runs on. Used by snapshots.py.

What fails, at any moment, costs the snapshot alone: libvirt's job is ended, the guest runs on, the files are removed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from berth.agent import copies
from berth.agent.copies import ports
from berth.agent.works import AT_ONCE
from berth.agent.world import Snapshotting, World
from berth.api.kept import Consistency, SnapshotDisk, SnapshotOrder, SnapshotReport, SnapshotState, StateOrder
from berth.domain.copied import Copied
from berth.effects.ports import Berth
from berth.effects.ports_saving import Copying, Held, SnapshotDraft, SnapshotMoment
from berth.errors import BerthError, HostFault, HypervisorDown

TAKE_SECONDS: Final = 3600.0
"""What makes no progress for so long is given up: its volume does not answer."""
THAW_SECONDS: Final = 2.0
THAW_TRIES: Final = 60
"""An agent that was asked to freeze and is silent may still be writing out, and freeze at the end of it."""
END_TRIES: Final = 3
"""So often by an agent that finds it so: the machine waits for that."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Taking:
    """``ran``: whether the guest is to run on. ``kind`` is its machine type. ``told`` is called at each news."""

    world: World
    uid: str
    guest_uid: int
    berth: Berth
    state: StateOrder
    snapshot: SnapshotOrder
    disks: tuple[Copied, ...]
    ran: bool
    kind: str
    aborted: Callable[[], bool]
    told: Callable[[], None]
    stage: SnapshotState = SnapshotState.WAITING
    percent: int | None = None
    sizes: tuple[SnapshotDisk, ...] = ()
    stopped_at: float | None = None
    pause_ms: int | None = None
    taken_at: str = ""
    consistency: Consistency = Consistency.CRASH
    where: tuple[str, Berth, StateOrder] = field(init=False)
    patience: asyncio.Timeout | None = None
    copied: int = 0

    def __post_init__(self) -> None:
        self.where = (self.uid, self.berth, self.state)

    def report(self) -> SnapshotReport:
        waits = self.stage is SnapshotState.WAITING
        return SnapshotReport(
            uid=self.snapshot.uid,
            state=self.stage,
            percent=self.percent,
            disks=self.sizes,
            pause_ms=self.pause_ms,
            taken_at=self.taken_at or None,
            message=f"snapshots of {AT_ONCE} machines of a node are taken at a time" if waits else "",
        )

    async def run(self) -> dict[str, object]:
        try:
            try:
                async with asyncio.timeout(TAKE_SECONDS) as self.patience:
                    await self._take()
            except TimeoutError as error:
                text = f"nothing of it was written for {TAKE_SECONDS:.0f} s. Next: see whether the volume answers"
                raise HostFault(text, reason="DeadlineExceeded") from error
            await self._finish()
        except HypervisorDown as error:
            await self._clear()
            text = f"libvirtd went away meanwhile. Next: take another snapshot ({error})"
            raise HostFault(text, reason="HypervisorDown") from error
        except BerthError:
            await self._clear()
            raise
        await self.world.run(self._ports.files.unmark, self.uid)
        return {"snapshot": self.snapshot.uid, "pause_ms": self.pause_ms, "consistency": self.consistency.value}

    async def _take(self) -> None:
        run = self.world.run
        self._news(SnapshotState.SAVING if self.snapshot.memory else SnapshotState.COPYING)
        self.sizes = await copies.sizes(self.world, self.uid, self.disks)
        files = self._ports.files
        draft = await run(files.draft, self.uid, self.guest_uid, self.berth, self.state, self.snapshot, self.sizes)
        self._go_on()
        await run(self._ports.backups.abort, self.uid)  # an earlier agent's, which libvirt has not ended yet
        if draft.memory is not None:
            await self._with_memory(draft, draft.memory)
        else:
            await self._disks_alone(draft)
        self._news(SnapshotState.COPYING)
        if self.disks:
            await copies.copied(self.world, self.uid, self._go_on, self._far)

    async def _with_memory(self, draft: SnapshotDraft, memory: str) -> None:
        run, hypervisor = self.world.run, self.world.hypervisor
        self.consistency = Consistency.MEMORY
        if self.ran:
            self.stopped_at = time.monotonic()
            await run(hypervisor.suspend, self.uid)
        self._now()
        await run(hypervisor.save, self.uid, memory)
        self._go_on()
        if self.disks:
            await run(self._ports.backups.activate, self.uid)
            await self._begin(draft)
        await self._let_run()

    async def _disks_alone(self, draft: SnapshotDraft) -> None:
        if not self.disks:
            text = "the machine has no disk that it can write, and its memory is not asked for"
            raise HostFault(f"{text}. Next: take a snapshot with its memory", reason="NothingToSnapshot")
        held = await self._freeze() if self.ran else Held.NO
        try:
            self._now()
            await self._begin(draft)
            self.consistency = Consistency.FILESYSTEM if held is Held.YES else Consistency.CRASH
        finally:
            if held is not Held.NO:
                await thaw(self.world, self.uid, THAW_TRIES)

    async def _freeze(self) -> Held:
        """Noted first: whoever finds the note lets go of the guest's file systems."""
        await self.world.run(self._ports.files.mark_frozen, self.uid, frozen=True)
        held = await self.world.run(self._ports.backups.freeze, self.uid)
        if held is Held.NO:
            await self.world.run(self._ports.files.mark_frozen, self.uid, frozen=False)
        return held

    async def _begin(self, draft: SnapshotDraft) -> None:
        targets = {disk.target: draft.disks[disk.name] for disk in self.disks}
        await self.world.run(self._ports.backups.begin, self.uid, targets)

    async def _let_run(self) -> None:
        if self.stopped_at is not None:
            await self.world.run(self.world.hypervisor.resume, self.uid)
            self.pause_ms, self.stopped_at = int((time.monotonic() - self.stopped_at) * 1000), None

    async def _finish(self) -> None:
        self._go_on()
        moment = SnapshotMoment(self.taken_at, self.consistency, self.pause_ms, self.kind, self.sizes)
        await self.world.run(self._ports.files.finish, *self.where, self.snapshot, moment)

    async def _clear(self) -> None:
        """When libvirt cannot be asked, the mark stays, and the next look does it."""
        try:
            await end(self.world, self.uid)
            await self._let_run()
        except BerthError as error:
            _log.warning("what a snapshot left is not ended", extra={"uid": self.uid, "error": str(error)})
            if isinstance(error, HypervisorDown):
                return
        await remove(self.world, self.where)

    @property
    def _ports(self) -> Snapshotting:
        return ports(self.world)

    def _now(self) -> None:
        self.taken_at = self.world.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _far(self, found: Copying) -> None:
        if found.done > self.copied and self.patience is not None:
            self.copied = found.done
            self.patience.reschedule(asyncio.get_running_loop().time() + TAKE_SECONDS)
        percent = 100 * found.done // found.total if found.total else None
        if percent != self.percent:
            self.percent = percent
            self.told()

    def _news(self, stage: SnapshotState) -> None:
        self.stage, self.percent = stage, None
        self.told()

    def _go_on(self) -> None:
        if self.aborted():
            raise HostFault("it was given up", reason="Aborted")


async def end(world: World, uid: str) -> None:
    """Whatever libvirt does for a snapshot of this machine, and what its agent was asked to hold."""
    await world.run(ports(world).backups.abort, uid)
    if await world.run(ports(world).files.frozen, uid):
        await thaw(world, uid, END_TRIES)


async def thaw(world: World, uid: str, tries: int) -> None:
    """A guest whose agent does not answer any more has been reset, or cannot be helped."""
    for left in reversed(range(tries)):
        if await world.run(ports(world).backups.thaw, uid):
            break
        await asyncio.sleep(THAW_SECONDS if left else 0)
    await world.run(ports(world).files.mark_frozen, uid, frozen=False)


async def remove(world: World, where: tuple[str, Berth | None, StateOrder]) -> None:
    """The files, as far as the volume lets it; then the mark. What stays is removed by the next attempt."""
    uid, berth, state = where
    if berth is not None:
        try:
            await world.run(ports(world).files.scrap, uid, berth, state)
        except BerthError as error:
            _log.warning("what was written stays in the volume", extra={"uid": uid, "error": str(error)})
    await world.run(ports(world).files.unmark, uid)
