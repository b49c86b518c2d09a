"""The agent's API over real TLS on localhost: who may speak, what is refused and how, and the stream of reports."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from berth.agent import api, facts
from berth.agent.enroll import Credentials
from berth.agent.main import Door
from berth.agent.reports import Hub
from berth.api.order import GuestState, Order, Report, SegmentKind, SegmentMember, SegmentMembers, SegmentOrder
from berth.effects import certificates, tls
from berth.errors import HostFault, Refused, StaleEpoch
from tests.unit.agent.orders import NODE, order, uid

NOW = datetime.datetime.now(datetime.UTC)


def report(number: int = 1, state: GuestState = GuestState.WAITING) -> Report:
    given = order(number)
    return Report(
        uid=given.uid, namespace=given.namespace, name=given.name, epoch=1, pod_uid=given.berth.pod_uid, state=state
    )


@dataclass
class FakeOrders:
    taken: list[Order] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)

    def accept(self, given: Order) -> Report:
        if self.taken and given.epoch < self.taken[-1].epoch:
            raise StaleEpoch(f"order of epoch {given.epoch}: one of epoch {self.taken[-1].epoch} came before")
        self.taken.append(given)
        return report()

    def withdraw(self, given: str) -> None:
        if given == uid(9):
            raise Refused("a guest of this machine is on this node", reason="StillHere")
        self.withdrawn.append(given)


@dataclass
class FakeSegments:
    taken: list[SegmentMembers] = field(default_factory=list)

    async def take(self, members: SegmentMembers) -> None:
        if members.segment.vni == 13:
            raise HostFault("no device of this node has its address", reason="NodeAddressMissing")
        self.taken.append(members)

    async def all(self) -> list[SegmentMembers]:
        return self.taken


@dataclass
class Served:
    """An API on localhost and how to reach it."""

    authority: certificates.Authority
    orders: FakeOrders
    segments: FakeSegments
    hub: Hub
    door: Door
    url: str

    def identity(self, name: str = tls.CONTROLLER_NAME, **more: Any) -> tls.Identity:
        return certificates.new_identity(self.authority, name, now=NOW, **more)

    @contextlib.asynccontextmanager
    async def client(self, identity: tls.Identity | None = None) -> AsyncIterator[aiohttp.ClientSession]:
        context = tls.client_context(identity or self.identity(), self.authority.certificate.decode())
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(self.url, connector=connector) as session:
            yield session

    async def call(
        self, method: str, path: str, body: bytes | None = None, identity: tls.Identity | None = None
    ) -> tuple[int, Any]:
        async with (
            self.client(identity) as session,
            session.request(method, path, data=body, server_hostname=NODE) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text else None


def credentials(authority: certificates.Authority) -> Credentials:
    key, request = certificates.new_request("agent")
    signed = certificates.sign_node(authority, request, node=NODE, addresses=["127.0.0.1"], now=NOW)
    return Credentials(tls.Identity(signed, key), authority.certificate.decode(), tls.validity(signed))


def free_port() -> int:
    """Below the ports that the kernel gives to whoever connects: nobody takes it meanwhile."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@pytest.fixture(scope="module")
def authority() -> certificates.Authority:
    return certificates.new_authority(NOW)


@pytest.fixture
async def served(authority: certificates.Authority) -> AsyncIterator[Served]:
    hub, orders, segments, port = Hub(facts.first(NODE)), FakeOrders(), FakeSegments(), free_port()
    hub.facts_are_known()
    hub.open()
    runner = web.AppRunner(api.application(orders, hub, segments), shutdown_timeout=1.0)
    await runner.setup()
    door = Door(runner, "127.0.0.1", port)
    await door.open(credentials(authority))
    yield Served(authority, orders, segments, hub, door, f"https://127.0.0.1:{port}")
    await runner.cleanup()
    door.close()


async def test_an_order_is_taken_and_answered_with_a_report(served: Served) -> None:
    status, answer = await served.call("PUT", f"/v1/vms/{uid()}", order().model_dump_json(by_alias=True).encode())
    assert (status, answer["state"], served.orders.taken) == (200, "Waiting", [order()])


def members(vni: int = 7) -> SegmentMembers:
    segment = SegmentOrder(uid=uid(5), name="default/blue", kind=SegmentKind.OVERLAY, vni=vni)
    member = SegmentMember(mac="52:54:00:00:00:01", addresses=("10.9.0.5",), node="b", node_address="192.0.2.2")
    return SegmentMembers(segment=segment, version=3, members=(member,))


