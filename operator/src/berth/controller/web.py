"""Health and metrics of a replica over plain HTTP. Started by main.py; it only reads."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


def application(ready: Callable[[], tuple[bool, str]]) -> web.Application:
    """``ready`` says whether this replica does its part, and what it is doing."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        is_ready, doing = ready()
        return web.Response(text=f"{doing}\n", status=200 if is_ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


async def serve(app: web.Application, port: int, **options: object) -> web.AppRunner:
    """On all addresses, v6 where there is any."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, None, port, reuse_address=True, **options)  # type: ignore[arg-type]
    await site.start()
    return runner
