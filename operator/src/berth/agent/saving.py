"""Guests that are being saved, restored, or reverted to snapshots: a task for each, and what became of it.
plan/saving.py and plan/reverting.py decide.

Used by keeping.py (begin, abort), gather.py (what is under way) and reconcile.py (what to report).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from berth.agent import copies, works
from berth.agent.machines import Machine
from berth.agent.reverting import Reverting
from berth.agent.works import Work, Works
from berth.agent.world import World
from berth.api.kept import SnapshotDisk, StateOrder
from berth.api.order import Order
from berth.domain import copied
from berth.domain.copied import Copied
from berth.domain.files import MediaFiles
from berth.effects.ports import Berth
from berth.effects.ports_saving import KeptStates, States
from berth.errors import BerthError, HostFault
from berth.plan.gathered import Saving
from berth.plan.report import SaveFailure
from berth.plan.reverting import RESTORE_AGAIN

SAVE_AGAIN: Final = 300.0
"""A save that failed is tried again so late, or when it is asked for anew: each attempt stops the guest."""
SAVE_SECONDS: Final = 3600.0
"""A save that takes longer is given up: its volume does not answer, and the guest stands still."""

_log = logging.getLogger(__name__)

Make = Callable[[str], Awaitable[str]]
"""A machine type → the XML of a domain with it."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Work(Work):
    """One attempt at saving or restoring a machine."""

    berth: Berth
    state: StateOrder
    epoch: int  # of the start that is going on
    what: Saving
    kind: str = ""  # its machine type, when it is saved
    guest_uid: int = 0
    disks: tuple[Copied, ...] = ()  # that are files of this node alone: they go along
    reverting: Reverting | None = None