async def test_members_of_a_segment_are_taken_and_shown(served: Served) -> None:
    given = members()
    body = given.model_dump_json(by_alias=True).encode()
    assert await served.call("PUT", f"/v1/segments/{uid(5)}", body) == (204, None)
    status, answer = await served.call("GET", "/v1/segments")
    assert (status, answer) == (200, [json.loads(body)])
    assert served.segments.taken == [given]


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        (f"/v1/segments/{uid(6)}", members().model_dump_json(by_alias=True).encode(), 400, "InvalidSpec"),
        ("/v1/segments/blue", members().model_dump_json(by_alias=True).encode(), 400, "InvalidSpec"),
        (f"/v1/segments/{uid(5)}", b"[]", 400, "OrderInvalid"),
        (f"/v1/segments/{uid(5)}", members(13).model_dump_json(by_alias=True).encode(), 500, "NodeAddressMissing"),
    ],
)
async def test_members_that_are_wrong_or_cannot_be_set(
    served: Served, path: str, body: bytes, status: int, reason: str
) -> None:
    got, answer = await served.call("PUT", path, body)
    assert (got, answer["reason"]) == (status, reason)
    assert served.segments.taken == []


async def test_only_the_controller_tells_of_members(served: Served) -> None:
    body = members().model_dump_json(by_alias=True).encode()
    other = served.identity("system:berth:node:other")
    status, answer = await served.call("PUT", f"/v1/segments/{uid(5)}", body, other)
    assert (status, answer["reason"], served.segments.taken) == (403, "Forbidden", [])


async def test_an_older_epoch_is_refused_with_409(served: Served) -> None:
    await served.call("PUT", f"/v1/vms/{uid()}", order(epoch=2).model_dump_json(by_alias=True).encode())
    status, answer = await served.call("PUT", f"/v1/vms/{uid()}", order().model_dump_json(by_alias=True).encode())
    assert (status, answer["reason"]) == (409, "StaleEpoch")
    assert "epoch 1" in answer["message"]


@pytest.mark.parametrize(
    ("path", "body", "reason", "said"),
    [
        (f"/v1/vms/{uid()}", b"{", "OrderInvalid", "order: Invalid JSON"),
        (f"/v1/vms/{uid()}", b"{}", "OrderInvalid", "uid: Field required"),
        (f"/v1/vms/{uid(2)}", order().model_dump_json(by_alias=True).encode(), "InvalidSpec", uid()),
        ("/v1/vms/web", order().model_dump_json(by_alias=True).encode(), "InvalidSpec", "lower-case UUID"),
        ("/v1/vms/..%2f..%2fetc", b"{}", "InvalidSpec", "lower-case UUID"),
    ],
)
async def test_a_wrong_order_is_refused_with_400(
    served: Served, path: str, body: bytes, reason: str, said: str
) -> None:
    status, answer = await served.call("PUT", path, body)
    assert (status, answer["reason"]) == (400, reason)
    assert said in answer["message"]
    assert not served.orders.taken


async def test_a_body_beyond_the_limit_is_refused(served: Served) -> None:
    status, answer = await served.call("PUT", f"/v1/vms/{uid()}", b" " * (api.BODY_LIMIT + 1))
    assert (status, answer["reason"]) == (413, "RequestEntityTooLarge")


async def test_unknown_paths_and_methods_are_refusals_too(served: Served) -> None:
    assert (await served.call("GET", "/v1/nothing"))[1]["reason"] == "NotFound"
    assert (await served.call("POST", "/v1/vms"))[0] == 405


async def test_an_order_is_withdrawn(served: Served) -> None:
    assert await served.call("DELETE", f"/v1/vms/{uid()}") == (204, None)
    status, answer = await served.call("DELETE", f"/v1/vms/{uid(9)}")
    assert (status, answer["reason"], served.orders.withdrawn) == (409, "StillHere", [uid()])


async def test_before_the_guests_are_known_an_order_has_to_wait(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "OPEN_SECONDS", 0.05)
    served.hub._open.clear()
    status, answer = await served.call("PUT", f"/v1/vms/{uid()}", order().model_dump_json(by_alias=True).encode())
    assert (status, answer["reason"]) == (503, "Starting")
    assert "libvirt does not answer" in answer["message"]


async def test_another_name_of_the_same_authority_is_forbidden(served: Served) -> None:
    status, answer = await served.call("GET", "/v1/facts", identity=served.identity("system:berth:somebody"))
    assert (status, answer["reason"]) == (403, "Forbidden")
    assert "system:berth:somebody" in answer["message"]


async def test_another_authority_gets_no_word_out(served: Served) -> None:
    stranger = certificates.new_identity(certificates.new_authority(NOW), tls.CONTROLLER_NAME, now=NOW)
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await served.call("GET", "/v1/facts", identity=stranger)


