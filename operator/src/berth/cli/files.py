"""The commands that need no cluster: validate, render, plan, crds. Files in, text and an exit code out."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.text import Text

from berth.api import crd, validate
from berth.api.network import Network
from berth.api.order import Emulation, Order
from berth.api.virtualmachine import VirtualMachine
from berth.cli import screen
from berth.cli.options import Files
from berth.domain import build, xml
from berth.domain.observed import DomainState, ObservedDomain, StartRecord
from berth.plan import berthpod, hardware, machine, orders, pending, preview, world
from berth.plan.gathered import Gathered
from berth.plan.steps import Plan

PREVIEW_UID: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "preview.berth.dev")
NODE: Final = "node"
FOLDERS: Final = ("crds", "charts/berth/files/crds")

Emulate = Annotated[Emulation, typer.Option("--emulation", help="As in the chart's value emulation.")]


def read_machines(files: list[str]) -> tuple[list[VirtualMachine], list[Network]]:
    """All machines, and all Networks, of all files."""
    found = read_objects(files)
    return [each for each in found if isinstance(each, VirtualMachine)], [
        each for each in found if isinstance(each, Network)
    ]


def read_objects(files: list[str]) -> list[validate.Object]:
    """Berth's objects of all files; every problem is told before the command ends."""
    good: list[validate.Object] = []
    problems: list[validate.Problem] = []
    for name in files:
        found = validate.read(_text(name), "<stdin>" if name == "-" else name)
        good += [*found.networks, *found.machines, *found.migrations, *found.snapshots]
        problems += found.problems
    for problem in problems:
        screen.err.print(Text(str(problem)))
    if problems:
        screen.fail(f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'} found")
    if not good:
        screen.fail(f"no VirtualMachine, Network, Migration or Snapshot in {', '.join(files)}")
    return good


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        screen.fail(f"{name} cannot be read: {error}")


def validate_command(files: Files) -> None:
    """Check manifests: every problem with file, line, path, limit and the value given."""
    for each in read_objects(files):
        screen.out.print(Text("ok ", style="green"), Text(f"{each.kind} {each.metadata.name}"), sep="")


def render_command(
    files: Files,
    emulation: Emulate = Emulation.NEVER,
    order: Annotated[bool, typer.Option("--order", help="The order for the node, as JSON, instead.")] = False,
) -> None:
    """Print the libvirt domain XML that a node would run."""
    machines, networks = read_machines(files)
    for vm in machines:
        resolved = _order(vm, networks, emulation)
        text = resolved.model_dump_json(indent=2, by_alias=True) + "\n" if order else build.preview(resolved)
        sys.stdout.write(text)


def plan_command(
    files: Files,
    observed: Annotated[Path | None, typer.Option("--observed", help="A domain's live XML (virsh dumpxml).")] = None,
    state: Annotated[DomainState, typer.Option("--state", help="The state of that domain.")] = DomainState.RUNNING,
    emulation: Emulate = Emulation.NEVER,
) -> None:
    """Print the steps a node would take for a machine, each with its reason."""
    machines, networks = read_machines(files)
    for vm in machines:
        resolved = _order(vm, networks, emulation)
        seen = _gathered(resolved, observed, state)
        screen.out.print(Text(f"{vm.metadata.name}:", style="bold"))
        _print_plan(machine.plan(seen))
        _print_pending(seen, resolved)


def crds_command(
    write: Annotated[bool, typer.Option("--write", help="Write the generated files into this repository.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Fail when the files here differ from the models.")] = False,
) -> None:
    """Print the CustomResourceDefinitions, or keep the generated files in step with the models."""
    if not write and not check:
        sys.stdout.write("---\n".join(crd.files().values()))
        return
    stale = []
    for path, text in ((Path(folder) / name, text) for name, text in crd.files().items() for folder in FOLDERS):
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(str(path))
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if check and stale:
        screen.fail(f"stale: {', '.join(stale)}; run `berth crds --write`")
    screen.out.print(f"wrote {', '.join(stale)}" if stale else "up to date")


def _order(vm: VirtualMachine, networks: Sequence[Network], emulation: Emulation) -> Order:
    """The order as the controller would send it; names that only a cluster gives are stand-ins."""
    meta = vm.metadata
    thing = world.Machine(
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid or str(PREVIEW_UID),
        generation=meta.generation,
        spec=vm.spec,
    )
    cluster = world.Cluster(emulation=emulation)
    pod = berthpod.berth_pod(thing, 1, cluster, hardware.resolve(vm.spec, cluster))
    pod["metadata"]["uid"] = str(uuid.uuid5(PREVIEW_UID, "pod"))
    pod["spec"]["nodeName"] = NODE
    segments, refused = preview.segments(thing, networks)
    if refused:
        screen.fail(f"{meta.name}: {refused}")
    order = orders.order(thing, world.read_pod(pod), cluster, segments)
    assert order is not None  # the annotation was written a moment ago, and every lease is there
    return order


def _gathered(order: Order, observed: Path | None, state: DomainState) -> Gathered:
    pod = order.berth.pod_uid
    if observed is None:
        return Gathered(order.uid, order, present=frozenset({pod}), kvm_usable=True)
    guest = xml.read(ObservedDomain(order.uid, observed.name, state, _text(str(observed))))
    running = guest.order
    order = order.model_copy(update={"uid": running.uid, "epoch": running.epoch, "berth": running.berth})
    return Gathered(
        running.uid,
        order,
        guest=replace(guest, uid=running.uid),
        record=StartRecord(running.epoch, running.berth.pod_uid, guest.guest_uid),
        folder=True,
        present=frozenset({running.berth.pod_uid}),
        linked=True,
        network=order.machine.nics,
        kvm_usable=True,
    )


def _print_plan(plan: Plan) -> None:
    if not plan.steps:
        screen.out.print("  nothing to do: it runs as it was ordered")
    for number, step in enumerate(plan.steps, start=1):
        screen.out.print(Text(f"  {number}. {type(step).__name__}", style="cyan"), Text(f"  {step.reason}"), sep="")


def _print_pending(seen: Gathered, wanted: Order) -> None:
    if seen.guest is None:
        return
    for path in pending.pending_changes(seen.guest.order.machine, wanted.machine):
        screen.out.print(Text("  at the next start: ", style="yellow"), Text(path), sep="")
