"""Bells: what libvirt tells (from a thread of its own) into what a machine remembers, and a ring. Used by node.py.

An event is never acted on: it only says which machine to look at, and, of a guest's end, the words libvirt used.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from berth.agent.machines import Machines
from berth.effects.ports import DomainEvent, DomainEventKind, Hypervisor

_log = logging.getLogger(__name__)


class Events:
    def __init__(
        self, machines: Machines, ring: Callable[[str], None], on_connection: Callable[[bool, str], None]
    ) -> None:
        self.on_stopped: Callable[[str], None] = lambda _uid: None
        """A migration has stopped this machine's guest: time counts."""
        self._machines = machines
        self._ring = ring
        self._on_connection = on_connection

    def listen(self, hypervisor: Hypervisor) -> None:
        loop = asyncio.get_running_loop()
        hypervisor.listen(
            lambda event: _hand_over(loop, self.take, event),
            lambda up, message: _hand_over(loop, self._on_connection, up, message),
        )

    def take(self, event: DomainEvent) -> None:
        ends = event.kind in (DomainEventKind.SHUTDOWN, DomainEventKind.STOPPED)
        machine = self._machines.get(event.uid) if ends else self._machines.add(event.uid)
        if machine is None:
            return  # the end of one that was forgotten already
        match event.kind:
            case DomainEventKind.CRASHED:
                machine.ended.panicked = True
            case DomainEventKind.SHUTDOWN:
                machine.ended.by_host = event.detail == "host"
            case DomainEventKind.STOPPED:
                machine.ended.stopped = event.detail
            case DomainEventKind.AGENT:
                machine.agent_channel = event.detail == "connected"
                if machine.info is not None and not machine.agent_channel:
                    machine.info = machine.info.model_copy(update={"agent_connected": False})
            case DomainEventKind.SUSPENDED if event.detail == "migrated":
                machine.stopped_at = time.monotonic()
                self.on_stopped(event.uid)
            case (
                DomainEventKind.STARTED
                | DomainEventKind.SUSPENDED
                | DomainEventKind.RESUMED
                | DomainEventKind.REBOOTED
                | DomainEventKind.DEVICE
            ):
                pass
        _log.debug("event", extra={"uid": event.uid, "kind": event.kind.value, "detail": event.detail})
        self._ring(event.uid)


def _hand_over(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> None:
    """A loop that has closed meanwhile wants no events any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, *args)
