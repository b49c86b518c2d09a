"""The agent as a process of its own, and a controller that is just enough for it: it enrolls, orders and listens."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from berth.api.enroll import EnrollAnswer, EnrollRequest
from berth.api.order import Order
from berth.effects import certificates, tls

NODE = "contract"
NAMES = ("berth-controller.berth-system.svc",)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def free_port() -> int:
    """Below the ports that the kernel gives to whoever connects: nobody takes it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@dataclass
class Controller:
    """Signs the agent's certificate, sends orders, listens to reports."""

    folder: Path
    authority: certificates.Authority = field(default_factory=lambda: certificates.new_authority(now()))
    port: int = field(default_factory=free_port)
    agent_port: int = field(default_factory=free_port)
    health_port: int = field(default_factory=free_port)
    node: str = NODE
    host: str = "127.0.0.1"
    agent_host: str = "127.0.0.1"
    lines: list[dict[str, Any]] = field(default_factory=list)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    _heard: asyncio.Condition = field(default_factory=asyncio.Condition)
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def start(self) -> None:
        (self.folder / "token").write_text("token")
        (self.folder / "ca.crt").write_bytes(self.authority.certificate)
        identity = certificates.new_identity(self.authority, "controller", names=NAMES, now=now())
        app = web.Application()
        app.router.add_post("/v1/enroll", self._enroll)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, self.host, self.port, ssl_context=tls.open_server_context(identity)).start()
        self._stack.push_async_callback(runner.cleanup)
        client = certificates.new_identity(self.authority, tls.CONTROLLER_NAME, now=now())
        connector = aiohttp.TCPConnector(ssl=tls.client_context(client, self.authority.certificate.decode()))
        self.session = await self._stack.enter_async_context(
            aiohttp.ClientSession(f"https://{self.agent_host}:{self.agent_port}", connector=connector)
        )
        listening = asyncio.create_task(self._listen())
        self._stack.callback(listening.cancel)

    async def close(self) -> None:
        await self._stack.aclose()

    async def _enroll(self, request: web.Request) -> web.Response:
        csr = EnrollRequest.model_validate_json(await request.read()).csr
        signed = certificates.sign_node(
            self.authority, csr.encode(), node=self.node, addresses=[self.agent_host], now=now()
        )
        return web.json_response(text=EnrollAnswer(certificate=signed.decode()).model_dump_json())

    async def send(self, order: Order, seconds: float = 20) -> tuple[int, Any]:
        """PUT the order until an agent is there to answer."""
        body = order.model_dump_json(by_alias=True).encode()
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with self.session.put(f"/v1/vms/{order.uid}", data=body, server_hostname=self.node) as answer:
                        if answer.status != 503:
                            return answer.status, json.loads(await answer.text())
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)

    async def _listen(self) -> None:
        """The stream of reports, again and again: the agent may be killed at any time."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=30)
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.get("/v1/reports", server_hostname=self.node, timeout=timeout) as answer:
                    async for line in answer.content:
                        await self._take(json.loads(line))
            await asyncio.sleep(0.05)

    async def _take(self, message: dict[str, Any]) -> None:
        async with self._heard:
            self.lines.append(message)
            match message["type"]:
                case "snapshot":
                    self.reports = {report["uid"]: report for report in message["reports"]}
                case "changed":
                    self.reports[message["report"]["uid"]] = message["report"]
                case "gone":
                    self.reports.pop(message["uid"], None)
            self._heard.notify_all()

    async def hears(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
        """Wait until what was reported fulfils the condition."""
        try:
            async with asyncio.timeout(seconds), self._heard:
                await self._heard.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"not reported within {seconds} s: {what}; last: {self.lines[-5:]}") from None
        return condition()

    async def hears_state(self, uid: str, state: str, seconds: float = 30) -> dict[str, Any]:
        def seen() -> bool:
            return self.reports.get(uid, {}).get("state") == state

        await self.hears(seen, f"{uid} {state}", seconds)
        return self.reports[uid]


@dataclass
class Agent:
    """`python -m berth.agent` on this node."""

    controller: Controller
    vms: Path
    log: Path
    process: asyncio.subprocess.Process | None = None
    prefix: tuple[str, ...] = ()  # to be on another node

    async def start(self, **more: str) -> None:
        c = self.controller
        settings = {
            "BERTH_NODE_NAME": c.node,
            "BERTH_HOST_IP": c.agent_host,
            "BERTH_AGENT_PORT": str(c.agent_port),
            "BERTH_HEALTH_PORT": str(c.health_port),
            "BERTH_ENROLL_URL": f"https://{c.host}:{c.port}/v1/enroll",
            "BERTH_ENROLL_SERVER_NAME": NAMES[0],
            "BERTH_TOKEN_FILE": str(c.folder / "token"),
            "BERTH_CA_FILE": str(c.folder / "ca.crt"),
            "BERTH_VMS_FOLDER": str(self.vms),
            "BERTH_LOG_LEVEL": "DEBUG",
            "BERTH_LOG_FORMAT": "text",
            **more,
        }
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.prefix,
                sys.executable,
                "-m",
                "berth.agent",
                env={**os.environ, **settings},
                stdin=asyncio.subprocess.DEVNULL,
                stderr=log,
                stdout=log,
            )

    async def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 10) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), seconds)

    async def kill(self) -> None:
        await self.stop(signal.SIGKILL)

    def rss_kib(self) -> int:
        assert self.process is not None
        rows = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(row for row in rows if row.startswith("VmRSS")).split()[1])

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.controller.health_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()


@contextlib.asynccontextmanager
async def agent_and_controller(folder: Path, vms: Path) -> AsyncIterator[tuple[Agent, Controller]]:
    controller = Controller(folder)
    agent = Agent(controller, vms, folder / "agent.log")
    await controller.start()
    await agent.start()
    try:
        yield agent, controller
    finally:
        await agent.stop()
        await controller.close()
        print(agent.log.read_text())  # pytest shows it when the test fails
