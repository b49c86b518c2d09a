"""Guests that are being saved or restored: a task for each, and what became of it. plan/saving.py decides.

Used by apply.py (begin, abort), gather.py (what is under way) and reconcile.py (what to report). All of it may be lost
with the agent: the mark in the machine's folder and the files in its volume are what counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from berth.agent.machines import Machine
from berth.agent.world import World
from berth.api.kept import StateOrder
from berth.api.order import Order
from berth.effects.ports import Berth
from berth.effects.ports_saving import KeptStates, States
from berth.errors import BerthError, HostFault
from berth.plan.gathered import Saving
from berth.plan.report import SaveFailure
from berth.plan.saving import RESTORE_AGAIN

SAVE_AGAIN: Final = 300.0
"""A save that failed is tried again so late, or when it is asked for anew: each attempt stops the guest."""
SAVE_SECONDS: Final = 3600.0
"""A save that takes longer is given up: its volume does not answer, and the guest stands still."""
AT_ONCE: Final = 2
"""So many guests of a node are saved or restored at a time: more would only share its disks, and take longer each."""

_log = logging.getLogger(__name__)

Make = Callable[[str], Awaitable[str]]
"""A machine type → the XML of a domain with it."""


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True, eq=False)
class _Work:
    """One attempt at saving or restoring a machine."""

    uid: str
    berth: Berth
    state: StateOrder
    epoch: int  # of the start that is going on
    kind: str = ""  # its machine type, when it is saved
    make: Make | None = None  # when it is restored
    waits: bool = True  # for its turn: the guest still runs
    aborted: bool = False
    failure: SaveFailure | None = None
    failed_at: float = 0.0
    began_at: float = field(default_factory=_now)
    task: asyncio.Task[None] | None = None

    @property
    def finished(self) -> bool:
        return self.task is not None and self.task.done()


class Savings:
    def __init__(self, world: World, ring: Callable[[str], None]) -> None:
        self._world = world
        self._ring = ring
        self._all: dict[str, _Work] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    def seen(self, machine: Machine) -> Saving:
        work = self._all.get(machine.uid)
        if work is not None and not work.finished:
            return Saving.BUSY if work.make is None else Saving.RESTORING
        return Saving.FAILED if self.save_failure(machine) is not None else Saving.NONE

    def save_failure(self, machine: Machine) -> SaveFailure | None:
        """Why the last attempt to save it failed, as long as that keeps another one from being made."""
        work = self._failed_work(machine)
        return work.failure if work is not None and work.make is None else None

    def restore_failure(self, machine: Machine) -> tuple[str, str] | None:
        """The same of restoring it."""
        work = self._failed_work(machine)
        failure = work.failure if work is not None and work.make is not None else None
        return (failure.reason, failure.message) if failure is not None else None

    def busy(self) -> list[str]:
        return [uid for uid, work in self._all.items() if not work.finished]

    def begin(self, machine: Machine, order: Order, berth: Berth) -> None:
        """Save it."""
        kind = machine.guest.machine if machine.guest is not None else ""
        self._begin(_Work(machine.uid, berth, state_of(order), order.epoch, kind))

    def begin_restore(self, machine: Machine, order: Order, berth: Berth, make: Make) -> None:
        self._begin(_Work(machine.uid, berth, state_of(order), order.epoch, make=make))

    async def abort(self, machine: Machine) -> None:
        work = self._all.get(machine.uid)
        if work is None or work.finished:
            return
        work.aborted = True
        if work.waits and work.task is not None:
            work.task.cancel()
        elif work.make is None:
            await self._world.run(self._world.hypervisor.abort_migration, machine.uid)

    def close(self) -> None:
        """The agent ends; what libvirt has begun it may end, and the next agent throws that away and begins anew."""
        for work in self._all.values():
            if work.task is not None:
                work.task.cancel()

    def look(self, machine: Machine, berth: Berth | None, state: StateOrder | None) -> tuple[KeptStates | None, str]:
        """What is in the volume; or why that is not known. It blocks."""
        if self._world.states is None or berth is None or state is None:
            return None, "this agent cannot save guests" if self._world.states is None else ""
        try:
            return self._world.states.look(machine.uid, berth, state), ""
        except BerthError as error:
            return None, str(error)

    def _begin(self, work: _Work) -> None:
        known = self._all.get(work.uid)
        if known is not None and not known.finished:
            return
        self._all[work.uid] = work
        work.task = asyncio.create_task(self._run(work), name=f"state of {work.uid}")
        work.task.add_done_callback(lambda _: self._ring(work.uid))

    def _failed_work(self, machine: Machine) -> _Work | None:
        """What failed a short while ago, for what is still wanted; anything else that is over is forgotten."""
        work = self._all.get(machine.uid)
        if work is None or not work.finished:
            return None
        order = machine.order
        state = order.state if order is not None else None
        again = SAVE_AGAIN if work.make is None else RESTORE_AGAIN
        asked = state is not None and (state.save if work.make is None else state.restore == work.state.restore)
        if not asked or work.failure is None or _now() - work.failed_at >= again:
            del self._all[machine.uid]
            return None
        return work

    async def _run(self, work: _Work) -> None:
        try:
            async with self._turns:
                work.waits = False
                size = await (self._save(work) if work.make is None else self._restore(work, work.make))
            shown = {"uid": work.uid, "epoch": work.epoch, "bytes": size, "seconds": round(_now() - work.began_at, 3)}
            _log.info("saved" if work.make is None else "restored", extra=shown)
        except BerthError as error:
            self._failed(work, error.reason, str(error))
        except Exception as error:
            _log.exception("a state was not saved or restored", extra={"uid": work.uid})
            self._failed(work, "InternalError", f"{type(error).__name__}: {error}")

    def _failed(self, work: _Work, reason: str, message: str) -> None:
        text = "the guest was not saved" if work.make is None else "the guest was not restored"
        _log.warning(text, extra={"uid": work.uid, "reason": reason, "error": message})
        if not work.aborted:
            work.failure, work.failed_at = SaveFailure(reason, message), _now()

    async def _restore(self, work: _Work, make: Make) -> int:
        """Its bytes. The state is left as it is, whatever happens."""
        epoch = work.state.restore
        if epoch is None:
            raise HostFault("the plan restores a state that no order names", reason="InternalError")
        saved = await self._world.run(states_of(self._world).open, work.uid, work.berth, work.state, epoch)
        domain = await make(saved.machine)
        if work.aborted:
            raise HostFault("it was given up", reason="Aborted")
        await self._world.run(self._world.hypervisor.restore, saved.path, domain)
        return saved.bytes

    async def _save(self, work: _Work) -> int:
        """Its bytes. What fails before ``finish`` has made nothing whole: the guest may run on, even if the volume is
        broken so much that nothing can be removed from it. What fails in it, nobody knows until the volume tells."""
        run, states, hypervisor = self._world.run, states_of(self._world), self._world.hypervisor
        where = (work.uid, work.berth, work.state)
        try:
            path = await run(states.draft, *where, work.epoch)
            await run(hypervisor.abort_migration, work.uid)  # an earlier agent's, which libvirt has not ended yet
            if not work.aborted:
                await run(hypervisor.suspend, work.uid)
                await self._write(work, path)
            if work.aborted:
                raise HostFault("it was given up", reason="Aborted")
        except BerthError:
            await self._clear(work)
            await run(states.unmark, work.uid)
            raise
        try:
            return await run(states.finish, *where, work.epoch, work.kind)
        except BerthError:
            await self._clear(work)
            raise

    async def _write(self, work: _Work, path: str) -> None:
        run, hypervisor = self._world.run, self._world.hypervisor
        try:
            async with asyncio.timeout(SAVE_SECONDS):
                await run(hypervisor.save, work.uid, path)
        except TimeoutError as error:
            await run(hypervisor.abort_migration, work.uid)
            text = f"it was not written within {SAVE_SECONDS:.0f} s. Next: see whether the volume answers"
            raise HostFault(text, reason="DeadlineExceeded") from error

    async def _clear(self, work: _Work) -> None:
        try:
            await self._world.run(states_of(self._world).scrap, work.uid, work.berth, work.state)
        except BerthError as error:
            _log.warning("what was written stays in the volume", extra={"uid": work.uid, "error": str(error)})


def states_of(world: World) -> States:
    if world.states is None:
        raise HostFault("this agent cannot save guests", reason="SaveUnsupported")
    return world.states


def state_of(order: Order) -> StateOrder:
    if order.state is None:
        raise HostFault("the plan deals with a state that no order tells of", reason="InternalError")
    return order.state
