"""A guest that moves between two nodes by Berth, against `virsh migrate` of the same guest over the same narrow link.

At several rates of change of its memory: total time, how long the guest stood still, the largest gap of a TCP stream,
and what Berth foretold before it began. It needs no cluster: two nodes in namespaces (migration_runs.py).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import inside
from benchmarks.figures import Bar, spread

SHARES: Final = (0, 10, 50, 90)
"""Per cent of what the link carries."""
MEGABITS: Final = 200
LIMIT: Final = 120.0
"""`virsh migrate` is stopped after so long: it counts as having taken that."""
FORETOLD: Final = 0.25


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds. ``foretold`` and ``method`` are Berth's alone."""

    who: str
    share: int
    seconds: float | None  # None: it was not over in time
    pause: float = 0.0
    gap: float = 0.0
    foretold: float | None = None
    method: str = ""

    @property
    def off(self) -> float:
        """By how much it took another time than foretold."""
        return abs((self.foretold or 0.0) / (self.seconds or LIMIT) - 1)


def measure(console: Console, rounds: int) -> list[Run]:
    """Both in turn, so that a slow minute of the machine falls on both."""
    shares = ",".join(map(str, SHARES))
    found: list[Run] = []
    with console.status("moving") as status:
        for said in inside.results("benchmarks.migration_runs", str(MEGABITS), shares, str(rounds)):
            found.append(read(said))
            status.update(f"{found[-1].who}, {found[-1].share} %: {found[-1].seconds or LIMIT:.1f} s")
    return found


def read(said: dict[str, Any]) -> Run:
    before = said.get("foretold") or {}
    return Run(
        said["who"],
        said["share"],
        said["seconds"],
        said.get("pause", 0.0),
        said.get("gap", 0.0),
        before.get("etaSeconds"),
        str(before.get("method", "")),
    )


def report(console: Console, rounds: int) -> list[Bar]:
    runs = measure(console, rounds)
    console.print(table(runs))
    return bars(runs)


def of(runs: Iterable[Run], who: str, share: int) -> list[Run]:
    return [run for run in runs if (run.who, run.share) == (who, share)]


def bars(runs: list[Run]) -> list[Bar]:
    found: list[Bar] = []
    for share in SHARES:
        bare, berth = of(runs, "bare", share), of(runs, "berth", share)
        ratios = [(mine.seconds or LIMIT) / (floor.seconds or LIMIT) for mine, floor in zip(berth, bare, strict=True)]
        found.append(Bar(f"move ÷ virsh migrate, {share} % change", statistics.median(ratios), 1.15, "×"))
        ended = [run for run in bare if run.seconds is not None]
        for what, limit in (("pause", 100), ("gap", 300)):
            mine, floor = (1000 * _median(getattr(run, what) for run in side) for side in (berth, ended))
            if ended:
                found.append(Bar(f"{what} above virsh migrate's, {share} % change", mine - floor, limit, "ms"))
    told = [run for run in runs if run.who == "berth"]
    wrong = 100 * sum(run.off > FORETOLD for run in told) / len(told)
    return [*found, Bar(f"foretold by more than {FORETOLD:.0%} wrong, {len(told)} moves", wrong, 10, "% of them")]


def _median(samples: Iterable[float]) -> float:
    return statistics.median([*samples] or [0.0])


def table(runs: list[Run]) -> Table:
    out = Table(title=f"moving 256 MiB at {MEGABITS} Mbit/s; the floor is virsh migrate, round by round")
    for column in ("changes", "by", "total", "guest stood still", "TCP gap", "foretold ÷ total", "method"):
        out.add_column(column)
    for share in SHARES:
        for who, name in (("bare", "virsh migrate"), ("berth", "Berth")):
            out.add_row(f"{share} %", name, *_cells(of(runs, who, share)))
    return out


def _cells(runs: list[Run]) -> tuple[str, ...]:
    ended = [run for run in runs if run.seconds is not None]
    if not ended:
        return (f"not over after {LIMIT:.0f} s", "", "", "", "")
    total = spread([run.seconds or LIMIT for run in ended])
    still, gap = (spread([1000 * getattr(run, what) for run in ended], "ms") for what in ("pause", "gap"))
    told = [run.foretold / (run.seconds or LIMIT) for run in ended if run.foretold is not None]
    methods = sorted({run.method.partition(":")[0] for run in runs})
    return total, still, gap, spread(told, "×") if told else "", ", ".join(methods)
