"""The steps of what is kept of machines in their volumes, carried out: saved states, snapshots, reverts. Used by
apply.py; it decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, assert_never

from berth.agent import copies, saving
from berth.agent.copies import ports
from berth.agent.machines import Machine
from berth.agent.saving import Savings
from berth.agent.snapshots import Snapshots
from berth.agent.world import World
from berth.api.order import Order
from berth.domain.files import MediaFiles
from berth.domain.observed import TransferStats
from berth.effects.ports import Berth
from berth.errors import BerthError, HostFault, Unavailable
from berth.plan import steps

CLOCK_SECONDS: Final = 10.0
"""So often a guest's agent that answers is asked to set the clock."""

_log = logging.getLogger(__name__)

Domain = Callable[[Order, str], Awaitable[str]]
"""An order and a machine type → the XML of the domain."""


class Keeping:
    def __init__(self, world: World, savings: Savings, snapshots: Snapshots, ring: Callable[..., None]) -> None:
        self._world = world
        self._savings = savings
        self._snapshots = snapshots
        self._ring = ring

    async def take(
        self, machine: Machine, step: steps.KeptStep, guest_uid: Callable[[Machine], int], domain: Domain
    ) -> None:
        run, world = self._world.run, self._world
        match step:
            case steps.BeginSave(order=order):
                machine.transfer = TransferStats()
                self._savings.begin(machine, order, _berth(machine, order))
            case steps.AbortSave():
                await self._savings.abort(machine)
            case steps.ScrapState(order=order):
                await copies.end(world, machine.uid)
                await run(saving.states_of(world).scrap, machine.uid, _berth(machine, order), saving.state_of(order))
            case steps.BeginRestore(order=order):
                where = (_berth(machine, order), guest_uid(machine), _prepared(machine, order))
                self._savings.begin_restore(machine, order, *where, _of(domain, order))
            case steps.UseState(order=order, epoch=epoch):
                state = saving.state_of(order)
                await run(saving.states_of(world).use, machine.uid, _berth(machine, order), state, epoch)
            case steps.SetClock():
                await self._set_clock(machine)
            case steps.BeginSnapshot(order=order):
                machine.transfer = TransferStats()
                self._snapshots.begin(machine, order, _berth(machine, order))
            case steps.AbortSnapshot():
                await self._snapshots.abort(machine)
            case steps.ScrapSnapshot(order=order, runs=runs):
                berth = machine.place(order.berth.pod_uid).berth
                await self._snapshots.scrap(machine, order.state, berth, runs=runs)
            case steps.ForgetSnapshots(order=order, uids=uids):
                await self._snapshots.forget(machine, saving.state_of(order), _berth(machine, order), uids)
            case steps.BeginRevert(order=order):
                where = (_berth(machine, order), guest_uid(machine), _prepared(machine, order))
                self._savings.begin_revert(machine, order, *where, _of(domain, order))
            case steps.UseRevert(order=order, revert=revert):
                machine.snapshots = None
                state = saving.state_of(order)
                await run(ports(world).reverts.use, machine.uid, _berth(machine, order), state, revert)
            case _ as never:
                assert_never(never)

    async def _set_clock(self, machine: Machine) -> None:
        """A guest's agent that does not do it holds nothing else up; it is asked again."""
        machine.clock_tried_at = asyncio.get_running_loop().time()
        try:
            await self._world.run(self._world.hypervisor.set_clock, machine.uid, self._world.now().timestamp())
            await self._world.run(saving.states_of(self._world).clock_set, machine.uid)
        except BerthError as error:
            _log.info("the guest's clock is not set yet", extra={"uid": machine.uid, "error": str(error)})
            self._ring(machine.uid, CLOCK_SECONDS)


def _of(domain: Domain, order: Order) -> saving.Make:
    async def make(kind: str) -> str:
        return await domain(order, kind)

    return make


def _prepared(machine: Machine, order: Order) -> MediaFiles:
    files = machine.place(order.berth.pod_uid).files
    if files is None:
        raise HostFault("the plan writes to disks before they are prepared", reason="InternalError")
    return files


def _berth(machine: Machine, order: Order) -> Berth:
    berth = machine.place(order.berth.pod_uid).berth
    if berth is None:
        raise Unavailable(f"the berth process of pod {order.berth.pod_name} is not there", reason="BerthGone")
    return berth
