"""One replica: health, enrolment, and, while it holds the lease, the lead. `python -m berth.controller` runs it.

Every replica answers agents that want a certificate; only the leader touches machines. Losing the lease ends the
process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from typing import Final

from berth.controller import authority, logs, web
from berth.controller.authority import Authorities
from berth.controller.enroll import Enrolment
from berth.controller.leader import Leader
from berth.controller.leading import Leading
from berth.controller.settings import Settings, from_environment
from berth.effects import tls
from berth.effects.certificates import Authority
from berth.effects.kube import Kube
from berth.errors import BerthError, InvalidSpec

AUTHORITY_SECONDS: Final = 1.0
LOST_LEASE: Final = 3
KOPF_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


class Replica:
    def __init__(self, settings: Settings, kube: Kube) -> None:
        self._settings = settings
        self._kube = kube
        self._authorities = Authorities(kube, settings.namespace)
        self._leader = Leader(kube, settings.namespace, settings.lease_name, settings.pod_name, settings.lease_seconds)
        self._leading: Leading | None = None
        self._enrolls = False
        self.stop = asyncio.Event()

    def ready(self) -> tuple[bool, str]:
        if self._leading is not None:
            return self._enrolls and self._leading.ready.is_set(), "leading"
        return self._enrolls, "standing by"

    async def run(self) -> int:
        """Until told to stop, or the lease is lost; the process's exit code."""
        await web.serve(web.application(self.ready), self._settings.health_port)
        stopped = asyncio.create_task(self.stop.wait())
        parts = [asyncio.create_task(part) for part in (self._enroll(), self._lead())]
        done, _ = await asyncio.wait([stopped, *parts], return_when=asyncio.FIRST_COMPLETED)
        code = 0 if self.stop.is_set() else LOST_LEASE
        self.stop.set()
        failed = next((t.exception() for t in done if t is not stopped and t.exception()), None)
        if failed is not None:
            _log.error("a part of the controller failed", exc_info=failed)
        if self._leading is not None:
            await self._leading.halt()
        await self._leader.release()  # another may lead while kopf takes its time to end
        await asyncio.wait(parts[1:], timeout=KOPF_SECONDS)
        for part in parts:
            part.cancel()
        return code

    async def _lead(self) -> None:
        """Wait for the lease, then lead until it is lost or this replica is to stop."""
        acquiring = asyncio.create_task(self._leader.acquire())
        stopping = asyncio.create_task(self.stop.wait())
        await asyncio.wait([acquiring, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not acquiring.done():
            acquiring.cancel()
            return
        keeping = asyncio.create_task(self._keep())
        leading = self._leading = Leading(self._settings, self._kube, await self._ensure())
        signals = asyncio.create_task(self._take_signals_back(leading))
        await leading.run(self.stop)
        for task in (keeping, signals):
            task.cancel()

    async def _take_signals_back(self, leading: Leading) -> None:
        """kopf has taken the signals over when it is ready; ours end it too, and everything else first."""
        await leading.ready.wait()
        self.listen_to_signals()

    def listen_to_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop.set)

    async def _keep(self) -> None:
        """Another may lead from now on: not one more write from here."""
        await self._leader.keep()
        os._exit(LOST_LEASE)

    async def _ensure(self) -> Authority:
        while True:
            try:
                return await self._authorities.ensure()
            except BerthError as error:
                _log.warning("the certificate authority: %s", error)
                await asyncio.sleep(AUTHORITY_SECONDS)

    async def _enroll(self) -> None:
        """Serve enrolment once there is an authority, with a certificate that is never old."""
        trusted = await self._authority()
        names = self._settings.server_names
        context = tls.open_server_context(authority.server_identity(trusted, names))
        enrolment = Enrolment(self._kube, trusted, self._settings.namespace, self._settings.agent_service_account)
        await web.serve(enrolment.application(), self._settings.enroll_port, ssl_context=context)
        self._enrolls = True
        while True:
            await asyncio.sleep(authority.SERVER_RENEWAL.total_seconds())
            tls.load_identity(context, authority.server_identity(trusted, names))

    async def _authority(self) -> Authority:
        while True:
            with contextlib.suppress(BerthError):
                found = await self._authorities.read()
                if found is not None:
                    return found
            await asyncio.sleep(AUTHORITY_SECONDS)


async def _main(settings: Settings) -> int:
    kube = Kube.connect()
    replica = Replica(settings, kube)
    replica.listen_to_signals()
    gc.freeze()  # what is imported stays: no collection needs to look at it
    try:
        return await replica.run()
    finally:
        await kube.close()


def main() -> int:
    try:
        settings = from_environment(os.environ)
    except InvalidSpec as error:
        print(f"berth-controller: {error}", file=sys.stderr)
        return 2
    logs.set_up(settings.log_level, settings.log_format)
    return asyncio.run(_main(settings))
