"""What is found out of a guest before it is sent away, while the other node gets ready. Used by node.py, reconcile.py.

A guest whose order to go comes meanwhile waits for the end of it; what could not be found out holds nothing up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from berth.agent import speed
from berth.agent.machines import Machine
from berth.agent.questions import SPEED
from berth.agent.world import World
from berth.api.handover import Outgoing
from berth.domain import build
from berth.domain.observed import DomainState, Pace, Survey
from berth.effects.tunnel import Hello, Tunnel
from berth.errors import BerthError

WATCH_SECONDS: Final = 2.0
PATIENCE: Final = 3.0
"""Seconds that the other agent may take to hear of the guest itself."""

_log = logging.getLogger(__name__)


class Surveys:
    """``cpus``: how many may compress memory; None: those that are idle."""

    def __init__(
        self, world: World, tunnel: Tunnel | None, ring: Callable[[str], None], cpus: int | None = None
    ) -> None:
        self._world = world
        self._tunnel = tunnel
        self._ring = ring
        self._cpus = cpus
        self._running: set[asyncio.Task[None]] = set()

    def look(self, machine: Machine) -> None:
        """Begin, when its order says that it is about to leave and nobody has looked yet."""
        leaving = machine.order.leaving if machine.order is not None else None
        known = machine.survey.migration if machine.survey is not None else None
        runs = machine.guest is not None and machine.guest.state is DomainState.RUNNING
        if leaving is None or not runs or known == leaving.migration or machine.surveying:
            return
        machine.surveying = True
        task = asyncio.create_task(self._survey(machine, leaving), name=f"survey {machine.uid}")
        self._running.add(task)
        task.add_done_callback(lambda done: self._done(machine, done))

    def _done(self, machine: Machine, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        machine.surveying = False
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the survey failed", extra={"uid": machine.uid}, exc_info=error)
        self._ring(machine.uid)

    async def _survey(self, machine: Machine, leaving: Outgoing) -> None:
        run = self._world.run
        free = idle_cpus() if self._cpus is None else self._cpus
        pace, link = await asyncio.gather(run(self._pace, machine), run(self._link, machine.uid, leaving))
        machine.survey = Survey(leaving.migration, pace, link, free)
        extra = {"uid": machine.uid, "pace": str(pace), "link": link, "cpus": free}
        _log.info("surveyed", extra=extra)

    def _pace(self, machine: Machine) -> Pace | None:
        order, moving = machine.order, self._world.moving
        if order is None or moving is None:
            return None
        qemu, hardware = moving.qemus.find(machine.uid, build.domain_name(order)), order.machine
        if qemu is None:
            return None
        return moving.qemus.pace(qemu, hardware.memory_bytes, hardware.cpus, WATCH_SECONDS)

    def _link(self, uid: str, leaving: Outgoing) -> int | None:
        hello = Hello(migration=leaving.migration, uid=uid, channel=SPEED)
        until = time.monotonic() + PATIENCE
        while self._tunnel is not None:
            try:
                with contextlib.closing(self._tunnel.dial(leaving.target, hello)) as line:
                    return speed.give(line)
            except (OSError, ValidationError, BerthError) as error:
                if time.monotonic() > until:
                    _log.info("the way to the other node is not measured", extra={"uid": uid, "error": str(error)})
                    return None
                time.sleep(0.1)
        return None


def idle_cpus() -> int:
    """Of the last minute."""
    return max(int((os.cpu_count() or 1) - os.getloadavg()[0]), 0)
