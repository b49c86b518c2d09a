"""`python -m testbed.suite`: runs the project's test stages in order and ends with a table a person can read.

Called by `make test` and `.ci/run`. A stage is one command that writes a JUnit report; a stage that writes none, or
whose report holds no test, has failed: silence is never success. Every stage runs, also after one that failed. Stages
that mostly wait, and share nothing, run side by side.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed import backend, prerequisites
from testbed.progress import Progress

RESULTS = Path("build/results")
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Stage:
    """One command; ``{report}`` in it is the path of its JUnit report. Without one the exit code alone counts."""

    name: str
    about: str
    command: tuple[str, ...]
    reports: bool = True
    default: bool = True  # run when no stage is named
    beside: bool = False  # runs at the same time as the stage before it; its output is shown when it has ended


def pytest(*paths: str, options: tuple[str, ...] = (), python: str = sys.executable) -> tuple[str, ...]:
    return (python, "-m", "pytest", *paths, "-q", "--junitxml={report}", *options)


def testbed(*commands: str) -> tuple[str, ...]:
    """Our own tools in turn until one fails: what takes minutes on a new machine comes before tests with deadlines."""
    return ("sh", "-c", " && ".join(f"{sys.executable} -m {command}" for command in commands))


def on_flannel() -> tuple[str, ...]:
    """A cluster of its own beside any other, with another pod network; it goes when its tests have run."""
    tests = shlex.join(pytest("tests/e2e", options=("-k", "network", "-m", "not disruptive", "-n", "2")))
    steps = f"{testbed('testbed up', 'testbed install')[2]} && {tests}"
    script = f"{steps}; code=$?; {sys.executable} -m testbed down; exit $code"
    return ("env", "BERTH_CLUSTER=builtin", "BERTH_CNI=flannel", "BERTH_TESTBED_INDEX=9", "sh", "-c", script)


CONTRACT = "tests/contract"
PACKETS = ("test_node_network*", "test_node_segments*", "test_node_moves*", "test_hostile_*")
"""Those of the contract tests that have namespaces and no guests: half of their time."""


def contract(*words: str) -> tuple[str, ...]:
    """A pytest run in the agent image's own root file system."""
    return (sys.executable, "-m", "testbed.rootfs", "--", *pytest(*words, python="python3"))


STAGES = (
    Stage("static", "format, types, layers, generated files", ("make", "-s", "static"), reports=False),
    Stage("unit", "pure parts, goldens, scenarios in memory",
          pytest("tests/unit", "tests/golden", "tests/scenario", options=("-n", "auto"))),
    Stage("build", "programs, images and guests",
          testbed("testbed binaries", "testbed.images", "testbed.guests"), reports=False),
    Stage("install", "the cluster with Berth on it", testbed("testbed up", "testbed install"), reports=False),
    Stage("e2e", "the chart on the cluster, real guests",
          pytest("tests/e2e", options=("-m", "not disruptive", "-n", "3"))),
    Stage("packets", "guests' networks in real namespaces",
          contract(*sorted(str(path) for name in PACKETS for path in Path(CONTRACT).glob(f"{name}.py"))), beside=True),
    Stage("contract", "real libvirt and QEMU in the agent's image",
          contract(CONTRACT, "-m", "not faults", *(f"--ignore-glob=*/{name}.py" for name in PACKETS))),
    Stage("cluster", "the built-in cluster itself", pytest("tests/cluster"), beside=True),
    Stage("survival", "guests while the parts around them break",
          pytest("tests/e2e", options=("-m", "disruptive and not lives and not faults"))),
    Stage("lives", "200 machines come and go, one moves 50 times, a node is lost",
          ("env", "BERTH_LIVES=200", "BERTH_MOVES=50", *pytest(
              "tests/e2e/test_lives.py", "tests/e2e/test_migration_many.py", "tests/e2e/test_node_loss.py",
              options=("-rP",))), default=False),
    Stage("faults", "a hundred faults while a guest moves", contract(CONTRACT, "-m", "faults", "-rP"), default=False),
    Stage("cluster-faults", "parts of the cluster break while a guest moves",
          pytest("tests/e2e", options=("-m", "faults", "-rP")), default=False),
    Stage("cni", "guests' networks on flannel's VXLAN", on_flannel(), default=False),
)  # fmt: skip


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


