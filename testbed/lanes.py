"""Runs test stages, those of different lanes side by side, and counts what their reports hold. Used by suite.py.

A stage is one command that writes a JUnit report; one that writes none, or whose report holds no test, has failed:
silence is never success.
"""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

RESULTS = Path("build/results")
POLL_SECONDS = 0.1
TELL_SECONDS = 60
_PERCENT = re.compile(r"\[ *(\d+)%\]")


@dataclass(frozen=True, slots=True)
class Stage:
    """One command; ``{report}`` in it is the path of its JUnit report. Without one the exit code alone counts."""

    name: str
    about: str
    command: tuple[str, ...]
    reports: bool = True
    default: bool = True  # run when no stage is named
    lane: str = ""  # stages of one lane run in order, beside those of other lanes; those of none run alone


@dataclass(slots=True)
class Result:
    stage: Stage
    seconds: float
    code: int
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.code == 0 and self.failed == 0 and (self.passed > 0 or not self.stage.reports)


def groups(stages: Sequence[Stage]) -> list[list[list[Stage]]]:
    """What runs one after another: groups of lanes, each a list of stages."""
    found: list[list[list[Stage]]] = []
    for in_lanes, some in itertools.groupby(stages, lambda stage: bool(stage.lane)):
        these = list(some)
        names = dict.fromkeys(stage.lane for stage in these)
        sides = [[stage for stage in these if stage.lane == name] for name in names]
        found += [sides] if in_lanes else [[[stage]] for stage in these]
    return found


def run(lanes: Sequence[Sequence[Stage]], console: Console) -> list[Result]:
    """Run lanes side by side. A single one has the terminal; of several each stage's output is shown when it ends."""
    waiting = [list(lane) for lane in lanes]
    alone = len(waiting) == 1
    running: list[Running | None] = [None for _ in waiting]
    results: list[Result] = []
    teller = _Teller(console, silent=alone)
    try:
        while any(waiting) or any(running):
            for number, lane in enumerate(waiting):
                current = running[number]
                if current is not None and current.ended():
                    current.show(console)
                    results.append(current.result())
                    current = running[number] = None
                if current is None and lane:
                    stage = lane.pop(0)
                    running[number] = Running(stage, None if alone else RESULTS / f"{stage.name}.log")
                    console.rule(f"[bold]{stage.name}[/bold]: {stage.about}{'' if alone else ' … begins'}")
            teller.tell(one for one in running if one is not None)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        for one in running:
            if one is not None:
                one.interrupt()
        raise
    return results


class Running:
    """A stage that was started, its output on the terminal or in a file."""

    def __init__(self, stage: Stage, output: Path | None) -> None:
        self._stage, self._output = stage, output
        self._report = (RESULTS / f"{stage.name}.xml").resolve()
        self._report.unlink(missing_ok=True)
        self._start, self._seconds = time.monotonic(), 0.0
        command = [part.format(report=self._report) for part in stage.command]
        with output.open("w") if output is not None else nullcontext() as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file and subprocess.STDOUT)

    def ended(self) -> bool:
        if self._process.poll() is None:
            return False
        self._seconds = self._seconds or time.monotonic() - self._start
        return True

    def interrupt(self) -> None:
        """A terminal's Ctrl-C reaches all; a signal that was sent to us alone has to be passed on."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        self._process.wait()

    def show(self, console: Console) -> None:
        if self._output is not None:
            console.rule(f"[bold]{self._stage.name}[/bold]: {self._stage.about}")
            print(self._output.read_text(errors="replace"), flush=True)

    def so_far(self) -> str:
        """For people who wait."""
        text = self._output.read_text(errors="replace") if self._output is not None else ""
        percent = _PERCENT.findall(text)
        seconds = f"{time.monotonic() - self._start:.0f} s"
        return f"{self._stage.name} {percent[-1]} %, {seconds}" if percent else f"{self._stage.name} {seconds}"

    def result(self) -> Result:
        result = Result(self._stage, self._seconds, self._process.wait())
        if self._stage.reports:
            read_report(result, self._report)
        return result


class _Teller:
    """How far stages are that write to files: one line now and then."""

    def __init__(self, console: Console, *, silent: bool) -> None:
        self._console, self._silent, self._told = console, silent, time.monotonic()

    def tell(self, running: Iterator[Running]) -> None:
        if self._silent or time.monotonic() - self._told < TELL_SECONDS:
            return
        self._told = time.monotonic()
        self._console.print("… " + "; ".join(one.so_far() for one in running), highlight=False)


def read_report(result: Result, report: Path) -> None:
    """Count the tests of a JUnit report into the result."""
    if not report.is_file():
        result.failures.append(f"{result.stage.name}: no report was written (exit code {result.code})")
        return
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
            result.failures.append(f"{case.get('classname', '')}::{case.get('name', '')}")
        elif case.find("skipped") is not None:
            result.skipped += 1
        else:
            result.passed += 1
