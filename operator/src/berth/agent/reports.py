"""What the agent has to say, to everyone who listens: reports in, messages of the NDJSON stream out.

The reconcile publishes, api.py gives each listener a stream. A slow listener costs at most one message per machine:
what it has not read yet is replaced by what is newer. Nothing here knows HTTP or libvirt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from berth.api.order import Changed, Gone, Hello, NodeFacts, Report, Snapshot

HELLO, SNAPSHOT = "hello", "snapshot"  # keys among the machines' uids
StreamMessage = Hello | Snapshot | Changed | Gone


class Listener:
    """One reader of the stream: messages it has not taken yet, the latest one per machine."""

    def __init__(self) -> None:
        self._waiting: dict[str, StreamMessage] = {}
        self._some = asyncio.Event()

    def put(self, key: str, message: StreamMessage) -> None:
        self._waiting[key] = message  # in the older one's place: Hello stays the first line
        self._some.set()

    async def take(self, seconds: float) -> list[StreamMessage]:
        """All that waits; empty when nothing came within so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._some.wait()
        taken = list(self._waiting.values())
        self._waiting.clear()
        self._some.clear()
        return taken

    def __len__(self) -> int:
        return len(self._waiting)


class Hub:
    """The latest facts and the latest report of every machine, and who wants to hear of changes."""

    def __init__(self, facts: NodeFacts, on_told: Callable[[Report], None] = lambda _report: None) -> None:
        self.facts = facts
        self._reports: dict[str, Report] = {}
        self._listeners: set[Listener] = set()
        self._on_told = on_told
        self._facts_known = asyncio.Event()
        self._open = asyncio.Event()

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    @property
    def reports(self) -> tuple[Report, ...]:
        return tuple(self._reports.values())

    def report(self, uid: str) -> Report | None:
        return self._reports.get(uid)

    def open(self) -> None:
        """Everything on this node is known from now on; a snapshot before would leave running machines out."""
        if not self._open.is_set():
            self._open.set()
            for listener in self._listeners:
                listener.put(SNAPSHOT, Snapshot(reports=self.reports))

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def opened(self) -> None:
        await self._open.wait()

    @property
    def has_facts(self) -> bool:
        return self._facts_known.is_set()

    async def facts_known(self) -> None:
        await self._facts_known.wait()

    def publish(self, report: Report) -> bool:
        """Tell the listeners, if anything is new; says whether it was."""
        if self._reports.get(report.uid) == report:
            return False
        self._reports[report.uid] = report
        self._tell(report.uid, Changed(report=report))
        return True

    def gone(self, uid: str) -> None:
        if self._reports.pop(uid, None) is not None:
            self._tell(uid, Gone(uid=uid))

    def tell_facts(self, facts: NodeFacts) -> None:
        if facts != self.facts:
            self.facts = facts
            for listener in self._listeners:
                listener.put(HELLO, Hello(facts=facts))

    def facts_are_known(self) -> None:
        """The host has been probed: what a listener is told first is true."""
        self._facts_known.set()

    def told(self, message: StreamMessage) -> None:
        """A listener has been sent this: the reconcile may let go of what it kept for it."""
        match message:
            case Changed(report=report):
                self._on_told(report)
            case Snapshot(reports=reports):
                for report in reports:
                    self._on_told(report)
            case Hello() | Gone():
                pass

    @contextlib.contextmanager
    def listen(self) -> Iterator[Listener]:
        """A stream that begins with Hello; the snapshot follows at once, or when everything is known."""
        listener = Listener()
        listener.put(HELLO, Hello(facts=self.facts))
        if self.is_open:
            listener.put(SNAPSHOT, Snapshot(reports=self.reports))
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _tell(self, key: str, message: StreamMessage) -> None:
        for listener in self._listeners if self.is_open else ():  # before, the snapshot will hold it
            listener.put(key, message)
