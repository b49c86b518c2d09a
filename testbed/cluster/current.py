"""Gathers what of the testbed exists on this machine right now. Reads only; plan.py compares it with the desired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from testbed.cluster import cgroups, layout, network, nodes, processes
from testbed.settings import Settings
from testbed.topology import Topology


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. `nodes` holds only those whose namespaces, cable and file systems are complete."""

    running: Mapping[str, processes.Running]
    nodes: frozenset[str]
    pauses: frozenset[str]  # nodes that have the image of every pod's sandbox


def gather(settings: Settings, topology: Topology) -> Facts:
    """Look at processes, links, namespaces and cgroups."""
    links, namespaces = network.links(), network.namespaces()
    ready = layout.bridge(settings) in links and cgroups.exists(layout.cgroup(settings))
    complete = {
        node.name
        for node in topology.nodes
        if ready
        and node.name in namespaces
        and layout.cable(settings, node.ordinal) in links
        and nodes.exists(settings, node.name)
    }
    pauses = {node.name for node in topology.nodes if layout.pause_note(settings, node.name).exists()}
    return Facts(processes.find(settings), frozenset(complete), frozenset(pauses))
