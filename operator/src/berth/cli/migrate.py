"""`berth migrate`: make a Migration of a machine, give one up, and show how it goes with a bar.

Nothing here moves anything: the controller does what the object says, also when this command has long ended.
"""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from berth.api.base import API_VERSION
from berth.api.migration import FINISHED, KIND, OWN, MigrationPhase
from berth.api.quantity import from_bytes
from berth.cli import screen
from berth.cli.cluster import Cluster, connect
from berth.cli.following import LOOK_EVERY
from berth.cli.options import Context, Kubeconfig, Name, Namespace

Json = dict[str, Any]
MIB: Final = 1024 * 1024
To = Annotated[str | None, typer.Option("--to", help="The node. Default: where the scheduler finds the best place.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show how it goes until it is over.")]
Cancel = Annotated[bool, typer.Option("--cancel", help="Give up the move that is under way.")]
Deadline = Annotated[str | None, typer.Option("--deadline", help='Give it up after so long, for example "10m".')]
Bandwidth = Annotated[str | None, typer.Option("--bandwidth", help='Bits in a second at most, for example "1G".')]


def migrate_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    to: To = None,
    watch: Watch = False,
    cancel: Cancel = False,
    deadline: Deadline = None,
    bandwidth: Bandwidth = None,
) -> None:
    """Move a running machine to another node; with --cancel, give up the move that is under way."""
    cluster = connect(namespace, context, kubeconfig)
    vm = cluster.machine(name)
    wanted = manifest(vm, to, deadline, bandwidth)
    move = _give_up(cluster, name) if cancel else cluster.create_migration(wanted)
    called = move["metadata"]["name"]
    if not watch:
        said = "is being given up" if cancel else "is made"
        screen.out.print(f"{name}: Migration {called} {said}; `kubectl get vmm {called} -w` shows how it goes")
        return
    _follow(cluster, called, cancelled=cancel)


def manifest(vm: Json, to: str | None, deadline: str | None, bandwidth: str | None) -> Json:
    """The Migration of a machine."""
    name = vm["metadata"]["name"]
    spec: Json = {"vm": name}
    spec |= {"target": {"nodeName": to}} if to else {}
    spec |= {"deadline": deadline} if deadline else {}
    spec |= {"bandwidth": bandwidth} if bandwidth else {}
    meta = {
        "name": f"{name[:240]}-{secrets.token_hex(3)}",
        "namespace": vm["metadata"]["namespace"],
        "labels": OWN,
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": spec}


def _give_up(cluster: Cluster, name: str) -> Json:
    """All that are not over: one of them is under way, others may wait."""
    mine = [m for m in cluster.migrations() if m["spec"].get("vm") == name and not is_over(m)]
    if not mine:
        screen.fail(f"no move of {name} is under way")
    for move in mine:
        move |= cluster.patch_migration(move["metadata"]["name"], {"spec": {"cancel": True}})
    return next((m for m in mine if phase(m) is not MigrationPhase.PENDING), mine[0])


def is_over(move: Json) -> bool:
    return phase(move) in FINISHED


def phase(move: Json) -> MigrationPhase:
    return MigrationPhase((move.get("status") or {}).get("phase", MigrationPhase.PENDING))


def told(move: Json) -> str:
    """One line on how it is."""
    status = move.get("status") or {}
    place = " → ".join((status.get(end) or {}).get("node") or "?" for end in ("source", "target"))
    words = [place if status.get("source") else "", status.get("progress", ""), status.get("message", "")]
    return "  ".join(filter(None, words))


class _Rate(ProgressColumn):
    """How fast, and for how long still."""

    def render(self, task: Task) -> Text:
        rate, eta = task.fields.get("rate"), task.fields.get("eta")
        words = [f"{rate / MIB:.0f} MiB/s" if rate else "", f"{eta} s left" if eta is not None else ""]
        return Text(", ".join(filter(None, words)), style="bright_black")


def bar() -> Progress:
    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.fields[phase]:<12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        _Rate(),
        TextColumn("{task.fields[where]}", style="bright_black"),
        console=screen.out,
        transient=False,
    )


def _follow(cluster: Cluster, name: str, *, cancelled: bool) -> None:
    """The bar, and each new trouble as a line above it, until it is over."""
    shown, method = "", ""
    with bar() as progress:
        task = progress.add_task("", total=100, phase="Pending", where="", rate=None, eta=None)
        while True:
            move = cluster.migration(name)
            status = move.get("status") or {}
            message = "" if is_over(move) else str(status.get("message", ""))
            if message and message != shown:
                progress.console.print(Text(f"  {message}", style="yellow"))
            shown = message
            if (found := str(status.get("method", ""))) != method and not is_over(move):
                progress.console.print(Text(f"  {found}", style="bright_black"))
                method = found
            progress.update(task, completed=status.get("percent") or 0, **_fields(move))
            if is_over(move):
                break
            time.sleep(LOOK_EVERY)
    _close(move, cancelled=cancelled)


def _fields(move: Json) -> Json:
    status = move.get("status") or {}
    where = " → ".join((status.get(end) or {}).get("node") or "?" for end in ("source", "target"))
    over = is_over(move)
    return {
        "phase": phase(move).value,
        "where": where if status.get("source") else "",
        "rate": None if over else status.get("bytesPerSecond"),
        "eta": None if over else status.get("etaSeconds"),
    }


def _close(move: Json, *, cancelled: bool) -> None:
    status, name = move.get("status") or {}, move["metadata"]["name"]
    if phase(move) is MigrationPhase.SUCCEEDED:
        pause = f"; the guest stood still for {status['pauseMs']} ms" if status.get("pauseMs") is not None else ""
        sent = f"; {from_bytes(status['totalBytes'])} in all" if status.get("totalBytes") else ""
        screen.out.print(Text("done: ", style="green"), Text(f"{status.get('message', '')}{pause}{sent}"), sep="")
        return
    if phase(move) is MigrationPhase.CANCELLED and cancelled:
        screen.out.print(f"{name}: {status.get('message', '')}", markup=False)
        return
    screen.fail(f"{name} {phase(move).value.lower()} ({status.get('reason', '')}): {status.get('message', '')}")
