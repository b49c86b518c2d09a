"""How long the controller's own part of a start takes: spans of reconciles in, one log line and one metric out.

A span runs from the bell to the end of a reconcile; what of it was waiting for the API server or an agent is kept
apart.
Used by reconcile.py.
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import Histogram

WAITED: contextvars.ContextVar[list[float] | None] = contextvars.ContextVar("waited", default=None)
OWN = Histogram(
    "berth_start_own_seconds",
    "The controller's own time in one start of a machine.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
)
_log = logging.getLogger(__name__)


@contextmanager
def waiting() -> Iterator[None]:
    """Time spent for somebody else's answer."""
    begun = time.monotonic()
    try:
        yield
    finally:
        waited = WAITED.get()
        if waited is not None:
            waited.append(time.monotonic() - begun)


@dataclass(slots=True)
class Trace:
    """One start of one machine."""

    epoch: int = 0
    begun: float = 0.0
    own: float = 0.0
    waited: float = 0.0
    runs: int = 0
    marks: dict[str, float] = field(default_factory=dict)

    def begin(self, epoch: int, rang: float) -> None:
        self.epoch, self.begun, self.own, self.waited, self.runs = epoch, rang, 0.0, 0.0, 0
        self.marks.clear()

    def mark(self, name: str) -> None:
        """The first time that something was reached, in seconds since the bell."""
        self.marks.setdefault(name, time.monotonic() - self.begun)

    def add(self, rang: float, waited: float) -> None:
        self.own += max(time.monotonic() - rang - waited, 0.0)
        self.waited += waited
        self.runs += 1

    def end(self, name: str) -> None:
        """The guest runs: say how long it took."""
        if not self.epoch:
            return
        OWN.observe(self.own)
        spans = {key: round(value * 1000, 1) for key, value in self.marks.items()}
        said = {
            "machine": name,
            "epoch": self.epoch,
            "own_ms": round(self.own * 1000, 1),
            "waited_ms": round(self.waited * 1000, 1),
            "runs": self.runs,
            "wall_ms": round((time.monotonic() - self.begun) * 1000, 1),
            "marks_ms": spans,
        }
        _log.info("machine started", extra=said)
        self.epoch = 0
