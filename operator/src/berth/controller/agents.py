"""The links to the nodes' agents: one mutual-TLS stream of reports each in, views of single machines out; Orders down.

A link belongs to a node and outlives its agent's pods: what the agent said last is kept while it is away. An agent
counts as connected once its snapshot is in. Fed with agent pods by main.py; read and used by the reconcile (AgentPort).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import aiohttp
from pydantic import TypeAdapter, ValidationError

from berth.api import order as words
from berth.api.order import Changed, Gone, Heartbeat, Hello, Message, NodeFacts, Order, Report, SegmentMembers, Snapshot
from berth.errors import AgentDown, Refused
from berth.plan import hosts
from berth.plan.backoff import retry_seconds
from berth.plan.hosts import Host
from berth.plan.world import Agent, Object, Refusal

SILENT_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 5.0
"""So long nothing is started because a new agent has not told what its node is: the CPU of a start is for all nodes."""
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
LINE_BYTES: Final = 16 * 1024 * 1024
LEARN_SECONDS: Final = 15.0
"""The same for one that has told who it is, and whose libvirt still asks a QEMU that is new to it what it can be."""
FORGET_SECONDS: Final = 600.0
"""So long a node without an agent pod counts for the CPU that all nodes can give."""
_MESSAGE: Final[TypeAdapter[Message]] = TypeAdapter(Message)
_log = logging.getLogger(__name__)


def _utc() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Link:
    """What is known of one node's agent."""

    node: str
    silent_since: datetime | None
    address: str = ""
    pods: set[tuple[str, str]] = field(default_factory=set)
    connected: bool = False
    error: str = ""
    facts: NodeFacts | None = None
    host: Host | None = None  # what matters of the facts to all machines
    begun: datetime | None = None  # when it was first seen
    told: datetime | None = None  # when it first told any facts
    hypervisor_down_since: datetime | None = None
    reports: dict[str, Report] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class Agents:
    """AgentPort over HTTP. ``on_machine`` is told uids, ``on_node`` nodes whose agent came, went or has new facts."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        port: int,
        on_machine: Callable[[str], None],
        on_node: Callable[[str, NodeFacts | None], None],
        clock: Callable[[], datetime] = _utc,
    ) -> None:
        self._context = context
        self._port = port
        self._on_machine = on_machine
        self._on_node = on_node
        self._clock = clock
        self._begun = clock()
        self._links: dict[str, Link] = {}
        self._session: aiohttp.ClientSession | None = None

    # the agent pods

    def pod_seen(self, obj: Object) -> None:
        """An agent pod is, or has changed; a link to its node is kept from when its address is known."""
        meta, node = obj["metadata"], (obj.get("spec") or {}).get("nodeName")
        address = (obj.get("status") or {}).get("hostIP")
        if not node or not address:
            return
        link = self._links.setdefault(node, Link(node, self._clock(), begun=self._clock()))
        link.pods.add((meta.get("namespace", ""), meta["name"]))
        link.address = address
        if link.task is None or link.task.done():
            link.task = asyncio.get_running_loop().create_task(self._keep(link))

    def pod_gone(self, key: tuple[str, str]) -> None:
        for link in self._links.values():
            link.pods.discard(key)
            if not link.pods and link.task is not None:
                link.task.cancel()
                link.task = None
                self._lost(link, "its agent pod is gone")

    def pods(self) -> dict[tuple[str, str], int]:
        """For the watch: all that are known, as old as can be."""
        return {key: 0 for link in self._links.values() for key in link.pods}

    async def close(self) -> None:
        tasks = [link.task for link in self._links.values() if link.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # AgentPort

    def view(self, node: str, uid: str) -> Agent:
        link = self._links.get(node)
        if link is None:
            return Agent(node, exists=False, connected=False, silent_since=self._begun)
        return Agent(
            node=node,
            exists=bool(link.pods),
            connected=link.connected,
            silent_since=link.silent_since,
            error=link.error,
            facts=link.facts,
            hypervisor_down_since=link.hypervisor_down_since,
            report=link.reports.get(uid),
            present=uid in link.present,
            sent=link.sent.get(uid),
            refusal=link.refusals.get(uid),
            address=link.address,
        )

    def kvm(self) -> tuple[tuple[str, bool, str], ...]:
        """Which nodes have a usable KVM, and why not."""
        facts = sorted((link.node, link.facts) for link in self._links.values() if link.facts is not None)
        return tuple((node, f.kvm_usable, f.kvm_reason) for node, f in facts)

    def hosts(self) -> tuple[Host, ...]:
        """What each node is, as far as its agent has said; kept while the agent is away, and forgotten with its pod."""
        return tuple(host for _, link in sorted(self._links.items()) if (host := self._host(link)) is not None)

    def _host(self, link: Link) -> Host | None:
        """An agent's pod that is replaced is away for some seconds; a node that was taken away has none any more."""
        away = (self._clock() - link.silent_since).total_seconds() if link.silent_since is not None else 0.0
        return link.host if link.pods or away < FORGET_SECONDS else None

    def settled(self) -> bool:
        """Whether no agent is left that was found just now and has not told what its node is."""
        return not any(self._is_new(link) for link in self._links.values())

    def _is_new(self, link: Link) -> bool:
        if not link.pods or link.begun is None or (link.host is not None and link.host.kind.known):
            return False
        since, seconds = (link.told, LEARN_SECONDS) if link.told is not None else (link.begun, SETTLE_SECONDS)
        return (self._clock() - since).total_seconds() < seconds

    def nodes(self) -> tuple[str, ...]:
        """Those of which an agent pod was seen. One that is being replaced does not make its node go."""
        return tuple(sorted(self._links))

    async def send(self, node: str, order: Order, digest: str) -> None:
        link = self._links.get(node)
        if link is None or not link.connected:
            raise AgentDown(f"the agent of node {node} is not connected")
        body = order.model_dump_json(by_alias=True).encode()
        try:
            text = await self._call("PUT", link, f"/v1/vms/{order.uid}", body)
        except Refused as error:
            link.refusals[order.uid] = Refusal(409, error.reason, str(error))
            raise
        link.refusals.pop(order.uid, None)
        link.sent[order.uid] = digest
        with contextlib.suppress(ValidationError):
            self._take_report(link, Report.model_validate_json(text))

    def address(self, node: str) -> str:
        link = self._links.get(node)
        return link.address if link is not None else ""

    async def send_members(self, node: str, members: SegmentMembers) -> None:
        link = self._links.get(node)
        if link is None or not link.connected:
            raise AgentDown(f"the agent of node {node} is not connected")
        body = members.model_dump_json(by_alias=True).encode()
        await self._call("PUT", link, f"/v1/segments/{members.segment.uid}", body)

    async def withdraw(self, node: str, uid: str) -> None:
        link = self._links.get(node)
        if link is not None and link.connected:
            with contextlib.suppress(AgentDown, Refused):  # asked again as long as the agent reports it
                await self._call("DELETE", link, f"/v1/vms/{uid}", None)

    async def _call(self, method: str, link: Link, path: str, body: bytes | None) -> str:
        url = f"https://{_host(link.address)}:{self._port}{path}"
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            async with self._client().request(
                method, url, data=body, ssl=self._context(), server_hostname=link.node, timeout=timeout
            ) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise AgentDown(f"the agent of node {link.node} does not answer: {_why(error)}") from error
        if response.status < 300:
            return text
        refusal = _refusal(text, response.status)
        if response.status >= 500:
            raise AgentDown(f"the agent of node {link.node} cannot now: {refusal.message}", reason=refusal.reason)
        raise Refused(refusal.message, reason=refusal.reason)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=75))
        return self._session

    # the stream

    async def _keep(self, link: Link) -> None:
        """Stay connected for as long as the node has an agent pod."""
        failures = 0
        while True:
            try:
                await self._follow(link)
                error = "it closed the stream"
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as problem:
                error = _why(problem)
            failures = 0 if link.connected else failures + 1
            self._lost(link, error)
            await asyncio.sleep(retry_seconds(failures, first=0.2, longest=3))

    async def _follow(self, link: Link) -> None:
        url = f"https://{_host(link.address)}:{self._port}/v1/reports"
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        async with self._client().get(
            url, ssl=self._context(), server_hostname=link.node, timeout=timeout, read_bufsize=LINE_BYTES
        ) as response:
            if response.status != 200:
                raise ValueError(_refusal(await response.text(), response.status).message)
            link.sent.clear()
            async for line in response.content:
                self._take(link, _MESSAGE.validate_json(line))

    def _take(self, link: Link, message: Message) -> None:
        match message:
            case Hello(facts=facts):
                self._take_facts(link, facts)
            case Snapshot(reports=reports):
                self._take_snapshot(link, reports)
            case Changed(report=report):
                self._take_report(link, report)
            case Gone(uid=uid):
                link.present.discard(uid)
                link.sent.pop(uid, None)
                self._on_machine(uid)
            case Heartbeat():
                pass

    def _take_facts(self, link: Link, facts: NodeFacts) -> None:
        link.facts = facts
        link.told = link.told or self._clock()
        host = hosts.read(facts)
        if host.kind.known or link.host is None:
            link.host = host  # an agent that has just started does not know yet what was known before
        if facts.hypervisor_connected:
            link.hypervisor_down_since = None
        elif link.hypervisor_down_since is None:
            link.hypervisor_down_since = self._clock()
        self._on_node(link.node, facts)

    def _take_snapshot(self, link: Link, reports: tuple[Report, ...]) -> None:
        link.present = {report.uid for report in reports}
        link.reports.update({report.uid: report for report in reports})
        link.connected, link.silent_since, link.error = True, None, ""
        _log.info("agent connected", extra={"node": link.node, "machines": len(reports)})
        self._on_node(link.node, None)

    def _take_report(self, link: Link, report: Report) -> None:
        link.present.add(report.uid)
        if link.reports.get(report.uid) != report:
            link.reports[report.uid] = report
            self._on_machine(report.uid)

    def forget(self, uid: str) -> None:
        """The machine is no more."""
        for link in self._links.values():
            for kept in (link.reports, link.sent, link.refusals):
                kept.pop(uid, None)
            link.present.discard(uid)

    def _lost(self, link: Link, error: str) -> None:
        was, link.connected = link.connected, False
        changed = link.error != error
        link.error = error
        link.silent_since = link.silent_since or self._clock()
        if was or changed:
            _log.warning("agent not connected", extra={"node": link.node, "error": error})
            self._on_node(link.node, None)


def _why(error: Exception) -> str:
    """The cause in words that stay the same at every try: they become a condition's message."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or "it cannot be reached"
    if isinstance(error, TimeoutError):
        return f"it has been silent for {SILENT_SECONDS:.0f} s"
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "it broke the connection off"
    return str(error) or type(error).__name__


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _refusal(text: str, status: int) -> words.Refusal:
    try:
        return words.Refusal.model_validate_json(text)
    except ValidationError:
        return words.Refusal(reason="AgentError", message=f"HTTP {status}: {text[:200]}")
