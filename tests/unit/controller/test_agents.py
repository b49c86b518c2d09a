"""The links to the agents, over real mutual TLS: reports come in, orders go out, silence is noticed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from pydantic import BaseModel

from berth.api.order import Changed, Gone, GuestState, Heartbeat, Hello, NodeFacts, Order, Snapshot
from berth.controller.agents import Agents
from berth.controller.authority import ClientContexts
from berth.effects import certificates, tls
from berth.errors import AgentDown, Refused
from berth.plan.orders import order
from berth.plan.world import Object
from tests.unit.controller.apiserver import until
from tests.unit.plan.cluster_worlds import CLUSTER, NODE, UID, bound, machine, report

AUTHORITY = certificates.new_authority(datetime.now(UTC))
POD: Object = {
    "metadata": {"namespace": "ns", "name": "agent-x"},
    "spec": {"nodeName": NODE},
    "status": {"hostIP": "127.0.0.1"},
}
FACTS = NodeFacts(node=NODE, agent_version="1", hypervisor_connected=True, kvm_usable=False, kvm_reason="none")


class FakeAgent:
    """The other side: says what it is told to say."""

    def __init__(self, name: str = NODE, authority: certificates.Authority = AUTHORITY) -> None:
        self.lines: asyncio.Queue[BaseModel | None] = asyncio.Queue()
        self.orders: list[Order] = []
        self.withdrawn: list[str] = []
        self.answer: tuple[int, Object] | None = None
        self.port = 0
        request = certificates.new_request("x")
        now = datetime.now(UTC)
        signed = certificates.sign_node(authority, request[1], node=name, addresses=["127.0.0.1"], now=now)
        self._identity = tls.Identity(signed, request[0])

    async def reports(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await self.lines.get()) is not None:
            await response.write(line.model_dump_json(by_alias=True).encode() + b"\n")
        return response

    async def put(self, request: web.Request) -> web.Response:
        if self.answer is not None:
            return web.json_response(self.answer[1], status=self.answer[0])
        self.orders.append(Order.model_validate_json(await request.read()))
        return web.json_response(text=report(GuestState.WAITING).model_dump_json(by_alias=True))

    async def delete(self, request: web.Request) -> web.Response:
        self.withdrawn.append(request.match_info["uid"])
        return web.Response(status=204)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/v1/reports", self.reports)
        app.router.add_put("/v1/vms/{uid}", self.put)
        app.router.add_delete("/v1/vms/{uid}", self.delete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        context = tls.server_context(self._identity, AUTHORITY.certificate.decode())
        site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=context, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            self.lines.put_nowait(None)
            await runner.cleanup()


class Heard:
    def __init__(self) -> None:
        self.machines: list[str] = []
        self.nodes: list[tuple[str, bool]] = []


def links(port: int, heard: Heard, context: ssl.SSLContext | None = None) -> Agents:
    contexts = ClientContexts(AUTHORITY)
    return Agents(
        lambda: context or contexts(),
        port,
        heard.machines.append,
        lambda node, facts: heard.nodes.append((node, facts is not None)),
    )


def wanted() -> Order:
    made = order(machine(), bound(), CLUSTER)
    assert made is not None
    return made


async def test_a_life_of_a_link() -> None:
    fake, heard = FakeAgent(), Heard()
    async with fake.serving():
        agents = links(fake.port, heard)
        assert not agents.view(NODE, UID).exists
        agents.pod_seen(POD)
        assert agents.view(NODE, UID).exists
        fake.lines.put_nowait(Hello(facts=FACTS))
        await until(lambda: heard.nodes)
        assert not agents.view(NODE, UID).connected  # it may run machines that it has not told of yet
        with pytest.raises(AgentDown):
            await agents.send(NODE, wanted(), "d")
        fake.lines.put_nowait(Snapshot(reports=(report(),)))
        await until(lambda: agents.view(NODE, UID).connected)
        view = agents.view(NODE, UID)
        assert view.report == report()
        assert view.present
        assert view.silent_since is None
        assert agents.kvm() == ((NODE, False, "none"),)
        fake.lines.put_nowait(Changed(report=report(GuestState.PAUSED)))
        await until(lambda: heard.machines == [UID])
        await agents.send(NODE, wanted(), "d1")
        assert fake.orders == [wanted()]
        assert agents.view(NODE, UID).sent == "d1"
        fake.lines.put_nowait(Heartbeat())
        fake.lines.put_nowait(Gone(uid=UID))
        await until(lambda: not agents.view(NODE, UID).present)
        assert agents.view(NODE, UID).report is not None  # how it ended is still worth knowing
        await agents.withdraw(NODE, UID)
        assert fake.withdrawn == [UID]
        agents.forget(UID)
        assert agents.view(NODE, UID).report is None
        await agents.close()


async def test_what_a_node_is_stays_known_while_its_agent_starts_anew() -> None:
    fake, heard = FakeAgent(), Heard()
    async with fake.serving():
        agents = links(fake.port, heard)
        assert agents.settled()
        agents.pod_seen(POD)
        assert not agents.settled()
        assert agents.hosts() == ()
        fake.lines.put_nowait(Hello(facts=FACTS))
        await until(lambda: agents.hosts())
        assert not agents.settled(), "its libvirt has not said yet what QEMU there can be"
        known = FACTS.model_copy(update={"machine_types": ("pc-q35-10.0",), "qemu_version": "10.0.0"})
        fake.lines.put_nowait(Hello(facts=known))
        await until(agents.settled)
        fake.lines.put_nowait(Hello(facts=FACTS))
        fake.lines.put_nowait(Snapshot(reports=()))
        await until(lambda: agents.view(NODE, UID).connected)
        (host,) = agents.hosts()
        assert (host.node, host.kind.qemu, host.kind.machine_types) == (NODE, "10.0.0", {"pc-q35-10.0"})
        assert agents.settled()
        agents.pod_gone(("ns", "agent-x"))
        assert agents.hosts() == (host,), "its pod may be about to be replaced"
        agents._clock = lambda: datetime.now(UTC) + timedelta(minutes=11)
        assert agents.hosts() == ()
        await agents.close()


async def test_one_that_does_not_tell_is_not_waited_for_for_long() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    agents = Agents(ClientContexts(AUTHORITY), 1, lambda uid: None, lambda node, facts: None, lambda: now)
    agents.pod_seen(POD)
    assert not agents.settled()
    now += timedelta(seconds=6)
    assert agents.settled()
    agents._take(agents._links[NODE], Hello(facts=FACTS))
    now += timedelta(seconds=14)
    assert not agents.settled(), "its libvirt may be asking QEMU"
    now += timedelta(seconds=2)
    assert agents.settled()
    await agents.close()


async def test_a_refusal_is_remembered_until_an_order_is_accepted() -> None:
    fake, heard = FakeAgent(), Heard()
    async with fake.serving():
        agents = links(fake.port, heard)
        agents.pod_seen(POD)
        fake.lines.put_nowait(Snapshot(reports=()))
        await until(lambda: agents.view(NODE, UID).connected)
        fake.answer = 409, {"reason": "StaleEpoch", "message": "epoch 1 is older than 2"}
        with pytest.raises(Refused, match="older"):
            await agents.send(NODE, wanted(), "d")
        refusal = agents.view(NODE, UID).refusal
        assert refusal is not None
        assert refusal.reason == "StaleEpoch"
        fake.answer = 503, {"reason": "HypervisorDown", "message": "libvirt does not answer"}
        with pytest.raises(AgentDown, match="libvirt"):
            await agents.send(NODE, wanted(), "d")
        fake.answer = None
        await agents.send(NODE, wanted(), "d")
        assert agents.view(NODE, UID).refusal is None
        await agents.close()


async def test_a_lost_agent_keeps_what_it_said_and_is_connected_again() -> None:
    fake, heard = FakeAgent(), Heard()
    async with fake.serving():
        agents = links(fake.port, heard)
        agents.pod_seen(POD)
        fake.lines.put_nowait(Snapshot(reports=(report(),)))
        await until(lambda: agents.view(NODE, UID).connected)
        await agents.send(NODE, wanted(), "d")
    await until(lambda: not agents.view(NODE, UID).connected)
    lost = agents.view(NODE, UID)
    assert lost.silent_since is not None
    assert lost.report is not None
    fake.lines = asyncio.Queue()
    async with fake.serving():
        fake.lines.put_nowait(Snapshot(reports=()))
        await until(lambda: agents.view(NODE, UID).connected)
        assert agents.view(NODE, UID).sent is None  # a new agent has to be told again
        assert not agents.view(NODE, UID).present
        agents.pod_gone(("ns", "agent-x"))
        assert not agents.view(NODE, UID).exists
        assert not agents.view(NODE, UID).connected
        assert agents.pods() == {}
        await agents.close()


@pytest.mark.parametrize("wrong", ["another node", "another authority", "no client certificate"])
async def test_only_the_right_agent_is_listened_to(wrong: str) -> None:
    other = certificates.new_authority(datetime.now(UTC))
    name = "node-2" if wrong == "another node" else NODE
    fake = FakeAgent(name, other if wrong == "another authority" else AUTHORITY)
    context = tls.client_context(None, AUTHORITY.certificate.decode()) if wrong.startswith("no client") else None
    async with fake.serving():
        agents = links(fake.port, Heard(), context)
        agents.pod_seen(POD)
        fake.lines.put_nowait(Snapshot(reports=(report(),)))
        await until(lambda: agents.view(NODE, UID).error)
        assert not agents.view(NODE, UID).connected
        await agents.close()


async def test_an_agent_without_libvirt_says_since_when() -> None:
    fake, heard = FakeAgent(), Heard()
    async with fake.serving():
        agents = links(fake.port, heard)
        agents.pod_seen(POD)
        fake.lines.put_nowait(Hello(facts=FACTS.model_copy(update={"hypervisor_connected": False})))
        await until(lambda: agents.view(NODE, UID).hypervisor_down_since)
        fake.lines.put_nowait(Hello(facts=FACTS))
        await until(lambda: agents.view(NODE, UID).hypervisor_down_since is None)
        await agents.close()
