"""A guest that is suspended and resumed by Berth, against `virsh save` and `virsh restore` of the same guest to the
same volume, with the same compression, in the same run.

With its memory mostly empty, and half and mostly full of what does not compress. It needs no cluster: a whole agent,
its libvirt and its berths are in the agent image's root file system (suspend_runs.py). What scheduler and kubelet need
for the next berth is no part of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import inside
from benchmarks.figures import Bar, spread

FILLINGS: Final = (0, 50, 80)
"""Per cent of the guest's memory."""
MEMORY_MIB: Final = 512
NO_VERIFY: Final = 1.15
"""Berth has libvirt write and read as virsh does: what is left is the agent's own work, and noise."""
LEAST_MIB: Final = 100
"""Of a smaller state the bytes take no time worth a ratio: what counts is what each suspend and each resume costs,
however little is written."""
SUSPEND_MS, RESUME_MS = 100, 200
"""Milliseconds of that. A resume wires the guest into its pod's network and writes beside the state that it is used."""
VERIFY: Final = 1.25
"""Of what sha256sum needs for the same file: to hash it, it has to be read, and more would be needless. There is no
such bar for suspending, which does it with the same code, beside a QEMU that still has its memory: the kernel was seen
to need anything from a tenth of the hash's own time to twice as much for the same bytes, and why is not known."""
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of each phase. ``hashed`` is what sha256sum needed for the same state, from the disk."""

    who: str
    filling: int
    suspend: dict[str, float]
    resume: dict[str, float]
    bytes: int
    hashed: float = 0.0

    @property
    def suspended(self) -> float:
        """Without verifying, which virsh does not do."""
        return sum(seconds for name, seconds in self.suspend.items() if name != "verify")

    @property
    def resumed(self) -> float:
        return sum(seconds for name, seconds in self.resume.items() if name != "verify")

    @property
    def still(self) -> float:
        """For how long the guest stands still, when it is resumed as soon as it is suspended."""
        return sum(self.suspend.values()) - self.suspend["stop"] + sum(self.resume.values())


def measure(console: Console, rounds: int) -> list[Run]:
    """Both in turn, so that a slow minute of the machine falls on both."""
    found: list[Run] = []
    fillings = ",".join(map(str, FILLINGS))
    with console.status("suspending") as status:
        for said in inside.results("benchmarks.suspend_runs", fillings, str(rounds)):
            found.append(read(said))
            status.update(f"{found[-1].who}, {found[-1].filling} % full: {found[-1].still:.1f} s")
    return found


def read(said: dict[str, Any]) -> Run:
    names = ("who", "filling", "suspend", "resume", "bytes", "hashed")
    return Run(**{name: said[name] for name in names if name in said})


def report(console: Console, rounds: int) -> list[Bar]:
    runs = measure(console, rounds)
    console.print(table(runs))
    return bars(runs)


def of(runs: Iterable[Run], who: str, filling: int) -> list[Run]:
    return [run for run in runs if (run.who, run.filling) == (who, filling)]


def bars(runs: list[Run]) -> list[Bar]:
    found: list[Bar] = []
    for filling in FILLINGS:
        bare, berth = of(runs, "bare", filling), of(runs, "berth", filling)

        pairs = [*zip(berth, bare, strict=True)]
        suspends = [(mine.suspended, floor.suspended) for mine, floor in pairs]
        resumes = [(mine.resumed, floor.resumed) for mine, floor in pairs]
        if berth[0].bytes < LEAST_MIB * MIB:
            found.append(_above(f"suspend above virsh save, {filling} % full", suspends, SUSPEND_MS))
            found.append(_above(f"resume above virsh restore, {filling} % full", resumes, RESUME_MS))
            continue
        found.append(_ratio(f"suspend, unverified, ÷ virsh save, {filling} % full", suspends, NO_VERIFY))
        found.append(_ratio(f"resume, unverified, ÷ virsh restore, {filling} % full", resumes, NO_VERIFY))
        verified = [(run.resume["verify"], run.hashed) for run in berth]
        found.append(_ratio(f"verifying at resume ÷ sha256sum, {filling} % full", verified, VERIFY))
    return found


def _ratio(name: str, pairs: list[tuple[float, float]], limit: float) -> Bar:
    """Of the medians: what disturbs a busy machine is over in less than one round, so pairs would not share it."""
    mine, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Bar(name, mine / floor, limit, "×")


def _above(name: str, pairs: list[tuple[float, float]], limit: float) -> Bar:
    """The least of each: whatever else the machine does only adds to a fixed cost, and to so small a one too much."""
    mine, floor = (min(side) for side in zip(*pairs, strict=True))
    return Bar(f"{name}, unverified", 1000 * (mine - floor), limit, "ms")


PHASES: Final = (
    ("suspend: stop", lambda run: run.suspend["stop"]),
    ("write", lambda run: run.suspend["write"]),
    ("verify", lambda run: run.suspend.get("verify")),
    ("end", lambda run: run.suspend["end"]),
    ("resume: verify", lambda run: run.resume.get("verify")),
    ("restore", lambda run: run.resume["restore"]),
    ("run", lambda run: run.resume["run"]),
    ("stood still", lambda run: run.still),
)


def table(runs: list[Run]) -> Table:
    title = f"suspending and resuming {MEMORY_MIB} MiB; the floor is virsh save and restore, round by round"
    out = Table(title=title)
    for column in ("full", "what", "virsh", "Berth"):
        out.add_column(column)
    for filling in FILLINGS:
        bare, berth = of(runs, "bare", filling), of(runs, "berth", filling)
        for name, what in PHASES:
            out.add_row(f"{filling} %", name, *(_cell(side, what) for side in (bare, berth)))
        out.add_row(f"{filling} %", "state", *(f"{side[0].bytes / MIB:.0f} MiB" for side in (bare, berth)))
        out.add_row(f"{filling} %", "written", *(_rate(side) for side in (bare, berth)))
        out.add_row(f"{filling} %", "sha256sum of it", "", _cell(berth, lambda run: run.hashed), end_section=True)
    return out


def _cell(runs: list[Run], what: Callable[[Run], float | None]) -> str:
    found = [seconds for seconds in map(what, runs) if seconds is not None]
    return spread(found) if found else ""


def _rate(runs: list[Run]) -> str:
    """Of the guest's whole memory: what suspending is felt by."""
    return spread([MEMORY_MIB / run.suspend["write"] for run in runs], "MiB/s of memory")
