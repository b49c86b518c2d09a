"""What running guests say of themselves, asked for now and then. Used by node.py; the answers go into the reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from berth.agent.machines import Machine, Machines
from berth.agent.world import World
from berth.api.virtualmachine import GuestInfo
from berth.domain.observed import DomainState
from berth.errors import BerthError

EVERY_SECONDS: Final = 30.0
AT_ONCE: Final = 2  # a guest may take its time to answer; no more than so many threads wait for guests

_log = logging.getLogger(__name__)


class GuestInfos:
    def __init__(self, world: World, machines: Machines, ring: Callable[[str], None]) -> None:
        self._world = world
        self._machines = machines
        self._ring = ring
        self._places = asyncio.Semaphore(AT_ONCE)
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        while True:
            for machine in self._machines.all():
                self.ask(machine)
            await asyncio.sleep(EVERY_SECONDS)

    def ask(self, machine: Machine) -> None:
        """Begin to ask, unless it is being asked or has no agent to answer."""
        if not _may_answer(machine) or machine.uid in self._asking:
            return
        task = asyncio.create_task(self._ask(machine), name=f"guest info {machine.uid}")
        self._asking[machine.uid] = task
        task.add_done_callback(lambda _: self._asking.pop(machine.uid, None))

    async def _ask(self, machine: Machine) -> None:
        async with self._places:
            try:
                info = await self._world.run(self._world.hypervisor.guest_info, machine.uid)
                nics = machine.nics
                if info.agent_connected:
                    nics = await self._world.run(self._world.hypervisor.guest_nics, machine.uid)
            except BerthError as error:
                _log.debug("no guest info", extra={"uid": machine.uid, "error": str(error)})
                return
        if machine.agent_channel is None:
            machine.agent_channel = info.agent_connected
        if machine.guest is not None and (info, nics) != (machine.info or GuestInfo(), machine.nics):
            machine.info, machine.nics = info, nics
            self._ring(machine.uid)


def _may_answer(machine: Machine) -> bool:
    """A guest that runs and has a channel; whether somebody listens at it is told by libvirt's events only."""
    guest = machine.guest
    runs = guest is not None and guest.state is DomainState.RUNNING
    return runs and guest is not None and guest.order.machine.guest_agent and machine.agent_channel is not False
