"""`berth list`: the machines of a namespace, or of all, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from berth.cli import screen
from berth.cli.cluster import connect
from berth.cli.options import Context, Kubeconfig, Namespace
from berth.plan.world import parse_time

Json = dict[str, Any]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="The machines of all namespaces.")]
Wide = Annotated[bool, typer.Option("--wide", help="Restarts, the berth pod and the message as well.")]


def list_command(
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    everywhere: Everywhere = False,
    wide: Wide = False,
) -> None:
    """List machines: status, node, IP, CPUs, memory, age."""
    cluster = connect(namespace, context, kubeconfig)
    machines = cluster.machines(everywhere)
    if not machines:
        screen.err.print(f"no machines in {'this cluster' if everywhere else f'namespace {cluster.access.namespace}'}")
        return
    screen.out.print(table(machines, datetime.now(UTC), everywhere, wide))


def table(machines: list[Json], now: datetime, everywhere: bool, wide: bool) -> Text:
    heads = [*(["NAMESPACE"] if everywhere else []), "NAME", "STATUS", "NODE", "IP", "CPU", "MEMORY", "AGE"]
    heads += ["RESTARTS", "BERTH", "MESSAGE"] if wide else []
    return columns(heads, [_row(vm, now, everywhere, wide) for vm in machines])


def columns(heads: Sequence[str], cells: Sequence[list[Text]]) -> Text:
    """As kubectl lays columns out: as wide as their widest cell, never cut."""
    rows = [[Text(head, style="bold") for head in heads], *cells]
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        for cell, width in zip(row[:-1], widths, strict=False):
            cell.pad_right(width + 3 - cell.cell_len)
        lines.append(Text.assemble(*row))
    return Text("\n").join(lines)


def _row(vm: Json, now: datetime, everywhere: bool, wide: bool) -> list[Text]:
    meta, spec, status = vm["metadata"], vm["spec"], vm.get("status") or {}
    cells: list[Any] = [meta["namespace"]] if everywhere else []
    cells += [meta["name"], screen.coloured(str(status.get("phase", ""))), status.get("node", ""), status.get("ip", "")]
    cells += [str(spec.get("cpu", {}).get("count", "")), spec.get("memory", {}).get("size", "")]
    cells.append(age(meta.get("creationTimestamp"), now))
    if wide:
        cells += [str(status.get("restarts", 0)), status.get("berth", ""), status.get("message", "")]
    return [cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells]


def age(moment: str | None, now: datetime) -> str:
    """As kubectl writes ages: 45s, 12m, 3h, 2d."""
    since = parse_time(moment)
    if since is None:
        return ""
    seconds = max(int((now - since).total_seconds()), 0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
