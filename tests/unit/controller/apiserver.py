"""A small API server over real HTTP for the tests: objects by path, versions, conflicts, lists and watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from berth.effects.kube import Kube
from berth.plan.world import Object


class Settled:
    """What Kube reads of a client configuration."""

    def __init__(self, token: str = "Bearer t") -> None:
        self.token = token

    def get_api_key_with_prefix(self, name: str, alias: str | None = None) -> str:
        assert name == "BearerToken"
        return self.token


class ApiServer:
    """Keeps what is written; refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.version = 10
        self.calls: list[tuple[str, str]] = []
        self.answers: list[tuple[int, Object]] = []  # taken before anything else
        self.watches: list[asyncio.Queue[Object | None]] = []
        self.reviews: Object = {}
        self.seen_headers: dict[str, str] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.calls.append((request.method, request.path_qs))
        self.seen_headers = dict(request.headers)
        if self.answers:
            status, body = self.answers.pop(0)
            return web.json_response(body, status=status)
        if request.path.endswith("/tokenreviews"):
            return web.json_response({"status": self.reviews}, status=201)
        if request.query.get("watch"):
            return await self._watch(request)
        body = json.loads(await request.read() or b"{}")
        return getattr(self, f"_{request.method.lower()}")(request, body)

    def _get(self, request: web.Request, _: Object) -> web.Response:
        if request.path in self.objects:
            return web.json_response(self.objects[request.path])
        kind = request.path.rsplit("/", 1)[-1]
        inside = [o for p, o in self.objects.items() if p.startswith(f"{request.path}/") or p.split("/")[-2] == kind]
        if request.path.endswith(("pods", "events", "virtualmachines")):
            return web.json_response({"items": inside, "metadata": {"resourceVersion": str(self.version)}})
        return _error(404, f"{request.path} not found")

    def _post(self, request: web.Request, body: Object) -> web.Response:
        where = f"{request.path}/{body['metadata']['name']}"
        if where in self.objects:
            return _error(409, f"{where} already exists", "AlreadyExists")
        return web.json_response(self.put(where, body), status=201)

    def _put(self, request: web.Request, body: Object) -> web.Response:
        old = self.objects.get(request.path)
        if old is None or old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            return _error(409, "the object has been modified", "Conflict")
        return web.json_response(self.put(request.path, body))

    def _patch(self, request: web.Request, body: Object) -> web.Response:
        where = request.path.removesuffix("/status")
        if where not in self.objects:
            return _error(404, "not found")
        return web.json_response(self.put(where, _merge(self.objects[where], body)))

    def _delete(self, request: web.Request, _: Object) -> web.Response:
        found = self.objects.pop(request.path, None)
        return web.json_response({**found, "kind": "Pod"}) if found else _error(404, "not found")

    def put(self, where: str, obj: Object) -> Object:
        self.version += 1
        meta = {"uid": f"uid-{self.version}", **obj["metadata"], "resourceVersion": str(self.version)}
        self.objects[where] = {**obj, "metadata": meta}
        return self.objects[where]

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[Object | None] = asyncio.Queue()
        self.watches.append(queue)
        while (event := await queue.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    def tell(self, kind: str, obj: Object) -> None:
        for queue in self.watches:
            queue.put_nowait({"type": kind, "object": obj})

    def end_watches(self) -> None:
        for queue in self.watches:
            queue.put_nowait(None)
        self.watches.clear()


def _merge(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict) or not isinstance(old, dict):
        return patch
    merged = {k: v for k, v in old.items() if k not in patch}
    return merged | {k: _merge(old.get(k, {}), v) for k, v in patch.items() if v is not None}


def _error(code: int, message: str, reason: str = "") -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message, "reason": reason}, status=code)


@asynccontextmanager
async def served(server: ApiServer) -> AsyncIterator[Kube]:
    """A Kube that speaks with it."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    http = TestServer(app)
    await http.start_server()
    kube = Kube(str(http.make_url("")), None, Settled())
    try:
        yield kube
    finally:
        server.end_watches()
        await kube.close()
        await http.close()


async def until(holds: Any, seconds: float = 5.0) -> None:
    """Wait for a condition, with a deadline."""
    deadline = asyncio.get_running_loop().time() + seconds
    for _ in iter(lambda: bool(holds()), True):
        assert asyncio.get_running_loop().time() < deadline, "it did not come true in time"
        await asyncio.sleep(0.005)
