"""The agent's API for the controller: HTTP over mutual TLS in, orders to the machines and streams of reports out.

    PUT    /v1/vms/{uid}   an Order; answered with the machine's Report so far
    DELETE /v1/vms/{uid}   forget an order whose berth never came; refused while anything of the machine is here
    GET    /v1/vms         all reports
    PUT    /v1/segments/{uid}   SegmentMembers: who is on an overlay; 204 when it is so here; an older one is ignored
    GET    /v1/segments    all of them, as they were told since the agent started
    GET    /v1/facts       NodeFacts
    GET    /v1/reports     NDJSON: hello, snapshot, then changes, and a heartbeat at least every ten seconds

TLS has already refused whoever holds no certificate of the berth authority; of those, only the controller's name may
speak. Every error is a ``Refusal``. Nothing here decides about machines.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from berth.agent.reports import Hub, Listener
from berth.api.order import Heartbeat, Order, Refusal, Report, SegmentMembers
from berth.effects import tls
from berth.errors import BerthError, InvalidSpec, Refused, StaleEpoch, Unavailable

BODY_LIMIT: Final = 1024 * 1024
HEARTBEAT_SECONDS: Final = 10.0
OPEN_SECONDS: Final = 5.0
STALLED_SECONDS: Final = 30.0  # a listener that reads nothing for this long is hung up on

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Orders(Protocol):
    """Who takes the orders: machines.py."""

    def accept(self, order: Order) -> Report:
        """Keep the order and begin; Refused or StaleEpoch when it must not be carried out."""
        ...

    def withdraw(self, uid: str) -> None:
        """Forget an order of which nothing is on this node; Refused when something is."""
        ...


class SegmentStore(Protocol):
    """Who takes what is told of segments: segments.py."""

    async def take(self, members: SegmentMembers) -> None: ...

    async def all(self) -> list[SegmentMembers]: ...


def application(orders: Orders, hub: Hub, segments: SegmentStore) -> web.Application:
    app = web.Application(middlewares=[_refusals, _only_the_controller], client_max_size=BODY_LIMIT)
    api = _Api(orders, hub, segments)
    app.router.add_put("/v1/vms/{uid}", api.put_order)
    app.router.add_delete("/v1/vms/{uid}", api.delete_order)
    app.router.add_get("/v1/vms", api.get_reports)
    app.router.add_put("/v1/segments/{uid}", api.put_segment)
    app.router.add_get("/v1/segments", api.get_segments)
    app.router.add_get("/v1/facts", api.get_facts)
    app.router.add_get("/v1/reports", api.stream_reports)
    app.on_shutdown.append(api.close)
    return app


class _Api:
    def __init__(self, orders: Orders, hub: Hub, segments: SegmentStore) -> None:
        self._orders = orders
        self._hub = hub
        self._segments = segments
        self._streams: set[asyncio.Task[Any]] = set()

    async def put_order(self, request: web.Request) -> web.Response:
        uid = _uid(request)
        order = _parse(Order, await request.read())
        if order.uid != uid:
            raise InvalidSpec("uid", f"the order must be for the machine in the path, {uid}", given=order.uid)
        await self._opened()
        return _json(self._orders.accept(order))

    async def delete_order(self, request: web.Request) -> web.Response:
        await self._opened()
        self._orders.withdraw(_uid(request))
        return web.Response(status=204)

    async def put_segment(self, request: web.Request) -> web.Response:
        uid = _uid(request)
        members = _parse(SegmentMembers, await request.read())
        if members.segment.uid != uid:
            raise InvalidSpec("segment.uid", f"it must be the segment in the path, {uid}", given=members.segment.uid)
        await self._segments.take(members)
        return web.Response(status=204)

    async def get_segments(self, _request: web.Request) -> web.Response:
        lines = ",".join(members.model_dump_json(by_alias=True) for members in await self._segments.all())
        return web.json_response(text=f"[{lines}]")

    async def get_reports(self, _request: web.Request) -> web.Response:
        lines = ",".join(r.model_dump_json(by_alias=True) for r in self._hub.reports)
        return web.json_response(text=f"[{lines}]")

    async def get_facts(self, _request: web.Request) -> web.Response:
        return _json(self._hub.facts)

    async def stream_reports(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None  # a handler always runs in one
        self._streams.add(task)
        try:
            await self._hub.facts_known()
            with self._hub.listen() as listener:
                await _pump(response, listener, self._hub)
        except (ConnectionError, TimeoutError):
            _log.info("a listener of reports went away", extra={"peer": request.remote})
        finally:
            self._streams.discard(task)
        return response

    async def close(self, _app: web.Application) -> None:
        """End the streams: they would hold the server open for ever."""
        for task in self._streams:
            task.cancel()

    async def _opened(self) -> None:
        """Before the running guests are known, no order can be judged."""
        async with asyncio.timeout(OPEN_SECONDS):
            await self._hub.opened()


async def _pump(response: web.StreamResponse, listener: Listener, hub: Hub) -> None:
    heartbeat = _line(Heartbeat())
    while True:
        messages = await listener.take(HEARTBEAT_SECONDS)
        lines = b"".join(_line(message) for message in messages)
        async with asyncio.timeout(STALLED_SECONDS):
            await response.write(lines or heartbeat)
        for message in messages:
            hub.told(message)


@web.middleware
async def _only_the_controller(request: web.Request, handler: Handler) -> web.StreamResponse:
    transport = request.transport
    peer = transport.get_extra_info("peercert") if transport is not None else None
    name = tls.common_name(peer)
    if name != tls.CONTROLLER_NAME:
        return _refusal(403, "Forbidden", f"only {tls.CONTROLLER_NAME} may speak here, not {name!r}")
    return await handler(request)


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvalidSpec as error:
        return _refusal(400, error.reason, str(error))
    except (StaleEpoch, Refused) as error:
        return _refusal(409, error.reason, str(error))
    except (Unavailable, TimeoutError) as error:
        return _refusal(503, getattr(error, "reason", "Starting"), str(error) or _STARTING)
    except web.HTTPException as error:
        return _refusal(error.status, type(error).__name__.removeprefix("HTTP"), error.text or error.reason)
    except BerthError as error:
        return _refusal(500, error.reason, str(error))


_STARTING: Final = "the agent does not yet know which guests run here, because libvirt does not answer; ask again"


def _uid(request: web.Request) -> str:
    uid = request.match_info["uid"]
    if not _UUID.fullmatch(uid):
        raise InvalidSpec("uid", "must be a lower-case UUID", given=uid[:100])
    return uid


def _parse(kind: type[M], body: bytes) -> M:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or kind.__name__.lower()
        raise InvalidSpec(path, first["msg"], reason="OrderInvalid") from error


def _json(model: BaseModel) -> web.Response:
    return web.json_response(text=model.model_dump_json(by_alias=True))


def _line(model: BaseModel) -> bytes:
    return model.model_dump_json(by_alias=True).encode() + b"\n"


def _refusal(status: int, reason: str, message: str) -> web.Response:
    body = Refusal(reason=reason, message=message)
    return web.json_response(text=body.model_dump_json(by_alias=True), status=status)
