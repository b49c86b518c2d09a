"""How a running guest's memory is sent, and how long that takes: what is known beforehand in, a Method with its reason
and an Estimate out. Pure.

The source's agent chooses (moving.py) from its own Survey; `berth evacuate --plan` and a Migration's status foretell
with the very same rounds. Post-copy is none of the choices: docs/migration.md says why.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import Final

from berth.domain.observed import Survey

CALM: Final = 0.5
"""Of what the way carries: QEMU itself slows a guest down that changes more, twice in a row."""
FIRST_PAUSE_MS: Final = 100
"""A calm guest's last round is that short anyway; it is given all of maxDowntime when that turns out wrong."""
PATIENT_ROUNDS: Final = 5
SLOW_WAY: Final = 125_000_000
"""Bytes in a second, 1 Gbit/s: what is slower is worth the CPU time of compressing."""
WORTH_SECONDS: Final = 5.0
"""Several connections cost some 40 ms of pause: a move that is over sooner than this has nothing to win by them."""
ZSTD_GAIN: Final = 2.0
LEAST_CPUS: Final = 4
MOST_CHANNELS: Final = 4
FIRST_THROTTLE: Final = 20
THROTTLE_STEP: Final = 10
MOST_THROTTLE: Final = 90
SHRINKS: Final = 0.7
"""A guest is slowed down at first as much as it takes for each round to be so much of the one before."""
SETUP_SECONDS: Final = 0.9
"""What libvirt needs beside the memory: to make the copy, and to hand over."""
LONGEST_SECONDS: Final = 86_400.0


class Kind(enum.StrEnum):
    PRECOPY = "precopy"
    CONVERGE = "auto-converge"
    MULTIFD = "multifd"


@dataclass(frozen=True, slots=True)
class Facts:
    """Bytes, and bytes in a second; None where nobody knows. ``memory`` is what is still to be sent."""

    memory: int
    rate: int | None = None
    dirty: int | None = None
    free_cpus: int = 0
    downtime_ms: int = 300
    busy: float = 1.0  # the part of its CPUs' time that the guest uses
    working: int | None = None  # what it changes, again and again; None: all of it


@dataclass(frozen=True, slots=True)
class Method:
    """``throttle`` is how much the guest's CPUs are slowed down first, in per cent, should that become necessary."""

    kind: Kind
    why: str
    downtime_ms: int
    throttle: int = FIRST_THROTTLE
    channels: int = 0  # 0: QEMU's one connection, nothing is compressed

    @property
    def words(self) -> str:
        return f"{self.kind}: {self.why}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """``throttle`` is how far the guest will have been slowed down at the end, in per cent."""

    seconds: float
    throttle: int = 0


def facts(survey: Survey | None, memory: int, cap: int | None, downtime_ms: int) -> Facts:
    """``cap`` is what the Migration allows, ``memory`` all that the machine has: for a guest that nobody measured."""
    if survey is None:
        return Facts(memory, cap, downtime_ms=downtime_ms)
    rate = min([rate for rate in (survey.link, cap) if rate], default=None)
    pace, free = survey.pace, survey.free_cpus
    if pace is None:
        return Facts(memory, rate, None, free, downtime_ms)
    return Facts(pace.memory, rate, pace.dirty, free, downtime_ms, pace.busy, pace.working)


def choose(known: Facts) -> Method:
    channels = _channels(known)
    rate = known.rate if known.rate is None or not channels else int(known.rate * ZSTD_GAIN)
    calm = known.dirty is not None and rate is not None and known.dirty < CALM * rate
    pause = min(known.downtime_ms, FIRST_PAUSE_MS) if calm else known.downtime_ms
    throttle = _throttle(known.dirty, rate)
    if channels:
        why = (
            f"the way carries {_mib(known.rate)} and {known.free_cpus} CPUs here are free: {channels} connections,"
            f" compressed by zstd; {_changes(known)}"
        )
        return Method(Kind.MULTIFD, why, pause, throttle, channels)
    if calm:
        return Method(Kind.PRECOPY, f"{_changes(known)}: the guest is not slowed down", pause, throttle)
    if known.dirty is None or rate is None:
        why = f"{_changes(known)}: its CPUs are slowed down by {throttle} % and more, should it be too fast"
        return Method(Kind.CONVERGE, why, pause, throttle)
    why = f"{_changes(known)}: its CPUs are slowed down by {throttle} %, then {THROTTLE_STEP} % more at a time"
    return Method(Kind.CONVERGE, why, pause, throttle)


def escalate(now: Method, rounds: int, most_ms: int) -> Method | None:
    """What is tried next by a move whose rounds do not come to their end; slowing down is QEMU's own."""
    if rounds <= PATIENT_ROUNDS or now.downtime_ms >= most_ms:
        return None
    why = f"{now.why}; after {rounds} rounds it is not over: the guest may stand still for {most_ms} ms now"
    return replace(now, downtime_ms=most_ms, why=why)