async def test_a_node_s_own_certificate_cannot_give_orders(served: Served) -> None:
    """A stolen node must be worth only that node."""
    for method, path in (("GET", "/v1/facts"), ("GET", "/v1/reports"), ("DELETE", f"/v1/vms/{uid()}")):
        status, answer = await served.call(method, path, identity=credentials(served.authority).identity)
        assert (status, answer["reason"]) == (403, "Forbidden")


async def test_tls_1_2_is_refused(served: Served) -> None:
    context = tls.client_context(served.identity(), served.authority.certificate.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", int(served.url[-5:]), ssl=context, server_hostname=NODE)


async def next_line(stream: aiohttp.StreamReader) -> Any:
    return json.loads(await asyncio.wait_for(stream.readline(), 5))


async def test_the_stream_says_hello_then_everything_then_changes(served: Served) -> None:
    served.hub.publish(report(1))
    async with served.client() as session, session.get("/v1/reports", server_hostname=NODE) as answer:
        hello = await next_line(answer.content)
        snapshot = await next_line(answer.content)
        assert (hello["type"], hello["facts"]["node"]) == ("hello", NODE)
        assert [r["uid"] for r in snapshot["reports"]] == [uid(1)]
        served.hub.publish(report(2))
        assert (await next_line(answer.content))["report"]["uid"] == uid(2)
        served.hub.gone(uid(2))
        assert await next_line(answer.content) == {"type": "gone", "uid": uid(2)}
        served.hub.tell_facts(served.hub.facts.model_copy(update={"hypervisor_connected": True}))
        assert (await next_line(answer.content))["facts"]["hypervisorConnected"] is True


async def test_silence_is_filled_with_heartbeats(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "HEARTBEAT_SECONDS", 0.05)
    async with served.client() as session, session.get("/v1/reports", server_hostname=NODE) as answer:
        lines = [await next_line(answer.content) for _ in range(4)]
        assert [line["type"] for line in lines] == ["hello", "snapshot", "heartbeat", "heartbeat"]


async def test_a_slow_listener_is_hung_up_on_and_costs_no_memory(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "STALLED_SECONDS", 0.2)
    big = [report(n).model_copy(update={"name": "x" * 4000}) for n in range(200)]
    async with served.client() as session, session.get("/v1/reports", server_hostname=NODE) as answer:
        await next_line(answer.content)  # and from here on it reads nothing
        for turn in range(50):
            for one in big:
                served.hub.publish(one.model_copy(update={"epoch": turn + 2}))
            assert all(len(listener) <= len(big) + 2 for listener in served.hub._listeners)
            await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            while served.hub.listeners:  # noqa: ASYNC110 - nothing tells when a listener was dropped
                await asyncio.sleep(0.02)


async def test_two_listeners_hear_the_same(served: Served) -> None:
    async with (
        served.client() as session,
        session.get("/v1/reports", server_hostname=NODE) as first,
        session.get("/v1/reports", server_hostname=NODE) as second,
    ):
        for stream in (first.content, second.content):
            assert [(await next_line(stream))["type"] for _ in range(2)] == ["hello", "snapshot"]
        served.hub.publish(report(3))
        assert await next_line(first.content) == await next_line(second.content)


async def test_a_new_certificate_is_shown_and_streams_run_on(served: Served) -> None:
    async with served.client() as session, session.get("/v1/reports", server_hostname=NODE) as answer:
        await next_line(answer.content)
        fresh = credentials(served.authority)
        await served.door.open(fresh)
        context = tls.client_context(served.identity(), served.authority.certificate.decode())
        _, writer = await asyncio.open_connection(
            "127.0.0.1", int(served.url.rpartition(":")[2]), ssl=context, server_hostname=NODE
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        assert shown == ssl.PEM_cert_to_DER_cert(fresh.identity.certificate.decode())
        assert (await next_line(answer.content))["type"] == "snapshot"
        served.hub.publish(report(4))
        assert (await next_line(answer.content))["report"]["uid"] == uid(4)


async def test_a_new_authority_replaces_the_old_one(served: Served) -> None:
    other = certificates.new_authority(NOW)
    await served.door.open(credentials(other))
    with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await served.call("GET", "/v1/facts")
    served.authority = other
    assert (await served.call("GET", "/v1/facts"))[0] == 200


async def test_closing_ends_the_streams(served: Served) -> None:
    async with served.client() as session, session.get("/v1/reports", server_hostname=NODE) as answer:
        await next_line(answer.content)
        begin = asyncio.get_running_loop().time()
        await served.door._runner.cleanup()
        with contextlib.suppress(aiohttp.ClientError):
            await asyncio.wait_for(answer.content.read(), 5)
        assert asyncio.get_running_loop().time() - begin < 4
