"""Turns (desired units, facts) into the steps that lead from one to the other. Pure; apply.py carries the steps out.

Steps name the steps they come after, so that apply.py can run what does not depend on each other at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from testbed.cluster.current import Facts
from testbed.cluster.units import Unit
from testbed.topology import Node


@dataclass(frozen=True, slots=True)
class MakeHost:
    """cgroup, bridge and rules; repeated on every `up` because it is cheap and harmless."""

    reason: str
    name: str = "host"
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MakeNode:
    """A node's namespaces, network and file systems, from nothing."""

    node: Node
    reason: str
    after: tuple[str, ...] = ("host",)

    @property
    def name(self) -> str:
        return f"node@{self.node.name}"


@dataclass(frozen=True, slots=True)
class Stop:
    """End a process that is outdated, unwanted or about to lose its node."""

    unit: str
    reason: str
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"stop {self.unit}"


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process and wait until it is ready."""

    unit: Unit
    reason: str
    after: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.unit.name


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until a process that runs already is ready: an earlier run may have been killed right after starting it."""

    unit: Unit
    reason: str
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.unit.name


@dataclass(frozen=True, slots=True)
class LoadPause:
    """Give a node the image that every pod's sandbox needs."""

    node: Node
    reason: str
    after: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"pause@{self.node.name}"


@dataclass(frozen=True, slots=True)
class Publish:
    """Write the cluster's base objects and wait until every node is Ready."""

    reason: str
    after: tuple[str, ...]
    name: str = "objects"


Step = MakeHost | MakeNode | Stop | Start | Await | LoadPause | Publish


def plan(desired: Sequence[Unit], nodes: Sequence[Node], facts: Facts) -> tuple[Step, ...]:
    """Stop what must not run, make what is missing, start what does not run, then publish."""
    missing = [node for node in nodes if node.name not in facts.nodes]
    stops = _stops(desired, {node.name for node in missing}, facts)
    stopped = {stop.unit for stop in stops}
    steps: list[Step] = [*stops, MakeHost("repeated on every run", after=tuple(stop.name for stop in stops))]
    steps += [MakeNode(node, "its namespaces are missing or incomplete") for node in missing]
    made = {f"node@{node.name}" for node in missing}
    started = {unit.name for unit in desired if unit.name in stopped or unit.name not in facts.running}
    loads = [node for node in nodes if node.name not in facts.pauses]
    for unit in desired:
        if unit.name in started:
            steps.append(Start(unit, _reason(unit, stopped), _after(unit, made, desired, loads)))
        else:
            steps.append(Await(unit, "it runs"))
    steps += [LoadPause(node, "it has none", (f"containerd@{node.name}",)) for node in loads]
    steps.append(Publish("repeated on every run", after=("host", *(unit.name for unit in desired))))
    return tuple(steps)


def _stops(desired: Sequence[Unit], missing: set[str], facts: Facts) -> list[Stop]:
    units = {unit.name: unit for unit in desired}
    stops = []
    for name, running in sorted(facts.running.items()):
        unit = units.get(name)
        if unit is None:
            stops.append(Stop(name, "no longer part of the cluster"))
        elif unit.node in missing:
            stops.append(Stop(name, f"node {unit.node} must be made anew"))
        elif unit.digest != running.digest:
            stops.append(Stop(name, "its configuration changed"))
    return stops


def _after(unit: Unit, made: set[str], desired: Sequence[Unit], loads: Sequence[Node]) -> tuple[str, ...]:
    """Only steps of this plan can be waited for: a node that is complete has none."""
    wanted = ["host", f"node@{unit.node}", *unit.after]
    if unit.component == "kubelet":
        wanted.append(f"pause@{unit.node}")
    known = made | {"host"} | {other.name for other in desired} | {f"pause@{node.name}" for node in loads}
    return tuple(name for name in wanted if name in known)


def _reason(unit: Unit, stopped: set[str]) -> str:
    return "stopped by this plan" if unit.name in stopped else "does not run"
