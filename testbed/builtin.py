"""The built-in cluster behind the words of backend.py: it only passes on to testbed/cluster/."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import errors, prerequisites
from testbed.binaries import ensure
from testbed.cluster import api, apply, flannel, layout, nodes, objects, processes, reconcile, teardown, units
from testbed.parts import Part
from testbed.progress import Progress
from testbed.settings import Settings
from testbed.topology import Node, Topology

# Short names that people use for the parts of the control plane.
COMPONENTS = {"apiserver": "kube-apiserver", "kcm": "kube-controller-manager", "scheduler": "kube-scheduler"}


@dataclass(frozen=True, slots=True)
class Builtin:
    """One testbed on this machine."""

    settings: Settings
    topology: Topology

    def up(self, progress: Progress) -> None:
        _need_root()
        more = prerequisites.FLANNEL if flannel.chosen(self.settings) else ()
        prerequisites.ensure(progress, (*prerequisites.CLUSTER, *more))
        reconcile.up(self.settings, self.topology, progress)

    def down(self, progress: Progress) -> None:
        _need_root()
        teardown.down(self.settings, self.topology, progress)

    def load(self, progress: Progress, archives: Sequence[Path]) -> None:
        """Import archives into every node, one at a time on each, the nodes side by side."""
        binaries = ensure.ensure(self.settings, progress, ("containerd",))
        machine = reconcile.machine(self.settings, self.topology, binaries, progress)
        with concurrent.futures.ThreadPoolExecutor(max_workers=len(self.topology.nodes)) as pool:
            for done in [pool.submit(_load_node, machine, node, archives) for node in self.topology.nodes]:
                done.result()

    def enter(self, node: str) -> list[str]:
        return nodes.enter(self.settings, self.topology.node(node).name)

    def restart(self, progress: Progress, component: str, node: str | None) -> None:
        name = COMPONENTS.get(component, component)
        names = [name]
        if name in (*units.NODE_COMPONENTS, "flannel", "kube-router"):
            chosen = [self.topology.node(node)] if node else self.topology.nodes
            names = [f"{name}@{one.name}" for one in chosen]
        reconcile.restart(self.settings, self.topology, progress, names)

    def lose(self, progress: Progress, node: str) -> None:
        _need_root()
        reconcile.lose(self.settings, self.topology.node(node), progress)

    def status(self) -> list[Part]:
        running = processes.find(self.settings)
        names = units.names(self.topology)
        if flannel.chosen(self.settings):
            extra = [f"{kind}@{node.name}" for node in self.topology.nodes for kind in ("flannel", "kube-router")]
            names = (*names, *extra)
        parts = [self._process(name, running) for name in names]
        if "kube-apiserver" not in running:
            return parts
        found = api.connect(self.settings).get("/api/v1/nodes")["items"]
        ready = {node["metadata"]["name"]: objects.ready_condition(node) for node in found}
        missing = {"status": "Unknown", "message": "not registered"}
        conditions = [(node.name, ready.get(node.name, missing)) for node in self.topology.nodes]
        return parts + [Part(f"node {name}", c["status"] == "True", c["message"]) for name, c in conditions]

    def _process(self, name: str, running: dict[str, processes.Running]) -> Part:
        log = self.settings.logs / f"{name}.log"
        where = f"pid {running[name].pid}" if name in running else "not running"
        return Part(name, name in running, f"{where}, log {log}")


def _need_root() -> None:
    """Namespaces, mounts and links are root's; with Docker, kind needs none of that."""
    if os.geteuid() != 0:
        raise errors.TestbedError("the built-in cluster needs root; become root, or start Docker to use kind instead")


def _load_node(machine: apply.Machine, node: Node, archives: Sequence[Path]) -> None:
    """Each node notes what it has: an archive's name holds the hash of what it was built from."""
    notes = layout.files_of(machine.settings, node.name) / "loaded"
    notes.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        note = notes / f"{archive.stem}-{archive.stat().st_mtime_ns}"
        if note.exists():
            continue
        with machine.progress.task(f"{archive.name} → {node.name}"):
            apply.load_image(machine, node, str(archive))
        note.touch()
