"""The certificate authority that controller and agents trust: kept in a Secret, its certificate shown in a ConfigMap.

The leader makes it once; every replica reads it to sign agents' requests. Nobody else may read the Secret.
"""

from __future__ import annotations

import base64
import logging
from datetime import UTC, datetime, timedelta
from ssl import SSLContext
from typing import Final

from berth.effects import certificates, tls
from berth.effects.certificates import Authority
from berth.effects.kube import Kube, path
from berth.effects.ports_cluster import Conflict, NotFound
from berth.plan.world import Object

NAME: Final = "berth-ca"
CERTIFICATE: Final = "ca.crt"
_log = logging.getLogger(__name__)


class Authorities:
    """Reads and makes the authority."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._secrets = path("/api/v1", "namespaces", namespace, "secrets")
        self._maps = path("/api/v1", "namespaces", namespace, "configmaps")

    async def read(self) -> Authority | None:
        try:
            secret = await self._kube.call("GET", f"{self._secrets}/{NAME}")
        except NotFound:
            return None
        data = secret.get("data") or {}
        return Authority(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))

    async def ensure(self) -> Authority:
        """The authority; made when there is none. Then its certificate is where agents find it."""
        authority = await self.read() or await self._make()
        await self._show(authority)
        return authority

    async def _make(self) -> Authority:
        made = certificates.new_authority(datetime.now(UTC))
        data = {"tls.crt": base64.b64encode(made.certificate).decode(), "tls.key": base64.b64encode(made.key).decode()}
        secret: Object = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": NAME},
            "type": "kubernetes.io/tls",
            "data": data,
        }
        try:
            await self._kube.call("POST", self._secrets, secret, kind="Secret", verb="create")
            _log.info("made a certificate authority")
        except Conflict:  # another replica was faster: its authority counts
            found = await self.read()
            if found is not None:
                return found
        return made

    async def _show(self, authority: Authority) -> None:
        data = {CERTIFICATE: authority.certificate.decode()}
        shown: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data}
        try:
            found = await self._kube.call("GET", f"{self._maps}/{NAME}")
        except NotFound:
            await self._kube.call("POST", self._maps, shown, kind="ConfigMap", verb="create")
            return
        if (found.get("data") or {}).get(CERTIFICATE) != data[CERTIFICATE]:
            body = {"data": data}
            await self._kube.call("PATCH", f"{self._maps}/{NAME}", body, kind="ConfigMap", verb="patch", merge=True)


class ClientContexts:
    """The controller's client identity for the agents: a new one before the old one is too old."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._context: SSLContext | None = None
        self._until = datetime.min.replace(tzinfo=UTC)

    def __call__(self) -> SSLContext:
        now = datetime.now(UTC)
        if self._context is None or now >= self._until:
            identity = certificates.new_identity(self._authority, tls.CONTROLLER_NAME, now=now)
            self._context = tls.client_context(identity, self._authority.certificate.decode())
            self._until = now + certificates.IDENTITY_LIFETIME / 2
        return self._context


SERVER_RENEWAL: Final = timedelta(hours=12)


def server_identity(authority: Authority, names: tuple[str, ...]) -> tls.Identity:
    """The enrolment server's certificate."""
    return certificates.new_identity(authority, names[0], names=names, now=datetime.now(UTC))
