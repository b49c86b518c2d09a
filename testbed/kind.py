"""kind behind the words of backend.py: the cluster on machines where Docker works. Runs kind, docker and kubectl."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import errors, shell
from testbed.binaries import ensure
from testbed.parts import Part
from testbed.progress import Progress
from testbed.settings import Settings
from testbed.topology import Topology

# Started by kubelet from files: stopping the container is how they are restarted.
STATIC = {
    "etcd": "etcd",
    "apiserver": "kube-apiserver",
    "kcm": "kube-controller-manager",
    "scheduler": "kube-scheduler",
}
SERVICES = ("kubelet", "containerd")
READY = "180s"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind cluster, named as kind-config.yaml (and the testbed's index) says."""

    settings: Settings
    topology: Topology

    def up(self, progress: Progress) -> None:
        """Create it, or start what of it was stopped and wait until every node is Ready."""
        tools = ensure.ensure(self.settings, progress, ("kind", "kubernetes"))
        self.settings.state.mkdir(parents=True, exist_ok=True)
        with progress.task(f"kind cluster {self.topology.name}"):
            if self._is_complete(tools["kind"]):
                self._start(tools["kind"])
            else:
                self._create(tools["kind"])
            shell.run(
                [
                    *self._kubectl(tools["kubectl"]),
                    "wait",
                    "--for=condition=Ready",
                    "node",
                    "--all",
                    f"--timeout={READY}",
                ]
            )

    def down(self, progress: Progress) -> None:
        tools = ensure.ensure(self.settings, progress, ("kind",))
        with progress.task(f"delete kind cluster {self.topology.name}"):
            shell.run([tools["kind"], "delete", "cluster", "--name", self.topology.name])
            shutil.rmtree(self.settings.state, ignore_errors=True)

    def load(self, progress: Progress, archives: Sequence[Path]) -> None:
        tools = ensure.ensure(self.settings, progress, ("kind",))
        for archive in archives:
            with progress.task(f"{archive.name} → {self.topology.name}"):
                shell.run([tools["kind"], "load", "image-archive", archive, "--name", self.topology.name], timeout=900)

    def enter(self, node: str) -> list[str]:
        return ["docker", "exec", "-i", self.topology.node(node).name]

    def restart(self, progress: Progress, component: str, node: str | None) -> None:
        name = STATIC.get(component, component)
        with progress.task(f"restart {name}"):
            if name in STATIC.values():
                stop = f"crictl stop $(crictl ps -q --name '^{name}$')"
                shell.run(["docker", "exec", self._control_plane(), "sh", "-ec", stop])
                return
            for one in [self.topology.node(node).name] if node else [n.name for n in self.topology.nodes]:
                shell.run(["docker", "exec", one, *self._restart_on_node(name)])

    def lose(self, progress: Progress, node: str) -> None:
        with progress.task(f"lose {node}"):
            shell.run(["docker", "kill", self.topology.node(node).name])

    def status(self) -> list[Part]:
        parts = [self._container(name) for name in self._containers()]
        if all(part.healthy for part in parts):
            kubectl = self._kubectl(Path("kubectl"))
            nodes = json.loads(shell.run([*kubectl, "get", "nodes", "-o", "json"]))["items"]
            parts += [_node(node) for node in nodes]
        return parts

    def _create(self, kind: Path) -> None:
        """Half a cluster, as a killed run leaves it, cannot be completed by kind: it is made anew."""
        shell.run([kind, "delete", "cluster", "--name", self.topology.name])
        config = self.settings.repository / "kind-config.yaml"
        flags = [f"--config={config}", f"--name={self.topology.name}", f"--kubeconfig={self.settings.kubeconfig}"]
        shell.run([kind, "create", "cluster", *flags, f"--wait={READY}"], timeout=900)

    def _start(self, kind: Path) -> None:
        shell.run(["docker", "start", *self._containers()])
        shell.run(
            [kind, "export", "kubeconfig", f"--name={self.topology.name}", f"--kubeconfig={self.settings.kubeconfig}"]
        )

    def _is_complete(self, kind: Path) -> bool:
        """All containers are there, and the control plane got as far as having an admin's kubeconfig."""
        found = set(shell.run([kind, "get", "nodes", "--name", self.topology.name]).split())
        return set(self._containers()) <= found and shell.quiet(
            [kind, "get", "kubeconfig", "--name", self.topology.name]
        )

    def _containers(self) -> list[str]:
        return [self._control_plane(), *(node.name for node in self.topology.nodes)]

    def _control_plane(self) -> str:
        return f"{self.topology.name}-control-plane"

    def _container(self, name: str) -> Part:
        try:
            state = shell.run(["docker", "inspect", "-f", "{{.State.Status}}", name]).strip()
        except errors.CommandFailed:
            state = "missing"
        return Part(name, state == "running", state)

    def _kubectl(self, program: Path) -> list[str]:
        return [str(program), f"--kubeconfig={self.settings.kubeconfig}"]

    def _restart_on_node(self, name: str) -> list[str]:
        if name in SERVICES:
            return ["systemctl", "restart", name]
        return ["sh", "-ec", f"crictl stop $(crictl ps -q --name '^{name}$')"]


def _node(node: dict[str, object]) -> Part:
    metadata, status = node["metadata"], node["status"]
    assert isinstance(metadata, dict)
    assert isinstance(status, dict)
    ready = next(
        (c for c in status.get("conditions", []) if c["type"] == "Ready"), {"status": "Unknown", "message": ""}
    )
    return Part(f"node {metadata['name']}", ready["status"] == "True", ready["message"])