def run(group: Sequence[Stage], console: Console) -> list[Result]:
    """Run stages side by side: the first one's output goes to the terminal, the others' follows when all have ended."""
    console.rule(", beside it ".join(f"[bold]{stage.name}[/bold]: {stage.about}" for stage in group))
    running = [Running(stage, None if stage is group[0] else RESULTS / f"{stage.name}.log") for stage in group]
    try:
        while [one for one in running if not one.ended()]:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        for one in running:
            one.interrupt()
        raise
    for one in running[1:]:
        one.show(console)
    return [one.result() for one in running]


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
        console.rule(f"[bold]{self._stage.name}[/bold]: {self._stage.about}")
        if self._output is not None:
            print(self._output.read_text(errors="replace"), flush=True)

    def result(self) -> Result:
        result = Result(self._stage, self._seconds, self._process.wait())
        if self._stage.reports:
            read_report(result, self._report)
        return result


def groups(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Each stage with those that run beside it."""
    found: list[list[Stage]] = []
    for stage in stages:
        if stage.beside and found and found[-1][0].reports:
            found[-1].append(stage)
        else:
            found.append([stage])
    return found


def summary(results: list[Result], missing: list[Stage], console: Console) -> None:
    """The table, the names of what failed, and one plain line of counts."""
    table = Table(title="Berth's tests")
    for column, justify in (("stage", "left"), ("what", "left"), ("passed", "right"), ("failed", "right"),
                            ("skipped", "right"), ("seconds", "right"), ("", "left")):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for r in results:
        verdict = "[green]ok[/green]" if r.good else "[red]FAILED[/red]"
        counts = (str(r.passed), str(r.failed), str(r.skipped)) if r.stage.reports else ("", "", "")
        table.add_row(r.stage.name, r.stage.about, *counts, f"{r.seconds:.0f}", verdict)
    for stage in missing:
        table.add_row(stage.name, stage.about, "", "", "", "", "[yellow]not run[/yellow]")
    console.print(table)
    for r in results:
        for name in r.failures:
            console.print(f"[red]failed[/red] {name}", highlight=False, soft_wrap=True)
    passed, skipped = sum(r.passed for r in results), sum(r.skipped for r in results)
    failed = sum(max(r.failed, 0 if r.good else 1) for r in results)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)


def prepare() -> None:
    """What the stages with real parts run: Debian packages that are missing. With Docker, its images bring them."""
    if not backend.docker_works():
        with Progress() as progress:
            prerequisites.ensure(progress, (*prerequisites.CLUSTER, *prerequisites.IMAGES))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    names = ", ".join(s.name for s in STAGES)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {names}; default: all but lives and cni")
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first stage that fails")
    arguments = parser.parse_args()
    unknown = set(arguments.stages) - {s.name for s in STAGES}
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))} (there are: {names})")
    RESULTS.mkdir(parents=True, exist_ok=True)
    # A shell that starts us in the background has Ctrl-C ignored, and the programs under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    width = None if sys.stdout.isatty() else min(140, max(100, shutil.get_terminal_size().columns))
    console = Console(width=width)
    wanted = [s for s in STAGES if (s.name in arguments.stages if arguments.stages else s.default)]
    if not {stage.name for stage in wanted} <= {"static", "unit"}:
        prepare()
    results: list[Result] = []
    for group in groups(wanted):
        results += run(group, console)
        if arguments.fail_fast and not all(result.good for result in results):
            break
    summary(results, wanted[len(results) :], console)
    return 0 if len(results) == len(wanted) and all(r.good for r in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says it of Ctrl-C
