"""The agent's life: settings and ports in, a node that is served until SIGTERM. Started by `python -m berth.agent`.

Order of things: running guests first (their DHCP, their berths' lines), then the health port, then the certificate, and
with it the API. On SIGTERM it only lets go: no guest is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from berth import __version__
from berth.agent import api, health, log, settings
from berth.agent.enroll import Credentials, Enrollment
from berth.agent.node import Node
from berth.agent.settings import Settings
from berth.agent.world import World, in_threads

THREADS_PER_WORKER: Final = 2
CLOSE_SECONDS: Final = 3.0
SWITCH_SECONDS: Final = 0.0005
"""A thread that carries a guest's last pages, while it stands still, waits no longer for one that computes."""
_M_ARENA_MAX: Final = -8

_log = logging.getLogger(__name__)


class Door:
    """The API's open port. New credentials get a listener of their own before the old one's ends; streams run on.

    Both listen at one socket, so that no client that knocks in between is turned away.
    """

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        self._runner = runner
        self._address = (host, port)
        self._socket: socket.socket | None = None
        self._site: web.SockSite | None = None

    @property
    def is_open(self) -> bool:
        return self._site is not None

    async def open(self, credentials: Credentials) -> None:
        if self._socket is None:
            self._socket = socket.create_server(self._address, family=_family(self._address[0]))
        site = web.SockSite(self._runner, self._socket.dup(), ssl_context=credentials.context())
        await site.start()
        old, self._site = self._site, site
        if old is not None:
            await old.stop()
        else:
            _log.info("the API is open", extra={"address": "https://{}:{}".format(*self._address)})

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


async def serve(chosen: Settings, world: World, stop: asyncio.Event) -> None:
    node = Node(chosen, world)
    await node.start()
    app = api.application(node.machines, node.hub, node.segments)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    door = Door(runner, chosen.host_ip, chosen.agent_port)

    async def renewed(credentials: Credentials) -> None:
        await door.open(credentials)
        if node.handovers.tunnel is not None:
            try:
                node.handovers.tunnel.renew(credentials.identity, credentials.authorities)
            except OSError as error:  # nothing can move then; all else goes on
                _log.error("other agents' port cannot be opened", extra={"error": str(error)})

    enrollment = Enrollment(chosen, world.now, renewed)

    def missing() -> str:
        return enrollment.problem or ("" if door.is_open else "the API is not open yet")

    async with _local(health.application(node, missing), chosen.health_port):
        enrolling = asyncio.create_task(enrollment.run(), name="enrolment")
        await stop.wait()
        _log.info("closing; guests run on")
        enrolling.cancel()
        await runner.cleanup()
        door.close()
        if node.handovers.tunnel is not None:
            node.handovers.tunnel.close()
    await node.stop()


@contextlib.asynccontextmanager
async def _local(app: web.Application, port: int) -> AsyncIterator[None]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


def _real_world(chosen: Settings, executor: ThreadPoolExecutor) -> World:
    """The real ports; imported here, so that tests of the rest need neither libvirt nor netlink."""
    from berth.agent import ports

    return ports.real(chosen, in_threads(executor), lambda: datetime.now(UTC))


async def _run(chosen: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    executor = ThreadPoolExecutor(chosen.workers * THREADS_PER_WORKER, thread_name_prefix="port")
    world = _real_world(chosen, executor)
    gc.freeze()
    gc.enable()
    _log.info("agent", extra={"version": __version__, "node": chosen.node_name, "pid": os.getpid()})
    await serve(chosen, world, stop)


def _spare_memory() -> None:
    """One malloc arena: the worker threads take turns anyway, and each arena of glibc's keeps megabytes."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def main() -> None:
    _spare_memory()
    sys.setswitchinterval(SWITCH_SECONDS)
    chosen = settings.from_environment(os.environ)
    log.set_up(chosen.log_level, chosen.log_format)
    asyncio.run(_run(chosen))
    logging.shutdown()
    os._exit(0)  # a port's thread that still waits for libvirtd must not hold the pod's end up
