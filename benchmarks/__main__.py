"""`make bench`: every figure with its floor from the same run, then the bars. All but `migration` and `suspend`
need the cluster.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks import memory, migration, network, start, suspend, writes
from benchmarks.figures import Bar, spread, table
from benchmarks.metrics import controllers, samples
from testbed.kube import ROOT, Cluster

LABS: Final = ("migration", "suspend")
"""What needs no cluster."""


def running_cluster() -> Cluster:
    for step in ("up", "install"):
        subprocess.run([sys.executable, "-m", "testbed", step], cwd=ROOT, check=True)
    out = subprocess.run([sys.executable, "-m", "testbed", "kubeconfig"], cwd=ROOT, check=True, capture_output=True)
    return Cluster(Path(out.stdout.decode().strip()))


def workers(cluster: Cluster) -> list[str]:
    return [n["metadata"]["name"] for n in cluster.items("/api/v1/nodes") if not n["spec"].get("taints")]


def starts(cluster: Cluster, console: Console, rounds: int) -> list[Bar]:
    with start.scratch(cluster) as namespace:
        found = start.measure(cluster, namespace, workers(cluster)[0], rounds)
    out = Table(title=f"apply → first user-space line, {rounds} rounds")
    for column in ("what", "median (range)"):
        out.add_column(column)
    out.add_row("plain pod: apply → Ready", spread(found.pod))
    out.add_row("bare libvirt: create → line", spread(found.bare))
    out.add_row("Berth: apply → line", spread(found.berth))
    out.add_row("Berth ÷ (pod + bare), round by round", spread(found.ratios(), "×"))
    console.print(out)
    own = own_share(cluster)
    return [Bar("start ÷ floor, median", statistics.median(found.ratios()), 1.15, "×"), *own]


def own_share(cluster: Cluster) -> list[Bar]:
    """The controller's and the agents' own mean time per start, from their metrics."""
    seconds = count = 0.0
    for pod in controllers(cluster):
        found = samples(cluster, pod)
        seconds += found.get(("berth_start_own_seconds_sum", ()), 0.0)
        count += found.get(("berth_start_own_seconds_count", ()), 0.0)
    return [Bar("controller's own time per start, mean", 1000 * seconds / max(count, 1), 120, "ms")]


def costs(cluster: Cluster, console: Console, count: int) -> list[Bar]:
    with start.scratch(cluster) as namespace:
        cost = memory.measure(cluster, namespace, workers(cluster)[0], count)
    out = Table(title=f"memory per machine, {count} paused machines on one node (PSS)")
    out.add_column("part")
    out.add_column("KiB", justify="right")
    for part, kib in cost.per_machine.items():
        out.add_row(part, f"{kib:.0f}")
    console.print(out)
    return [
        Bar("above QEMU, libvirtd's share and the shim, per machine", cost.above_qemu_kib, 1024, "KiB"),
        Bar(f"agent, {count} machines", cost.agent_mib, 80, "MiB"),
        Bar(f"controller, {count} machines", cost.controller_mib, 120, "MiB"),
    ]


def api(cluster: Cluster, machines: int, stopped: int) -> list[Bar]:
    with start.scratch(cluster) as namespace:
        per_start = writes.per_start(cluster, namespace, machines)
        idle = writes.idle(cluster)
    with start.scratch(cluster) as namespace:
        seconds, count = writes.restart(cluster, namespace, stopped)
    return [
        Bar("API writes per start", per_start, 4, ""),
        Bar(f"API writes in 30 s, {machines} idle machines", idle, 0, ""),
        Bar(f"new controller quiet, {stopped} stopped machines", seconds, 5, "s"),
        Bar("its needless writes", count, 0, ""),
    ]


def paths(cluster: Cluster, console: Console) -> None:
    """What a guest's network carries; ratios only: emulation, not Berth, sets the pace where there is no KVM."""
    with start.scratch(cluster) as namespace:
        found, resume = network.measure(cluster, namespace, workers(cluster), 20_000_000)
    console.print(network.table(found, resume))


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parts = ("start", "memory", "api", "network", *LABS)
    parser.add_argument("--only", choices=parts, help="one part only")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the start benchmark (default 10)")
    parser.add_argument("--machines", type=int, default=20, help="machines of the memory benchmark (default 20)")
    parser.add_argument("--stopped", type=int, default=1000, help="stopped machines of the restart (default 1000)")
    parser.add_argument(
        "--moves", type=int, default=3, help="moves at each rate of the migration benchmark (default 3)"
    )
    parser.add_argument("--states", type=int, default=7, help="rounds of the suspend benchmark (default 7)")
    arguments = parser.parse_args()
    console = Console()
    bars: list[Bar] = []
    if arguments.only in (None, "migration"):
        bars += migration.report(console, arguments.moves)
    if arguments.only in (None, "suspend"):
        bars += suspend.report(console, arguments.states)
    if arguments.only not in LABS:
        bars += on_cluster(console, arguments)
    if bars:
        console.print(table(bars))
    return 0


def on_cluster(console: Console, arguments: argparse.Namespace) -> list[Bar]:
    """What needs the cluster."""
    cluster, bars = running_cluster(), list[Bar]()
    if arguments.only in (None, "start"):
        bars += starts(cluster, console, arguments.rounds)
    if arguments.only in (None, "memory"):
        bars += costs(cluster, console, arguments.machines)
    if arguments.only in (None, "api"):
        bars += api(cluster, 5, arguments.stopped)
    if arguments.only in (None, "network"):
        paths(cluster, console)
    return bars


if __name__ == "__main__":
    sys.exit(main())
