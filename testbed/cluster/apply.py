"""Carries out a plan's steps, each as soon as the steps it comes after are done. Called by reconcile.py.

The only module that turns steps into effects; each effect is idempotent, so a killed run is repaired by the next.
"""

from __future__ import annotations

import concurrent.futures
import graphlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from testbed import errors, files, shell
from testbed.cluster import api, cgroups, layout, network, nodes, objects, pause, processes, ready
from testbed.cluster.plan import Await, LoadPause, MakeHost, MakeNode, Publish, Start, Step, Stop
from testbed.cluster.units import Unit
from testbed.progress import Progress
from testbed.settings import Settings
from testbed.topology import Node, Topology

START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What every effect needs."""

    settings: Settings
    topology: Topology
    ctr: str
    progress: Progress


def apply(machine: Machine, steps: Sequence[Step]) -> None:
    """Run the steps in parallel where their order allows; the first failure ends the run after what is under way."""
    by_name = {step.name: step for step in steps}
    order = graphlib.TopologicalSorter({step.name: set(step.after) & set(by_name) for step in steps})
    order.prepare()
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        waiting: dict[concurrent.futures.Future[None], str] = {}
        while order.is_active():
            for name in order.get_ready():
                waiting[pool.submit(_run, machine, by_name[name])] = name
            done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                future.result()
                order.done(waiting.pop(future))


def _run(machine: Machine, step: Step) -> None:
    if isinstance(step, Await):  # a healthy cluster would show a row for each process and say nothing by it
        _await(machine.settings, step.unit)
        return
    with machine.progress.task(_title(step), step.reason if not step.reason.startswith("repeated") else ""):
        _effect(machine, step)


def _title(step: Step) -> str:
    match step:
        case MakeHost():
            return "bridge, cgroups"
        case MakeNode(node=node):
            return f"namespaces of {node.name}"
        case Stop(unit=unit):
            return f"stop {unit}"
        case Start(unit=unit):
            return f"start {unit.name}"
        case Await(unit=unit):
            return f"wait for {unit.name}"
        case LoadPause(node=node):
            return f"pause image on {node.name}"
        case Publish():
            return "base objects, nodes Ready"
        case _:
            assert_never(step)


def _effect(machine: Machine, step: Step) -> None:
    settings, topology = machine.settings, machine.topology
    match step:
        case MakeHost():
            _make_host(machine)
        case MakeNode(node=node):
            _make_node(machine, node)
        case Stop(unit=unit):
            processes.stop(settings, unit)
        case Start(unit=unit):
            _start(settings, unit)
        case Await(unit=unit):
            _await(settings, unit)
        case LoadPause(node=node):
            load_image(machine, node, str(pause.ensure(settings)))
            files.write(layout.pause_note(settings, node.name), "")
        case Publish():
            objects.publish(api.connect(settings), settings, topology)
        case _:
            assert_never(step)


def _make_host(machine: Machine) -> None:
    for name in daemon_cgroups(machine.settings, machine.topology):
        cgroups.ensure(name)
    nodes.prepare(machine.settings)
    network.make_bridge(machine.settings, machine.topology)
    shell.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])


def _make_node(machine: Machine, node: Node) -> None:
    """What is left of an earlier life of this node (containers, mounts) goes first."""
    end(machine.settings, node)
    network.make_node(machine.settings, machine.topology, node)
    nodes.make(machine.settings, machine.topology, node)


def end(settings: Settings, node: Node) -> None:
    """Kill all that runs on a node: first those that start others, then what they started."""
    for cgroup in (daemon_cgroup(settings, node.name), f"{layout.cgroup(settings)}/{node.name}"):
        processes.kill_all(cgroups.processes(cgroup))


def _start(settings: Settings, unit: Unit) -> None:
    argv = [*nodes.enter(settings, unit.node), *unit.argv] if unit.node else list(unit.argv)
    entries = cgroups.entries(daemon_cgroup(settings, unit.node))
    processes.start(settings, unit.name, unit.digest, argv, entries, unit.environment)
    _await(settings, unit)


def _await(settings: Settings, unit: Unit) -> None:
    complaint = f"is not ready after {START_SECONDS:.0f} s"
    ready.until(lambda: _ready_or_dead(settings, unit), START_SECONDS, lambda: _complaint(settings, unit, complaint))


def _ready_or_dead(settings: Settings, unit: Unit) -> bool:
    if ready.probe(unit.probe):
        return True
    if processes.ended(settings, unit.name):
        raise errors.NotReady(_complaint(settings, unit, "ended at once"))
    return False


def _complaint(settings: Settings, unit: Unit, what: str) -> str:
    log = settings.logs / f"{unit.name}.log"
    tail = "\n".join((files.read(log) or "").splitlines()[-8:])
    return f"{unit.name} {what}; the end of {log}:\n{tail}"


def load_image(machine: Machine, node: Node, archive: str) -> None:
    """Import an image archive into one node's containerd; reads it through standard input's file, not a node's path.

    Names that the archive brings anew are taken away first: a name that moves keeps the label by which containerd's CRI
    plugin knows what it has recorded; the new image is then never recorded under its id, which image volumes ask for.
    """
    ctr = [*nodes.enter(machine.settings, node.name), machine.ctr, "-n", "k8s.io", "images"]
    known = set(shell.run([*ctr, "list", "-q"]).split())
    if moved := known & set(tags_of(archive)):
        shell.run([*ctr, "remove", "--sync=false", *sorted(moved)])
    with open(archive, "rb") as stream:
        shell.feed([*ctr, "import", "--local", "-"], stream)


def tags_of(archive: str) -> list[str]:
    """The names an archive carries: the tree may have changed since it was built, so its hash is not asked again."""
    with tarfile.open(archive) as content:
        manifest = content.extractfile("manifest.json")
        if manifest is None:
            raise errors.TestbedError(f"{archive}: not an image archive: it holds no manifest.json")
        return [str(tag) for tag in json.load(manifest)[0]["RepoTags"]]


def daemon_cgroup(settings: Settings, node: str | None) -> str:
    """Where the cluster's own processes live, apart from the pods."""
    return f"{layout.cgroup(settings)}/daemons/{node or 'host'}"


def daemon_cgroups(settings: Settings, topology: Topology) -> list[str]:
    pods = [f"{layout.cgroup(settings)}/{node.name}" for node in topology.nodes]
    daemons = [daemon_cgroup(settings, node.name) for node in topology.nodes]
    return [*pods, *daemons, daemon_cgroup(settings, None)]
