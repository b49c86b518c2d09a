"""Which replica leads: one Lease, renewed by its holder. Used by main.py; losing it ends the process.

Safe against clocks that differ: another's lease has run out when it has not changed for its whole duration by *our own*
clock. A holder that cannot renew gives up before anybody else may take over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from berth.effects.kube import Kube, path
from berth.effects.ports_cluster import ApiRefused, Conflict, NotFound
from berth.errors import BerthError
from berth.plan.world import Object

RETRY_SECONDS: Final = 1.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Seen:
    """Another's lease as it was when it changed last, by our clock."""

    version: str = ""
    at: float = 0.0


class Leader:
    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        seconds: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._leases = path("/apis/coordination.k8s.io/v1", "namespaces", namespace, "leases")
        self._name = name
        self.identity = identity
        self._seconds = seconds
        self._clock = clock
        self._seen = Seen()
        self._lease: Object = {}
        self.renewed_at = 0.0

    @property
    def give_up_after(self) -> float:
        """So long without a renewal, and this replica leads no longer."""
        return self._seconds * 2 / 3

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        while True:
            if await self._quietly(self._try()):
                break
            await asyncio.sleep(RETRY_SECONDS)
        _log.info("leading", extra={"identity": self.identity})

    async def keep(self) -> None:
        """Renew until it fails for too long; returning means that this replica leads no longer."""
        while True:
            await asyncio.sleep(self._seconds / 6)
            await self._quietly(self._try())
            if self._clock() - self.renewed_at > self.give_up_after:
                _log.error("the lease could not be renewed for %.0f s: leading no longer", self.give_up_after)
                return

    async def release(self) -> None:
        """Let another take over at once."""
        if self._lease and self._holder(self._lease) == self.identity:
            await self._quietly(self._write({**self._lease["spec"], "holderIdentity": ""}))

    async def _quietly(self, attempt: Coroutine[Any, Any, bool]) -> bool:
        try:
            return bool(await asyncio.wait_for(attempt, timeout=self._seconds / 4))
        except (BerthError, TimeoutError) as error:
            _log.warning("lease: %s", error or "the API server does not answer")
            return False

    async def _try(self) -> bool:
        """One attempt to take or renew."""
        begun = self._clock()
        try:
            self._lease = await self._kube.call("GET", f"{self._leases}/{self._name}")
        except NotFound:
            return await self._make(begun)
        holder = self._holder(self._lease)
        if holder and holder != self.identity and not self._run_out(self._lease):
            return False
        spec = self._spec(self._lease.get("spec") or {}, taken=holder != self.identity)
        if await self._write(spec):
            self.renewed_at = begun
            return True
        return False

    def _run_out(self, lease: Object) -> bool:
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen.version:
            self._seen = Seen(version, self._clock())
        duration = (lease.get("spec") or {}).get("leaseDurationSeconds") or self._seconds
        return self._clock() - self._seen.at > duration

    @staticmethod
    def _holder(lease: Object) -> str:
        return (lease.get("spec") or {}).get("holderIdentity") or ""

    def _spec(self, old: Object, *, taken: bool) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {**old, "holderIdentity": self.identity, "leaseDurationSeconds": self._seconds, "renewTime": now}
        if taken:
            spec |= {"acquireTime": now, "leaseTransitions": (old.get("leaseTransitions") or 0) + 1}
        return spec

    async def _make(self, begun: float) -> bool:
        body: Object = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name},
            "spec": self._spec({}, taken=True),
        }
        try:
            self._lease = await self._kube.call("POST", self._leases, body, kind="Lease", verb="create")
        except Conflict:
            return False
        self.renewed_at = begun
        return True

    async def _write(self, spec: Object) -> bool:
        """Only if nobody changed it since it was read."""
        where = f"{self._leases}/{self._name}"
        try:
            self._lease = await self._kube.call(
                "PUT", where, {**self._lease, "spec": spec}, kind="Lease", verb="update"
            )
        except (Conflict, ApiRefused):
            return False
        return True
