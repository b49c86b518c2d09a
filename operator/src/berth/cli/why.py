"""`berth why`: everything known of one machine on one page, and the next step. Exit code 0 when all is well.

Reads what the controller wrote; it judges nothing itself except whether what is wanted has come true.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import typer
from rich.table import Table
from rich.text import Text

from berth.api.virtualmachine import Power
from berth.cli import screen, snapshot
from berth.cli.cluster import connect
from berth.cli.listing import age
from berth.cli.migrate import is_over, phase, told
from berth.cli.net import interfaces
from berth.cli.options import Context, Kubeconfig, Name, Namespace
from berth.cli.power import _power

Json = dict[str, Any]
NEXT: Final = "Next: "
LAST_EVENTS: Final = 12
_MARKS: Final = {"True": ("✓", "green"), "False": ("✗", "red"), "Unknown": ("?", "yellow")}
_ABLE: Final = ("Suspendable", "Migratable")
"""Conditions that nothing else depends on: one that matters is the status' message already."""
_GOALS: Final = {Power.ON: "Running", Power.OFF: "Stopped", Power.PAUSED: "Paused", Power.SUSPENDED: "Suspended"}


def why_command(
    name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Tell how a machine is, why, and what to do next."""
    cluster = connect(namespace, context, kubeconfig)
    vm = cluster.machine(name)
    status = vm.get("status") or {}
    berth = status.get("berth")
    pod = cluster.pod(berth) if berth else None
    events = cluster.events(name, *([berth] if berth else []))
    moves = [m for m in cluster.migrations() if m["spec"].get("vm") == name and not is_over(m)]
    snaps = [s for s in cluster.snapshots() if s["spec"].get("vm") == name and snapshot.is_under_way(s)]
    show(vm, pod, events, datetime.now(UTC), moves, snaps)
    if not all_is_well(vm):
        raise typer.Exit(1)


def all_is_well(vm: Json) -> bool:
    """Whether the machine is as its spec wants it, and the controller has seen that spec."""
    status, power = vm.get("status") or {}, _power(vm)
    if status.get("observedGeneration") != vm["metadata"].get("generation") or "deletionTimestamp" in vm["metadata"]:
        return False
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    moving = power is not Power.OFF and status.get("phase") == "Migrating"
    if (status.get("phase") != _GOALS[power] and not moving) or conditions.get("SpecValid") == "False":
        return False
    if conditions.get("Reverted") == "False":
        return False
    return power is not Power.ON or conditions.get("Ready") == "True"


def next_step(vm: Json) -> str:
    """The first thing to do, out of the messages; a machine that is well needs none."""
    status = vm.get("status") or {}
    if not status:
        return "wait a moment; if this stays, see the berth-controller pods: they have not looked at this machine yet"
    if all_is_well(vm):
        waiting = status.get("pendingChanges")
        return f"`berth restart {vm['metadata']['name']}` puts the pending changes into effect" if waiting else ""
    texts = [status.get("message", "")]
    wrong = [c for c in status.get("conditions") or () if c["status"] != "True" and c["type"] not in _ABLE]
    texts += [c.get("message", "") for c in wrong]
    return next((text.partition(NEXT)[2].strip() for text in texts if NEXT in text), "")


def show(
    vm: Json,
    pod: Json | None,
    events: list[Json],
    now: datetime,
    moves: Sequence[Json] = (),
    snaps: Sequence[Json] = (),
) -> None:
    status, meta = vm.get("status") or {}, vm["metadata"]
    out = screen.out
    out.print(Text(f"{meta['namespace']}/{meta['name']}  ", style="bold") + screen.coloured(status.get("phase", "")))
    if status.get("message"):
        out.print(f"  {status['message']}", markup=False)
    out.print(_facts(vm, status, pod, now), soft_wrap=False)
    if status.get("nics"):
        _section("Interfaces", interfaces(vm, status))
    _section("Conditions", conditions(status, now))
    if moves:
        _section("Moves", _underway((move, phase(move).value, told(move)) for move in moves))
    if snaps:
        _section("Snapshots", _underway((snap, snapshot.phase(snap).value, snapshot.told(snap)) for snap in snaps))
    if status.get("pendingChanges"):
        _section("Changes that wait for the next start", "\n".join(f"  {p}" for p in status["pendingChanges"]))
    if events:
        _section("Events", _events(events[-LAST_EVENTS:], now))
    step = next_step(vm)
    if step:
        out.print(Text("\nNext: ", style="bold yellow") + Text(step))
    elif all_is_well(vm):
        out.print(Text("\nAll is well.", style="green"))


def _section(title: str, body: Table | str) -> None:
    screen.out.print(Text(f"\n{title}", style="bold"))
    screen.out.print(body, markup=False, soft_wrap=False)


def _facts(vm: Json, status: Json, pod: Json | None, now: datetime) -> Table:
    facts = Table(box=None, show_header=False, pad_edge=True)
    facts.add_column(style="bright_black", no_wrap=True)
    facts.add_column(overflow="fold")
    rows = {
        "power": f"{_power(vm).value} (spec), restart {vm['spec'].get('restart', 'Always')}",
        "place": " ".join(filter(None, [status.get("node"), status.get("ip")])),
        "berth": _berth(status, pod),
        "started": f"{age(status['startedAt'], now)} ago, start {status.get('epoch')}"
        if status.get("startedAt")
        else "",
        "restarts": _restarts(status),
        "last end": _last_exit(status.get("lastExit"), now),
        "guest": _guest(status.get("guest")),
    }
    for name, value in rows.items():
        if value:
            facts.add_row(name, Text(value))
    return facts


def _berth(status: Json, pod: Json | None) -> str:
    name = status.get("berth")
    if not name:
        return ""
    if pod is None:
        return f"{name} (gone)"
    found = pod.get("status") or {}
    states = [c.get("state") or {} for c in found.get("containerStatuses") or ()]
    waiting = next((s["waiting"] for s in states if "waiting" in s), None)
    trouble = f": {waiting.get('reason', '')} {waiting.get('message', '')}".rstrip() if waiting else ""
    leaving = ", ending" if "deletionTimestamp" in pod["metadata"] else ""
    return f"{name} ({found.get('phase', 'Pending')}{leaving}{trouble})"


def _restarts(status: Json) -> str:
    if not status.get("restarts"):
        return ""
    later = f"; next start at {status['nextStartAt']}" if status.get("nextStartAt") else ""
    return f"{status['restarts']} in a row{later}"


def _last_exit(last: Json | None, now: datetime) -> str:
    if not last:
        return ""
    message = f": {last['message']}" if last.get("message") else ""
    return f"{last['reason']} (exit code {last['exitCode']}, {age(last.get('at'), now)} ago){message}"


def _guest(guest: Json | None) -> str:
    if not guest:
        return ""
    known = [guest.get("hostname"), guest.get("os"), guest.get("kernel")]
    return ", ".join(filter(None, known)) or ("its agent answers" if guest.get("agentConnected") else "")


def conditions(status: Json, now: datetime) -> Table:
    found = Table(box=None, show_header=False, pad_edge=True)
    for _ in range(4):
        found.add_column(overflow="fold", no_wrap=_ < 3)
    for condition in status.get("conditions") or ():
        mark, colour = _MARKS.get(condition["status"], ("?", "yellow"))
        since = age(condition.get("lastTransitionTime"), now)
        text = Text(condition.get("message", ""))
        found.add_row(Text(mark, style=colour), condition["type"], f"{condition['reason']} {since}", text)
    return found


def _underway(rows: Iterable[tuple[Json, str, str]]) -> Table:
    found = Table(box=None, show_header=False, pad_edge=True)
    for _ in range(3):
        found.add_column(overflow="fold", no_wrap=_ < 2)
    for obj, word, message in rows:
        found.add_row(obj["metadata"]["name"], screen.coloured(word), Text(message))
    return found


def _events(events: list[Json], now: datetime) -> Table:
    found = Table(box=None, show_header=False, pad_edge=True)
    for column in range(4):
        found.add_column(overflow="fold", no_wrap=column < 3)
    for event in events:
        when = age(event.get("lastTimestamp") or event.get("eventTime"), now)
        colour = "yellow" if event.get("type") == "Warning" else ""
        about = str(event["involvedObject"].get("kind", ""))
        found.add_row(when, about, Text(event.get("reason", ""), style=colour), Text(event.get("message", "")))
    return found
