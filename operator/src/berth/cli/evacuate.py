"""`berth evacuate`: empty a node of its machines, or show beforehand what that would do.

Nothing here moves anything: a cordoned node is what makes the controller move machines (plan/evacuation.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from rich.table import Table

from berth.api.base import GROUP, VERSION
from berth.api.migration import PLURAL as MIGRATIONS
from berth.cli import screen
from berth.cli.cluster import connect
from berth.cli.options import Context, Kubeconfig
from berth.plan import leaving
from berth.plan.leaving import Forecast
from berth.plan.moves import Limits

Json = dict[str, Any]
Node = Annotated[str, typer.Argument(help="The node's name.")]
Plan = Annotated[bool, typer.Option("--plan", help="Only show who would go where, for how long, and what blocks.")]
STYLES: Final = {"Move": "green", "Shut down": "yellow", "Stays": "red"}


def evacuate_command(node: Node, context: Context = None, kubeconfig: Kubeconfig = None, plan: Plan = False) -> None:
    """Move machines away from a node: cordon it, and the controller does the rest. --plan shows it beforehand."""
    cluster = connect(None, context, kubeconfig)
    there = cluster.call("GET", f"/api/v1/nodes/{node}")
    rows = leaving.forecast(
        node,
        cluster.machines(everywhere=True),
        cluster.call("GET", "/api/v1/nodes")["items"],
        cluster.call("GET", "/api/v1/pods")["items"],
        cluster.call("GET", f"/apis/{GROUP}/{VERSION}/{MIGRATIONS}")["items"],
    )
    if not rows:
        screen.out.print(f"no machine runs on node {node}")
    else:
        screen.out.print(table(rows))
        screen.out.print(summary(rows))
    if plan:
        return
    if not (there.get("spec") or {}).get("unschedulable"):
        cluster.call("PATCH", f"/api/v1/nodes/{node}", body={"spec": {"unschedulable": True}})
    screen.out.print(
        f"node {node} is cordoned: its machines move now (`kubectl get vmm -A -w`). Those to be shut down wait for"
        f" `kubectl drain {node} --ignore-daemonsets --delete-emptydir-data`; `kubectl uncordon {node}` takes it back."
    )


def table(rows: list[Forecast]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("NAMESPACE", "NAME", "", "TO", "TIME", "MESSAGE"):
        shown.add_column(head, overflow="fold")
    for row in rows:
        time = f"{row.seconds:.0f} s" if row.seconds is not None else ""
        shown.add_row(row.namespace, row.name, f"[{STYLES[row.does]}]{row.does}[/]", row.to, time, row.message)
    return shown


def summary(rows: list[Forecast]) -> str:
    limits = Limits()
    count = {does: sum(row.does == does for row in rows) for does in STYLES}
    seconds = leaving.together(rows, limits.per_node)
    lasts = f", about {seconds:.0f} s at {limits.per_node} at a time" if seconds else ""
    return f"{count['Move']} move{lasts}; {count['Shut down']} are shut down; {count['Stays']} stay and block a drain"
