"""What the cluster's processes are described with: values that desired.py makes, plan.py compares, apply.py starts.

A Unit is what a service manager would call one: argv, where it runs, what must be ready first and how to see readiness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.cluster import layout
from testbed.settings import Settings
from testbed.topology import Topology

NODE_COMPONENTS = ("containerd", "kubelet", "kube-proxy")
HOST_COMPONENTS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "provisioner",
    "dns",
    "metrics-server",
    "policy",
)


@dataclass(frozen=True, slots=True)
class Http:
    """Ready when this URL answers 200."""

    url: str


@dataclass(frozen=True, slots=True)
class Socket:
    """Ready when something accepts connections on this unix socket (a path on the host)."""

    path: Path


Probe = Http | Socket


@dataclass(frozen=True, slots=True)
class Unit:
    """One process of the cluster."""

    name: str
    argv: tuple[str, ...]
    probe: Probe
    node: str | None = None
    after: tuple[str, ...] = ()
    configuration: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def component(self) -> str:
        return self.name.partition("@")[0]

    @property
    def digest(self) -> str:
        """Changes whenever the process would have to be restarted to follow its configuration."""
        text = repr((self.argv, self.configuration, self.environment))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything a unit is made from. `texts` holds configuration files by `component@node`."""

    settings: Settings
    topology: Topology
    binaries: Mapping[str, Path]
    texts: Mapping[str, str]

    def host(self, tool: str) -> str:
        return str(self.binaries[tool])

    def node(self, tool: str) -> str:
        """A binary's path inside a node: the cache's folder is bound there."""
        return str(layout.NODE_BINARIES / self.binaries[tool].relative_to(self.settings.cache / "bin"))


def names(topology: Topology) -> tuple[str, ...]:
    """The names of all units, for those who only want to look."""
    on_nodes = [f"{component}@{node.name}" for node in topology.nodes for component in NODE_COMPONENTS]
    return (*HOST_COMPONENTS, *on_nodes)
