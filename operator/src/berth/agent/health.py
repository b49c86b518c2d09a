"""For kubelet and Prometheus, in plain HTTP on the node's loopback address only: /healthz, /readyz, /metrics.

Alive means that the loop runs; libvirtd being away is no reason to restart the agent. Ready means that the controller
can reach the API. Called by main.py.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from berth.agent.node import Node


def application(node: Node, ready: Callable[[], str]) -> web.Application:
    """``ready`` gives what is missing for it, or nothing."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        missing = ready()
        return web.Response(text=f"{missing or 'ok'}\n", status=503 if missing else 200)

    async def metrics(_request: web.Request) -> web.Response:
        node.metrics.count([report.state for report in node.hub.reports])
        node.metrics.listeners.set(node.hub.listeners)
        body = generate_latest(node.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app