def estimate(known: Facts, method: Method | None = None, throttle: int = 0) -> Estimate | None:
    """None while the rate is not known. ``throttle``: how far the guest is slowed down now, in per cent."""
    chosen = method if method is not None else choose(known)
    if not known.rate:
        return None
    rate = known.rate * (ZSTD_GAIN if chosen.channels else 1.0)
    rounds = _Rounds(float(known.memory), rate, known, throttle)
    while rounds.left > rate * chosen.downtime_ms / 1000 and rounds.seconds < LONGEST_SECONDS:
        rounds.go(chosen)
    return Estimate(rounds.seconds + rounds.left / rate, rounds.throttle)


@dataclass(slots=True)
class _Rounds:
    """Pre-copy as QEMU does it: what changed while one round was sent is the next round."""

    left: float
    rate: float
    known: Facts
    throttle: int
    seconds: float = 0.0
    high: int = 0
    period: tuple[float, float, float] = (0.0, 0.0, 0.0)  # seconds, sent, changed

    def go(self, method: Method) -> None:
        took = self.left / self.rate
        changed = self._changed(took)
        self.seconds += took
        self.period = (self.period[0] + took, self.period[1] + self.left, self.period[2] + changed)
        self.left = changed
        if self.period[0] >= 1.0:  # QEMU looks no more often
            self._look(method)

    def _changed(self, took: float) -> float:
        """How many bytes of pages, each counted once however often it is changed."""
        known, most = self.known, self.known.working or self.known.memory
        written = (known.dirty or 0) * slowed(known.busy, self.throttle) * took
        return most * -math.expm1(-written / most) if known.working else min(written, most)

    def _look(self, method: Method) -> None:
        self.high += self.period[2] > CALM * self.period[1]
        self.period = (0.0, 0.0, 0.0)
        if self.high >= 2:
            self.high = 0
            self.throttle = min(self.throttle + THROTTLE_STEP, 99) if self.throttle else method.throttle


def _channels(known: Facts) -> int:
    """How many connections; 0 where compressing does not pay or would take CPUs that others use."""
    if known.rate is None or known.rate >= SLOW_WAY or known.free_cpus < LEAST_CPUS:
        return 0
    return min(known.free_cpus // 2, MOST_CHANNELS) if known.memory / known.rate > WORTH_SECONDS else 0


def slowed(busy: float, throttle: int) -> float:
    """How much of its pace is left to a guest: one that rests half of the time has no need of the first half."""
    return min(1.0, (100 - throttle) / 100 / max(busy, 0.01))


def _throttle(dirty: int | None, rate: int | None) -> int:
    """As if it used all of its CPUs' time: to slow down one that rests until it feels it makes its streams stutter."""
    if not dirty or not rate:
        return FIRST_THROTTLE
    enough = round(100 * (1 - SHRINKS * rate / dirty))
    return min(max(enough, FIRST_THROTTLE), MOST_THROTTLE)


def _changes(known: Facts) -> str:
    if known.dirty is None:
        return "how fast its memory changes is not known"
    if known.rate is None:
        return f"{_mib(known.dirty)} of its memory change, and what the way carries is not known"
    share = round(100 * known.dirty / known.rate)
    return f"{_mib(known.dirty)} of its memory change, {share} % of what the way carries ({_mib(known.rate)})"


def _mib(rate: int | None) -> str:
    return f"{(rate or 0) / (1 << 20):.0f} MiB/s" if rate and rate >= 1 << 20 else "less than 1 MiB/s"
