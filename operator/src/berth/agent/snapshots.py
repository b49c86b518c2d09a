"""Snapshots that are being taken, those that failed, and what the volumes hold of them. plan/snapshots.py decides.

Used by keeping.py (begin, abort, scrap, forget) and gather.py (what is under way, what is there).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from berth.agent import taking, works
from berth.agent.copies import ports
from berth.agent.machines import Machine
from berth.agent.taking import Taking
from berth.agent.works import Work, Works
from berth.agent.world import World
from berth.api.kept import SnapshotReport, SnapshotState, StateOrder
from berth.api.order import Order
from berth.domain import copied
from berth.domain.observed import DomainState, Guest, KeptSnapshots, StartRecord
from berth.effects.ports import Berth
from berth.errors import BerthError, HostFault

FORGET_AGAIN: Final = 60.0
"""Files that could not be removed are tried again so late."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class _Work(Work):
    taking: Taking


@dataclass(frozen=True, slots=True)
class Seen:
    """What is under way, as plans need it."""

    report: SnapshotReport | None = None
    ends: bool = False
    forgets: bool = True


class Snapshots:
    def __init__(self, world: World, ring: Callable[[str], None]) -> None:
        self._world = world
        self._ring = ring
        self._works: Works[_Work] = Works(ring)
        self.busy = self._works.busy
        self.close = self._works.close

    def seen(self, machine: Machine) -> Seen:
        tried = machine.forget_failed_at
        forgets = tried is None or works.now() - tried >= FORGET_AGAIN
        work = self._works.get(machine.uid)
        if work is None:
            return Seen(forgets=forgets)
        if not work.finished:
            stage = work.taking.report()
            return Seen(stage, work.aborted, forgets)
        state = machine.order.state if machine.order is not None else None
        named = state.snapshot.uid if state is not None and state.snapshot is not None else ""
        if work.failure is None or named != work.taking.snapshot.uid:
            self._works.drop(machine.uid)
            return Seen(forgets=forgets)
        failed = SnapshotReport(
            uid=work.taking.snapshot.uid,
            state=SnapshotState.FAILED,
            reason=work.failure.reason,
            message=work.failure.message,
        )
        return Seen(failed, forgets=forgets)

    def begin(self, machine: Machine, order: Order, berth: Berth) -> None:
        guest, state = machine.guest, order.state
        snapshot = state.snapshot if state is not None else None
        if guest is None or state is None or snapshot is None:
            raise HostFault("the plan takes a snapshot that no order names", reason="InternalError")
        one = Taking(
            self._world,
            machine.uid,
            guest.guest_uid,
            berth,
            state,
            snapshot,
            copied.written(guest.order.machine),
            ran=guest.state is DomainState.RUNNING,
            kind=guest.machine,
            aborted=lambda: work.aborted,
            told=lambda: self._ring(machine.uid),
        )
        work = _Work(machine.uid, "snapshot taken", "the snapshot was not taken", one.run, taking=one)
        machine.snapshots = None
        self._works.begin(work)

    async def abort(self, machine: Machine) -> None:
        if self._works.abort(machine.uid) is not None:
            await self._world.run(ports(self._world).backups.abort, machine.uid)

    async def scrap(self, machine: Machine, state: StateOrder | None, berth: Berth | None, *, runs: bool) -> None:
        """What an agent before this one, or this one without libvirt, has left."""
        machine.snapshots = None
        await taking.end(self._world, machine.uid)
        if runs:
            await self._world.run(self._world.hypervisor.resume, machine.uid)
        await taking.remove(self._world, (machine.uid, berth if state is not None else None, state or _NOWHERE))

    async def forget(self, machine: Machine, state: StateOrder, berth: Berth, uids: tuple[str, ...]) -> None:
        machine.snapshots = None
        try:
            await self._world.run(ports(self._world).files.forget, machine.uid, berth, state, uids)
            machine.forget_failed_at = None
        except BerthError as error:
            machine.forget_failed_at = works.now()
            _log.warning("deleted snapshots are still there", extra={"uid": machine.uid, "error": str(error)})
            self._ring(machine.uid)

    def look(
        self,
        machine: Machine,
        guest: Guest | None,
        record: StartRecord | None,
        berths: Mapping[str, Berth | None],
        *,
        busy: bool,
    ) -> tuple[KeptSnapshots | None, str]:
        """What its volume holds, which may be slow to answer: only when something has to be known. It blocks."""
        order = machine.order
        pod = guest.order.berth.pod_uid if guest is not None else record.pod_uid if record is not None else None
        state = order.state if order is not None and pod in (None, order.berth.pod_uid) else None
        berth = berths.get(order.berth.pod_uid) if order is not None else None
        if self._world.snapshots is None or state is None or berth is None or busy:
            return machine.snapshots, ""
        if not _asks(machine.snapshots, state):
            return machine.snapshots, ""
        try:
            machine.snapshots = self._world.snapshots.files.look(machine.uid, berth, state)
        except BerthError as error:
            return None, str(error)
        return machine.snapshots, ""


_NOWHERE: Final = StateOrder(folder="")


def _asks(known: KeptSnapshots | None, state: StateOrder) -> bool:
    """Whether the order is about anything that is not known, or may have changed."""
    if known is None:
        return state.snapshot is not None or state.revert is not None or bool(state.forget)
    ready = known.ready.uid if known.ready is not None else ""
    return (state.snapshot is not None and state.snapshot.uid != ready) or bool(known.there & set(state.forget))
