"""Enrolment against a controller's own HTTPS server: token, trust, retry, rotation at half-life, a new authority."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from berth.agent import enroll
from berth.agent.enroll import Credentials, Enrollment
from berth.agent.settings import Settings
from berth.api.enroll import EnrollAnswer, EnrollRequest
from berth.api.order import Refusal
from berth.effects import certificates, tls
from tests.unit.agent.orders import NODE
from tests.unit.agent.test_api import free_port

REAL = datetime.datetime.now(datetime.UTC)


@dataclass
class Controller:
    """The enrolment end of a controller."""

    authority: certificates.Authority
    port: int
    tokens: list[str] = field(default_factory=list)
    refusals: int = 0  # so many calls are refused first
    lifetime: datetime.timedelta = certificates.IDENTITY_LIFETIME
    answer: str | None = None

    async def enroll(self, request: web.Request) -> web.Response:
        self.tokens.append(request.headers["Authorization"])
        if self.refusals:
            self.refusals -= 1
            refusal = Refusal(reason="NotAnAgent", message="the token is of another audience")
            return web.json_response(text=refusal.model_dump_json(), status=403)
        csr = EnrollRequest.model_validate_json(await request.read()).csr
        signed = certificates.sign_node(self.authority, csr.encode(), node=NODE, addresses=["127.0.0.1"], now=REAL)
        answer = EnrollAnswer(certificate=self.answer or signed.decode())
        return web.json_response(text=answer.model_dump_json())

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        names = ("berth-controller.berth-system.svc",)
        identity = certificates.new_identity(self.authority, "controller", names=names, now=REAL)
        app = web.Application()
        app.router.add_post("/v1/enroll", self.enroll)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=tls.open_server_context(identity)).start()
        try:
            yield
        finally:
            await runner.cleanup()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enroll, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(enroll, "CA_SECONDS", 0.02)


@pytest.fixture
def controller() -> Controller:
    return Controller(certificates.new_authority(REAL), free_port())


@pytest.fixture
def settings(tmp_path: Path, controller: Controller) -> Settings:
    (tmp_path / "token").write_text("the-token\n")
    (tmp_path / "ca.crt").write_bytes(controller.authority.certificate)
    return Settings(
        node_name=NODE,
        host_ip="127.0.0.1",
        enroll_url=f"https://127.0.0.1:{controller.port}/v1/enroll",
        enroll_server_name="berth-controller.berth-system.svc",
        token_file=tmp_path / "token",
        ca_file=tmp_path / "ca.crt",
    )


@dataclass
class Clock:
    ahead: datetime.timedelta = datetime.timedelta(0)

    def now(self) -> datetime.datetime:
        return REAL + self.ahead


@dataclass
class Run:
    enrollment: Enrollment
    changes: asyncio.Queue[Credentials]
    clock: Clock

    async def next(self) -> Credentials:
        return await asyncio.wait_for(self.changes.get(), 30)

    async def problem(self, said: str) -> None:
        """Wait until the enrolment says that this is the matter."""
        async with asyncio.timeout(30):
            while said not in self.enrollment.problem:  # noqa: ASYNC110 - it is read by kubelet, nothing tells
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Run]:
    changes: asyncio.Queue[Credentials] = asyncio.Queue()
    clock = Clock()
    run = Run(Enrollment(settings, clock.now, changes.put), changes, clock)
    task = asyncio.create_task(run.enrollment.run())
    try:
        yield run
    finally:
        task.cancel()


async def test_the_token_is_exchanged_for_a_certificate(controller: Controller, settings: Settings) -> None:
    async with controller.serve(), running(settings) as run:
        got = await run.next()
        assert controller.tokens == ["Bearer the-token"]
        assert got.authorities.encode() == controller.authority.certificate
        assert got.valid.not_after - REAL == certificates.IDENTITY_LIFETIME - datetime.timedelta(
            microseconds=REAL.microsecond
        )
        assert run.enrollment.problem == ""
        got.context()


async def test_it_asks_again_until_the_controller_is_there(controller: Controller, settings: Settings) -> None:
    async with running(settings) as run:
        await run.problem("Cannot connect")
        async with controller.serve():
            await run.next()
            assert run.enrollment.problem == ""


async def test_a_refusal_is_told_and_asked_again(
    controller: Controller, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    controller.refusals = 2
    async with controller.serve(), running(settings) as run:
        await run.next()
    assert len(controller.tokens) == 3
    assert "the token is of another audience" in str([vars(r).get("error") for r in caplog.records])


async def test_a_stranger_in_the_controller_s_place_never_sees_the_token(
    controller: Controller, settings: Settings
) -> None:
    stranger = Controller(certificates.new_authority(REAL), controller.port)
    async with stranger.serve(), running(settings) as run:
        await run.problem("CERTIFICATE_VERIFY_FAILED")
        assert stranger.tokens == []


async def test_half_of_the_life_later_there_is_a_new_certificate(controller: Controller, settings: Settings) -> None:
    async with controller.serve(), running(settings) as run:
        first = await run.next()
        settings.token_file.write_text("a-later-token\n")
        run.clock.ahead = datetime.timedelta(hours=13)
        second = await run.next()
        assert first.identity != second.identity
        assert controller.tokens[-1] == "Bearer a-later-token"


async def test_while_the_old_certificate_holds_a_lost_controller_is_no_problem(
    controller: Controller, settings: Settings
) -> None:
    async with running(settings) as run:
        async with controller.serve():
            await run.next()
        run.clock.ahead = datetime.timedelta(hours=13)
        await asyncio.sleep(0.1)
        assert run.enrollment.problem == ""
        run.clock.ahead = datetime.timedelta(hours=25)
        await run.problem("Cannot connect")


async def test_a_new_authority_is_taken_in_at_once(controller: Controller, settings: Settings) -> None:
    async with controller.serve(), running(settings) as run:
        await run.next()
        both = controller.authority.certificate + certificates.new_authority(REAL).certificate
        settings.ca_file.write_bytes(both)
        assert (await run.next()).authorities.encode() == both


@pytest.mark.parametrize("missing", ["token_file", "ca_file"])
async def test_a_missing_file_is_named(controller: Controller, settings: Settings, missing: str) -> None:
    path: Path = getattr(settings, missing)
    os.unlink(path)
    async with controller.serve(), running(settings) as run:
        await run.problem(str(path))


async def test_an_answer_that_is_no_certificate_is_refused(controller: Controller, settings: Settings) -> None:
    controller.answer = "nonsense"
    async with controller.serve(), running(settings) as run:
        await run.problem("no certificate: the controller's answer")
