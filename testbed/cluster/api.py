"""Talks to the built-in cluster's API server with the admin certificate: read, apply, wait. Needs no kubectl."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testbed import errors
from testbed.cluster import layout
from testbed.settings import Settings

Object = Mapping[str, Any]
WATCH_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Client:
    """One API server and how to prove who we are."""

    server: str
    context: ssl.SSLContext

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def apply(self, path: str, body: Object) -> Any:
        """Server-side apply: creates or updates, and the same twice changes nothing."""
        query = "?fieldManager=berth-testbed&force=true"
        return self._ask("PATCH", path + query, body, "application/apply-patch+yaml")

    def merge(self, path: str, body: Object) -> Any:
        return self._ask("PATCH", path, body, "application/merge-patch+json")

    def watch(self, path: str, version: str) -> Iterator[Any]:
        """What changes after a version; ends when the server ends it, at the latest after five minutes."""
        query = f"?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        request = urllib.request.Request(self.server + path + query)
        try:
            with self._opener().open(request, timeout=WATCH_SECONDS + 10) as answer:
                for line in answer:
                    yield json.loads(line)
        except OSError as error:
            raise errors.NotReady(f"watch {path}: {error}") from error

    def _opener(self) -> urllib.request.OpenerDirector:
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.context))
        return urllib.request.build_opener(*handlers)

    def _ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data, {"Content-Type": kind}, method=method)
        try:
            with self._opener().open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")[:500]
            raise errors.TestbedError(f"{method} {path}: {error.code} {reason}") from error
        except OSError as error:
            raise errors.NotReady(f"{method} {path}: the API server does not answer: {error}") from error


def connect(settings: Settings) -> Client:
    """A client for the cluster on this machine."""
    context = ssl.create_default_context(cafile=str(settings.pki / "ca.crt"))
    context.load_cert_chain(settings.pki / "admin.crt", settings.pki / "admin.key")
    return Client(f"https://127.0.0.1:{layout.api_port(settings)}", context)
