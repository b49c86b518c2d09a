"""How the agent gets its certificate and keeps it fresh: token and key in, TLS contexts for the API out.

The key is made in memory and never leaves it. What is shown to the controller is the pod's projected token; what is
trusted is the authority's certificate in the mounted ConfigMap, and nothing else. Used by main.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import aiohttp
from pydantic import ValidationError

from berth.agent.settings import Settings
from berth.api.enroll import EnrollAnswer, EnrollRequest
from berth.api.order import Refusal
from berth.effects import tls
from berth.errors import BerthError, HostFault, Refused
from berth.plan import backoff

TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
CA_SECONDS: Final = 10.0
"""kubelet replaces a mounted ConfigMap's files a minute or so after it changed."""
FIRST_RETRY: Final = 0.2
LONGEST_RETRY: Final = 15.0
ANSWER_BYTES: Final = 65536

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the API server of the agent runs with."""

    identity: tls.Identity
    authorities: str
    valid: tls.Validity

    def context(self) -> ssl.SSLContext:
        return tls.server_context(self.identity, self.authorities)


class Enrollment:
    """``on_change`` is awaited with the first credentials, and with each later ones."""

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], datetime],
        on_change: Callable[[Credentials], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._now = now
        self._on_change = on_change
        self.problem = "no certificate yet"
        """Why there is no certificate; empty when there is one."""

    async def run(self) -> None:
        failures, current = 0, None
        while True:
            try:
                current = await self._enroll()
                failures, self.problem = 0, ""
                await self._on_change(current)
                _log.info("enrolled", extra={"until": current.valid.not_after.isoformat()})
                await self._until_due(current)
            except (BerthError, OSError, TimeoutError, aiohttp.ClientError, ssl.SSLError) as error:
                failures += 1
                pause = backoff.retry_seconds(failures, FIRST_RETRY, LONGEST_RETRY) * random.uniform(0.5, 1.0)
                still = current is not None and self._now() < current.valid.not_after
                self.problem = "" if still else f"no certificate: {error or type(error).__name__}"
                _log.warning("enrolment failed", extra={"error": str(error), "again_in": round(pause, 1)})
                await asyncio.sleep(pause)

    async def _enroll(self) -> Credentials:
        authorities = await asyncio.to_thread(_read, self._settings.ca_file)
        token = (await asyncio.to_thread(_read, self._settings.token_file)).strip()
        name = tls.node_name(self._settings.node_name)
        key, request = await _new_request(name)
        certificate = await self._ask(authorities, token, request)
        identity = tls.Identity(certificate.encode(), key.encode())
        try:
            return Credentials(identity, authorities, tls.validity(identity.certificate))
        except ValueError as error:
            raise Refused(f"the controller's answer holds no certificate: {error}", reason="AnswerInvalid") from error

    async def _ask(self, authorities: str, token: str, request: str) -> str:
        settings = self._settings
        context = tls.client_context(None, authorities)
        body = EnrollRequest(csr=request).model_dump_json(by_alias=True)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT) as session,
            session.post(
                settings.enroll_url,
                data=body,
                headers=headers,
                ssl=context,
                server_hostname=settings.enroll_server_name or None,
                allow_redirects=False,
            ) as response,
        ):
            answer = await response.content.read(ANSWER_BYTES)
            if response.status != 200:
                raise Refused(
                    f"{settings.enroll_url} answered {response.status}: {_said(answer)}", reason="NotEnrolled"
                )
        try:
            return EnrollAnswer.model_validate_json(answer).certificate
        except ValidationError as error:
            raise Refused(
                f"{settings.enroll_url} gave an answer that cannot be read", reason="AnswerInvalid"
            ) from error

    async def _until_due(self, current: Credentials) -> None:
        """Until half of the certificate's life is over; an authority that changes meanwhile is taken in at once."""
        while (left := (current.valid.half_life - self._now()).total_seconds()) > 0:
            await asyncio.sleep(min(left, CA_SECONDS))
            authorities = await asyncio.to_thread(_read, self._settings.ca_file)
            if authorities != current.authorities:
                _log.info("the authority's certificate changed")
                return


async def _new_request(name: str) -> tuple[str, str]:
    """A key and a request from a process that ends at once; its library costs more than the rest here."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "berth.effects.certificates", name, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await child.communicate()
    if child.returncode != 0:
        raise HostFault(f"a key could not be made: the process for it ended with {child.returncode}", reason="NoKey")
    made = json.loads(said)
    return made["key"], made["request"]


def _read(path: object) -> str:
    try:
        with open(str(path), encoding="ascii") as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        raise HostFault(
            f"{path}: cannot be read: {error}; it is mounted by the agent's pod", reason="FileMissing"
        ) from error


def _said(answer: bytes) -> str:
    try:
        return Refusal.model_validate_json(answer).message
    except ValidationError:
        return answer[:200].decode("utf-8", "replace")