class Savings:
    def __init__(self, world: World, ring: Callable[[str], None]) -> None:
        self._world = world
        self._works: Works[_Work] = Works(ring)
        self.busy = self._works.busy
        self.close = self._works.close

    def seen(self, machine: Machine) -> Saving:
        work = self._works.get(machine.uid)
        if work is not None and not work.finished:
            return work.what
        if work is not None and _boots(work, machine):
            return Saving.REVERTED
        return Saving.FAILED if self.save_failure(machine) is not None else Saving.NONE

    def put_back(self, machine: Machine) -> int | None:
        """How many per cent of the disks are those of a snapshot by now."""
        work = self._works.get(machine.uid)
        return work.reverting.percent if work is not None and work.reverting is not None else None

    def save_failure(self, machine: Machine) -> SaveFailure | None:
        """Why the last attempt to save it failed, as long as that keeps another one from being made."""
        work = self._failed_work(machine)
        return work.failure if work is not None and work.what is Saving.BUSY else None

    def restore_failure(self, machine: Machine) -> tuple[str, str] | None:
        """The same of restoring it, or reverting it."""
        work = self._failed_work(machine)
        failure = work.failure if work is not None and work.what is not Saving.BUSY else None
        return (failure.reason, failure.message) if failure is not None else None

    def begin(self, machine: Machine, order: Order, berth: Berth) -> None:
        """Save it."""
        guest = machine.guest
        if guest is None:
            raise HostFault("the plan saves a guest that is not there", reason="InternalError")

        async def save() -> dict[str, object]:
            return {"epoch": work.epoch, "bytes": await self._save(work)}

        state, what = state_of(order), Saving.BUSY
        words = (machine.uid, "saved", "the guest was not saved", save)
        work = _Work(*words, berth=berth, state=state, epoch=order.epoch, what=what, kind=guest.machine)
        work.guest_uid, work.disks = guest.guest_uid, copied.of(guest.order.machine)
        self._works.begin(work)

    def begin_restore(
        self, machine: Machine, order: Order, berth: Berth, guest_uid: int, files: MediaFiles, make: Make
    ) -> None:
        async def restore() -> dict[str, object]:
            return {"epoch": work.epoch, "bytes": await self._restore(work, files, make)}

        state, what = state_of(order), Saving.RESTORING
        words = (machine.uid, "restored", "the guest was not restored", restore)
        work = _Work(*words, berth=berth, state=state, epoch=order.epoch, what=what)
        work.guest_uid, work.disks = guest_uid, copied.of(order.machine)
        self._works.begin(work)

    def begin_revert(
        self, machine: Machine, order: Order, berth: Berth, guest_uid: int, files: MediaFiles, make: Make
    ) -> None:
        state, what = state_of(order), Saving.REVERTING
        reverting = Reverting(self._world, order, berth, state, guest_uid, files, make, lambda: work.aborted)
        words = (machine.uid, "reverted", "the guest was not reverted", reverting.run)
        work = _Work(*words, berth=berth, state=state, epoch=order.epoch, what=what, reverting=reverting)
        self._works.begin(work)

    async def abort(self, machine: Machine) -> None:
        work = self._works.abort(machine.uid)
        if work is not None and work.what is Saving.BUSY:
            await self._end_jobs(work)

    def look(self, machine: Machine, berth: Berth | None, state: StateOrder | None) -> tuple[KeptStates | None, str]:
        """What is in the volume; or why that is not known. It blocks."""
        if self._world.states is None or berth is None or state is None:
            return None, "this agent cannot save guests" if self._world.states is None else ""
        try:
            return self._world.states.look(machine.uid, berth, state), ""
        except BerthError as error:
            return None, str(error)

    def _failed_work(self, machine: Machine) -> _Work | None:
        """What failed a short while ago, for what is still wanted; anything else that is over is forgotten."""
        work = self._works.get(machine.uid)
        if work is None or not work.finished or _boots(work, machine):
            return None
        state = machine.order.state if machine.order is not None else None
        again = SAVE_AGAIN if work.what is Saving.BUSY else RESTORE_AGAIN
        asked = state is not None and _asked(work, state)
        if not asked or work.failure is None or works.now() - work.failed_at >= again:
            self._works.drop(machine.uid)
            return None
        return work

    async def _restore(self, work: _Work, files: MediaFiles, make: Make) -> int:
        """Its bytes. The state is left as it is, whatever happens."""
        epoch = work.state.restore
        if epoch is None:
            raise HostFault("the plan restores a state that no order names", reason="InternalError")
        run, states = self._world.run, states_of(self._world)
        saved = await run(states.open, work.uid, work.berth, work.state, epoch)
        for disk, file in copies.targets(saved.disks, work.disks, files, "its state"):
            _go_on(work)
            where = (work.uid, work.guest_uid, work.berth, work.state, epoch)
            await run(states.put_back, *where, disk, file)
        domain = await make(saved.machine)
        _go_on(work)
        await self._world.run(self._world.hypervisor.restore, saved.path, domain)
        return saved.bytes

    async def _save(self, work: _Work) -> int:
        """Its bytes. What fails before ``finish`` has made nothing whole: the guest may run on, even if the volume is
        broken so much that nothing can be removed from it. What fails in it, nobody knows until the volume tells."""
        run, states, hypervisor = self._world.run, states_of(self._world), self._world.hypervisor
        where = (work.uid, work.berth, work.state)
        try:
            path = await run(states.draft, *where, work.epoch)
            await self._end_jobs(work)  # an earlier agent's, which libvirt has not ended yet
            _go_on(work)
            await run(hypervisor.suspend, work.uid)
            disks = await self._write(work, path)
            _go_on(work)
        except BerthError:
            await self._stop(work)
            await self._clear(work)
            await run(states.unmark, work.uid)
            raise
        try:
            return await run(states.finish, *where, work.epoch, work.kind, disks)
        except BerthError:
            await self._clear(work)
            raise

    async def _write(self, work: _Work, path: str) -> tuple[SnapshotDisk, ...]:
        """Memory, then the disks that go along, while the guest stands still."""
        try:
            async with asyncio.timeout(SAVE_SECONDS):
                await self._world.run(self._world.hypervisor.save, work.uid, path)
                _go_on(work)
                return await self._copy_disks(work) if work.disks else ()
        except TimeoutError as error:
            text = f"it was not written within {SAVE_SECONDS:.0f} s. Next: see whether the volume answers"
            raise HostFault(text, reason="DeadlineExceeded") from error

    async def _copy_disks(self, work: _Work) -> tuple[SnapshotDisk, ...]:
        run, backups = self._world.run, copies.ports(self._world).backups
        sizes = await copies.sizes(self._world, work.uid, work.disks)
        where = (work.uid, work.guest_uid, work.berth, work.state, work.epoch)
        drafts = await run(states_of(self._world).draft_disks, *where, sizes)
        await run(backups.activate, work.uid)
        await run(backups.begin, work.uid, {disk.target: drafts[disk.name] for disk in work.disks})
        await copies.copied(self._world, work.uid, lambda: _go_on(work))
        return sizes

    async def _end_jobs(self, work: _Work) -> None:
        """Whatever libvirt writes of this guest, be it memory or disks."""
        await self._world.run(self._world.hypervisor.abort_migration, work.uid)
        await copies.end(self._world, work.uid)

    async def _stop(self, work: _Work) -> None:
        try:
            await self._end_jobs(work)
        except BerthError as error:
            _log.warning("what libvirt writes is not ended", extra={"uid": work.uid, "error": str(error)})

    async def _clear(self, work: _Work) -> None:
        try:
            await self._world.run(states_of(self._world).scrap, work.uid, work.berth, work.state)
        except BerthError as error:
            _log.warning("what was written stays in the volume", extra={"uid": work.uid, "error": str(error)})


def _go_on(work: _Work) -> None:
    if work.aborted:
        raise HostFault("it was given up", reason="Aborted")


def _asked(work: _Work, state: StateOrder) -> bool:
    """Whether that is still what is wanted."""
    match work.what:
        case Saving.BUSY:
            return state.save
        case Saving.REVERTING:
            return state.revert is not None and state.revert == work.state.revert
        case _:
            return state.restore == work.state.restore


def _boots(work: _Work, machine: Machine) -> bool:
    """Whether its disks were put back, as is wanted now, and it has no memory to be restored."""
    order = machine.order
    state = order.state if order is not None and order.epoch == work.epoch else None
    done = work.what is Saving.REVERTING and work.finished and work.failure is None and not work.aborted
    revert = work.state.revert
    return done and revert is not None and not revert.memory and state is not None and _asked(work, state)


def states_of(world: World) -> States:
    if world.states is None:
        raise HostFault("this agent cannot save guests", reason="SaveUnsupported")
    return world.states


def state_of(order: Order) -> StateOrder:
    if order.state is None:
        raise HostFault("the plan deals with a state that no order tells of", reason="InternalError")
    return order.state
