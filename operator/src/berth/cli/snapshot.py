"""`berth snapshot`, `snapshots` and `revert`: make a Snapshot, show a machine's, and ask the machine to go back to one.

Nothing here takes anything: the controller does what the objects say, also when these commands have long ended.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from berth.api.base import API_VERSION
from berth.api.snapshot import KIND, SnapshotPhase
from berth.cli import screen
from berth.cli.cluster import Cluster, connect
from berth.cli.following import Look, follow
from berth.cli.listing import age, columns
from berth.cli.options import Context, Kubeconfig, Name, Namespace, Timeout, Wait
from berth.plan.world import REVERT

Json = dict[str, Any]
HEADS: Final = ("NAME", "VM", "STATUS", "MEMORY", "SIZE", "TAKEN", "AGE", "MESSAGE")
Called = Annotated[str | None, typer.Argument(help="The Snapshot's name. Default: the machine's and the time.")]
Of = Annotated[str | None, typer.Argument(help="Those of this machine alone.")]
To = Annotated[str, typer.Argument(help="The Snapshot to go back to.")]
DisksOnly = Annotated[bool, typer.Option("--disks-only", help="Its disks alone: the guest does not stand still.")]


def snapshot_command(
    name: Name,
    called: Called = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    disks_only: DisksOnly = False,
    wait: Wait = False,
    timeout: Timeout = 600,
) -> None:
    """Take a Snapshot of a running machine: its memory and its disks, at one moment."""
    cluster = connect(namespace, context, kubeconfig)
    made = cluster.create_snapshot(manifest(cluster.machine(name), called, disks_only))
    word = made["metadata"]["name"]
    if not wait:
        screen.out.print(f"{name}: Snapshot {word} is made; `kubectl get vmsnap {word} -w` shows how it goes")
        return
    _follow(cluster, word, timeout)


def snapshots_command(
    name: Of = None, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """List Snapshots: status, size, when they were taken."""
    cluster = connect(namespace, context, kubeconfig)
    found = [snap for snap in cluster.snapshots() if name in (None, snap["spec"].get("vm"))]
    if not found:
        screen.err.print(f"no Snapshots{f' of {name}' if name else ''} in namespace {cluster.access.namespace}")
        return
    now = datetime.now(UTC)
    rows = [_row(snap, now) for snap in sorted(found, key=lambda snap: str(snap["metadata"]["creationTimestamp"]))]
    screen.out.print(columns(HEADS, rows))


def revert_command(
    name: Name,
    snapshot: To,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Wait = False,
    timeout: Timeout = 600,
) -> None:
    """Let a machine go back to a Snapshot: what it did since then is lost."""
    cluster = connect(namespace, context, kubeconfig)
    vm, snap = cluster.machine(name), cluster.snapshot(snapshot)
    if snap["spec"].get("vm") != name:
        screen.fail(f"Snapshot {snapshot} is one of {snap['spec'].get('vm')}, not of {name}")
    if phase(snap) is not SnapshotPhase.READY:
        screen.fail(f"Snapshot {snapshot} is {phase(snap)}, and only one that is Ready can be gone back to")
    request = f"{snapshot}@{datetime.now(UTC).isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"
    cluster.patch(name, {"metadata": {"annotations": {REVERT: request}}})
    if not wait:
        off = "" if vm["spec"].get("power", "On") in ("On", True, "Paused") else ", at its next start"
        screen.out.print(f"{name}: goes back to {snapshot}{off}; `berth why {name}` tells how it goes")
        return
    _await_revert(cluster, name, request, timeout)


def manifest(vm: Json, called: str | None, disks_only: bool) -> Json:
    """The Snapshot of a machine."""
    name = vm["metadata"]["name"]
    word = called or f"{name[:230]}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    meta = {"name": word, "namespace": vm["metadata"]["namespace"]}
    spec: Json = {"vm": name} | ({"memory": False} if disks_only else {})
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": meta, "spec": spec}


def phase(snap: Json) -> SnapshotPhase:
    return SnapshotPhase((snap.get("status") or {}).get("phase", SnapshotPhase.PENDING))


def is_under_way(snap: Json) -> bool:
    return phase(snap) not in (SnapshotPhase.READY, SnapshotPhase.FAILED)


def _row(snap: Json, now: datetime) -> list[Text]:
    meta, spec, status = snap["metadata"], snap["spec"], snap.get("status") or {}
    cells = [meta["name"], spec.get("vm", ""), screen.coloured(phase(snap).value)]
    cells += ["yes" if spec.get("memory", True) else "no", status.get("size", ""), age(status.get("takenAt"), now)]
    cells += [age(meta.get("creationTimestamp"), now), status.get("message", "")]
    return [cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells]


def _follow(cluster: Cluster, name: str, timeout: float) -> None:
    """Until it is taken or refused."""

    def look() -> Look:
        snap = cluster.snapshot(name)
        status, where = snap.get("status") or {}, phase(snap)
        refused = f"Snapshot {name} was not taken ({status.get('reason', '')}): {status.get('message', '')}"
        done, failed = where is SnapshotPhase.READY, where is SnapshotPhase.FAILED
        return Look(where.value, told(snap), done, refused if failed else "")

    follow(look, timeout, f"Snapshot {name} is not taken within {timeout:.0f} s; see `kubectl get vmsnap`")


def told(snap: Json) -> str:
    """One line on how it is."""
    status = snap.get("status") or {}
    if phase(snap) is SnapshotPhase.READY:
        pause = f"; the guest stood still for {status['pauseMs']} ms" if status.get("pauseMs") else ""
        return f"{status.get('size', '')} in its volume{pause}"
    percent = f"{status['percent']}%" if status.get("percent") is not None else ""
    return " ".join(filter(None, (percent, str(status.get("message", "")))))


def _await_revert(cluster: Cluster, name: str, request: str, timeout: float) -> None:
    def look() -> Look:
        status = cluster.machine(name).get("status") or {}
        said: Json = next((c for c in status.get("conditions") or () if c["type"] == "Reverted"), {})
        revert = status.get("revert") or {}
        done = bool(revert.get("request") == request and revert.get("done"))
        return Look(str(status.get("phase", "")), "" if done else str(said.get("message", "")), done)

    follow(look, timeout, f"{name} has not gone back within {timeout:.0f} s; see `berth why {name}`")
