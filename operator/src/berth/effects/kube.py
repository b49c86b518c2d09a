"""HTTP to the Kubernetes API: JSON in and out, no model classes. Used by cluster.py, watches.py, leader.py, enroll.py.

Addresses and credentials are found by the kubernetes client's own rules (in the pod, else a kubeconfig). Every write is
counted by kind and verb, because Berth promises how few it makes.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import kubernetes.client
import kubernetes.config
from prometheus_client import Counter, Histogram

from berth.effects.ports_cluster import ApiRefused, Conflict, NotFound
from berth.errors import Unavailable
from berth.plan.world import Object

WRITES: Final = Counter("berth_api_writes", "Writes to the Kubernetes API.", ["kind", "verb"])
SECONDS: Final = Histogram("berth_api_seconds", "Time the Kubernetes API took to answer.", ["verb"])
TIMEOUT: Final = 10.0
_READS: Final = frozenset({"get", "list", "watch"})
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
"""Kubernetes' own kinds know which of their lists are maps."""


class Kube:
    """One session to the API server."""

    def __init__(self, server: str, context: ssl.SSLContext | None, configuration: Any) -> None:
        self.server = server.rstrip("/")
        self._context = context
        self._configuration = configuration
        connector = aiohttp.TCPConnector(ssl=context if context is not None else False, limit=64, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(connector=connector, json_serialize=_dumps)

    @classmethod
    def connect(cls, kubeconfig: str | None = None) -> Kube:
        """From the pod's ServiceAccount, else from this file, else from KUBECONFIG. Inside a running event loop."""
        configuration = kubernetes.client.Configuration()
        try:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        except kubernetes.config.ConfigException:
            kubernetes.config.load_kube_config(kubeconfig, client_configuration=configuration)
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert) if configuration.verify_ssl else None
        if context is not None and configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        return cls(configuration.host, context, configuration)

    async def close(self) -> None:
        await self._session.close()

    def _headers(self, content_type: str | None) -> dict[str, str]:
        token = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        headers = {"Authorization": token} if token else {}
        return {**headers, "Content-Type": content_type} if content_type else headers

    async def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        kind: str = "",
        verb: str = "",
        merge: bool = False,
        content: str = "application/json",
    ) -> Object:
        """One request. ``kind`` and ``verb`` name a write in the metrics; ``merge``: the body is a merge patch."""
        verb = verb or method.lower()
        if verb not in _READS:
            WRITES.labels(kind, verb).inc()
        headers = self._headers((MERGE if merge else content) if body is not None else None)
        data = _dumps(body).encode() if body is not None else None
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        with SECONDS.labels(verb).time():
            try:
                async with self._session.request(
                    method, self.server + path, data=data, headers=headers, timeout=timeout
                ) as response:
                    text = await response.text()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise Unavailable(f"{method} {path}: the API server does not answer: {error!r}") from error
        if response.status < 300:
            return _object(text)
        raise _refusal(response.status, text, f"{method} {path}")

    async def lines(self, path: str, idle_seconds: float) -> AsyncIterator[Object]:
        """A watch: one JSON object a line, until the server ends it. Unavailable when it breaks or goes silent."""
        timeout = aiohttp.ClientTimeout(total=None, connect=TIMEOUT, sock_read=idle_seconds)
        try:
            async with self._session.get(self.server + path, headers=self._headers(None), timeout=timeout) as response:
                if response.status >= 300:
                    raise _refusal(response.status, await response.text(), f"GET {path}")
                async for line in _split(response.content):
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"the watch of {path} broke: {error!r}") from error


async def _split(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length: an object may be larger than aiohttp's own limit for a line."""
    buffer = bytearray()
    async for chunk in stream.iter_any():
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            buffer += chunk[start:end]
            if buffer:
                yield bytes(buffer)
                buffer.clear()
            start = end + 1
        buffer += chunk[start:]


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _object(text: str) -> Object:
    value = json.loads(text) if text else {}
    return value if isinstance(value, dict) else {}


def _refusal(code: int, text: str, what: str) -> Exception:
    try:
        status = _object(text)
    except ValueError:
        status = {}
    message = status.get("message") or f"{what}: HTTP {code}: {text[:300]}"
    if code == 404:
        return NotFound(code, message)
    if code == 409:
        return Conflict(code, message, reason=status.get("reason"))
    if code in (429, 401) or code >= 500:
        return Unavailable(f"{what}: HTTP {code}: {message}")
    return ApiRefused(code, message, reason=status.get("reason") or None)


def path(prefix: str, *parts: str) -> str:
    """``/api/v1`` and ("namespaces", "a", "pods", "b") → one path, each part quoted."""
    return "/".join([prefix, *(quote(part, safe="") for part in parts)])
