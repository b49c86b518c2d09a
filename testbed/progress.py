"""Shows long work as it goes: a live table on a terminal, plain lines elsewhere. Nothing else prints.

Every part of the testbed gets a Progress and calls start, note and finish; the same calls make both kinds of output.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

HEARTBEAT_SECONDS = 30.0
MARKS = {"running": "[cyan]…[/]", "done": "[green]✓[/]", "failed": "[red]✗[/]"}


@dataclass(slots=True)
class Task:
    """One row: what is done, since when, how far."""

    title: str
    started: float
    note: str = ""
    ended: float | None = None
    state: str = "running"
    fraction: float | None = None

    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started

    def remaining(self) -> float | None:
        """Estimated from the work done so far; the first few percent say too little."""
        if self.state != "running" or self.fraction is None or self.fraction < 0.03:
            return None
        return self.seconds() * (1 - self.fraction) / self.fraction

    def describe(self) -> str:
        parts = [self.note] if self.note else []
        if self.fraction is not None and self.state == "running":
            parts.append(f"{self.fraction:.0%}")
        remaining = self.remaining()
        if remaining is not None:
            parts.append(f"about {remaining:.0f} s left")
        return ", ".join(parts)


@dataclass(slots=True)
class Progress:
    """Use as a context manager around the work; safe to call from several threads."""

    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    tasks: list[Task] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    live: Live | None = None
    began: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._table, console=self.console, refresh_per_second=5, transient=False)
            self.live.start()
        else:
            threading.Thread(target=self._heartbeat, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        if self.live:
            self.live.stop()
            self.live = None

    @contextmanager
    def task(self, title: str, note: str = "") -> Iterator[Task]:
        """A row for as long as the block runs; an exception marks it failed and goes on."""
        row = Task(title, time.monotonic(), note)
        with self.lock:
            self.tasks.append(row)
        try:
            yield row
        except BaseException:
            self._end(row, "failed")
            raise
        self._end(row, "done")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, soft_wrap=True)

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def _end(self, row: Task, state: str) -> None:
        row.ended, row.state = time.monotonic(), state
        if self.live is None:
            with self.lock:
                text = f" ({row.describe()})" if row.describe() else ""
                self.console.print(f"{MARKS[state]} {row.title}{text}  [dim]{row.seconds():.1f} s[/]")

    def _heartbeat(self) -> None:
        """Without a terminal nothing moves: say now and then what is still going on."""
        while not self.over.wait(HEARTBEAT_SECONDS):
            with self.lock:
                for row in self.tasks:
                    if row.state == "running" and row.seconds() > HEARTBEAT_SECONDS:
                        self.console.print(
                            f"{MARKS['running']} {row.title}: {row.describe()}  [dim]{row.seconds():.0f} s[/]"
                        )

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        with self.lock:
            for row in self.tasks:
                table.add_row(
                    MARKS[row.state], row.title, f"[dim]{row.seconds():6.1f} s[/]", f"[dim]{row.describe()}[/]"
                )
        return table
