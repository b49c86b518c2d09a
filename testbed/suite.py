"""`python -m testbed.suite`: runs the project's test stages and ends with a table a person can read.

Called by `make test` and `.ci/run`. Every stage runs, also after one that failed. Those that mostly wait and share
nothing are in lanes that run side by side (lanes.py).
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed import backend, lanes, prerequisites
from testbed.lanes import Result, Stage
from testbed.progress import Progress


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
PACKETS = ("test_node_network*", "test_hostile_*")
SEGMENTS = ("test_node_segments*", "test_node_moves*")
"""Those of the contract tests that have namespaces and no guests: half of their time, and nearly all of it waiting."""
MOVES = ("test_agent_cpu*", "test_agent_disks*", "test_agent_methods*", "test_agent_moves*", "test_agent_qemus*")
"""Those with two nodes."""


def files(names: tuple[str, ...]) -> list[str]:
    return sorted(str(path) for name in names for path in Path(CONTRACT).glob(f"{name}.py"))


def contract(*words: str) -> tuple[str, ...]:
    """A pytest run in the agent image's own root file system."""
    return (sys.executable, "-m", "testbed.rootfs", "--", *pytest(*words, python="python3"))


STAGES = (
    Stage("static", "format, types, layers, generated files", ("make", "-s", "static"), reports=False),
    Stage("unit", "pure parts, goldens, scenarios in memory",
          pytest("tests/unit", "tests/golden", "tests/scenario", options=("-n", "auto"))),
    Stage("build", "programs, images and guests",
          testbed("testbed binaries", "testbed.images", "testbed.guests"), reports=False),
    Stage("install", "the cluster with Berth on it", testbed("testbed up", "testbed install"), reports=False,
          lane="cluster"),
    Stage("e2e", "the chart on the cluster, real guests",
          pytest("tests/e2e", options=("-m", "not disruptive", "-n", "3")), lane="cluster"),
    Stage("segments", "guests on Networks, and those that move, in real namespaces", contract(*files(SEGMENTS)),
          lane="segments"),
    Stage("packets", "guests on the pod network, and hostile ones, in real namespaces", contract(*files(PACKETS)),
          lane="packets"),
    Stage("moves", "guests that move between two nodes with real agents", contract(*files(MOVES)), lane="moves"),
    Stage("contract", "real libvirt and QEMU in the agent's image",
          contract(CONTRACT, "-m", "not faults",
                   *(f"--ignore-glob=*/{name}.py" for name in PACKETS + SEGMENTS + MOVES)), lane="packets"),
    Stage("cluster", "the built-in cluster itself", pytest("tests/cluster"), lane="segments"),
    Stage("survival", "guests while the parts around them break",
          pytest("tests/e2e", options=("-m", "disruptive and not lives and not faults")), lane="cluster"),
    Stage("lives", "200 machines come and go, one moves 50 times, a node is lost",
          ("env", "BERTH_LIVES=200", "BERTH_MOVES=50", *pytest(
              "tests/e2e/test_lives.py", "tests/e2e/test_migration_many.py", "tests/e2e/test_node_loss.py",
              options=("-rP",))), default=False),
    Stage("faults", "a hundred faults while a guest moves", contract(CONTRACT, "-m", "faults", "-rP"), default=False),
    Stage("cluster-faults", "parts of the cluster break while a guest moves",
          pytest("tests/e2e", options=("-m", "faults", "-rP")), default=False),
    Stage("cni", "guests' networks on flannel's VXLAN", on_flannel(), default=False),
)  # fmt: skip


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
    lanes.RESULTS.mkdir(parents=True, exist_ok=True)
    # A shell that starts us in the background has Ctrl-C ignored, and the programs under test would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    width = None if sys.stdout.isatty() else min(140, max(100, shutil.get_terminal_size().columns))
    console = Console(width=width)
    wanted = [s for s in STAGES if (s.name in arguments.stages if arguments.stages else s.default)]
    if not {stage.name for stage in wanted} <= {"static", "unit"}:
        prepare()
    results: list[Result] = []
    for group in lanes.groups(wanted):
        results += lanes.run(group, console)
        if arguments.fail_fast and not all(result.good for result in results):
            break
    results.sort(key=lambda result: wanted.index(result.stage))
    summary(results, [stage for stage in wanted if stage not in [r.stage for r in results]], console)
    return 0 if len(results) == len(wanted) and all(r.good for r in results) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says it of Ctrl-C
