"""A selective list and watch that never loses a deletion: one kind of object in, ``seen`` and ``gone`` calls out.

After a 410 it lists anew; what its owner has cached and the list has not is told as gone. Used by the leader for berth
pods and agent pods; VirtualMachines come through kopf.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from urllib.parse import quote

from berth.effects.kube import Kube
from berth.effects.ports_cluster import ApiRefused
from berth.errors import Unavailable
from berth.plan.backoff import retry_seconds
from berth.plan.world import Object

Key = tuple[str, str]
"""Namespace and name."""
WATCH_SECONDS = 300
PAGE = 500
_log = logging.getLogger(__name__)


def key_of(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


class Watch:
    """One kind of object under one label selector. ``cached``: the owner's keys, each with its resourceVersion."""

    def __init__(
        self,
        kube: Kube,
        path: str,
        selector: str,
        seen: Callable[[Object], None],
        gone: Callable[[Key, Object | None], None],
        cached: Callable[[], dict[Key, int]],
    ) -> None:
        self._kube = kube
        self._path = f"{path}?labelSelector={quote(selector, safe='')}"
        self._seen = seen
        self._gone = gone
        self._cached = cached
        self._version = ""
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """For ever; ``synced`` is set after the first list."""
        failures = 0
        while True:
            try:
                if not self._version:
                    await self._list()
                    self.synced.set()
                await self._follow()
                failures = 0
            except ApiRefused as error:  # 410: the version is too old
                self._version = ""
                failures = 0 if error.code == 410 else failures + 1
                _log.info("listing %s anew: %s", self._path, error)
            except Unavailable as error:
                failures += 1
                _log.warning("watch of %s: %s", self._path, error)
            if failures:
                await asyncio.sleep(retry_seconds(failures, first=0.2, longest=10))

    async def _list(self) -> None:
        found: set[Key] = set()
        token, version = "", ""
        while True:
            more = f"&continue={quote(token, safe='')}" if token else ""
            answer = await self._kube.call("GET", f"{self._path}&limit={PAGE}{more}", verb="list")
            for obj in answer.get("items") or ():
                found.add(key_of(obj))
                self._seen(obj)
            meta = answer.get("metadata") or {}
            token, version = meta.get("continue") or "", meta.get("resourceVersion") or ""
            if not token:
                break
        for key, cached in list(self._cached().items()):
            if key not in found and cached <= int(version):  # not one that was made after the list
                self._gone(key, None)
        self._version = version

    async def _follow(self) -> None:
        query = f"&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}"
        path = f"{self._path}&resourceVersion={self._version}{query}"
        async for event in self._kube.lines(path, idle_seconds=120):
            self._take(event["type"], event["object"])

    def _take(self, kind: str, obj: Object) -> None:
        if kind == "ERROR":
            raise ApiRefused(obj.get("code", 500), obj.get("message", "the watch ended with an error"))
        self._version = obj["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self._gone(key_of(obj), obj)
        else:
            self._seen(obj)
