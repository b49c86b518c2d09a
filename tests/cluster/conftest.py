"""A built-in cluster of the tests' own, beside any other on this machine: own names, addresses, ports and folders."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testbed import images, settings, topology
from testbed.kube import ROOT, Cluster, Json, wait

TOOLS = "ghcr.io/berth-dev/testtools:dev"


@dataclass(frozen=True)
class Bed:
    """One testbed, driven through its command line as a user would."""

    index: int

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "BERTH_TESTBED_INDEX": str(self.index), "BERTH_CLUSTER": "builtin"}

    @property
    def settings(self) -> settings.Settings:
        return settings.load(self.environment)

    @property
    def topology(self) -> topology.Topology:
        return topology.parse((ROOT / "kind-config.yaml").read_text(), self.index)

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.settings.kubeconfig)

    @property
    def workers(self) -> list[str]:
        return [node.name for node in self.topology.nodes]

    def popen(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "testbed", *words]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, start_new_session=True)

    def run(self, *words: str, seconds: float = 120) -> str:
        """A command that must succeed; returns what it printed."""
        command = [sys.executable, "-m", "testbed", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"testbed {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def on_node(self, node: str, *command: str) -> str:
        return self.run("node-exec", node, "--", *command)

    def pids(self) -> dict[str, int]:
        from testbed.cluster import processes

        return {name: running.pid for name, running in processes.find(self.settings).items()}


def pod(name: str, node: str, command: Sequence[str] = ("sleep", "86400"), **spec: Any) -> Json:
    """A pod with the test tools; `mounts` and `privileged` belong to its container, the rest to the pod."""
    container: Json = {
        "name": "main",
        "image": TOOLS,
        "imagePullPolicy": "Never",
        "command": list(command),
        "volumeMounts": spec.pop("mounts", []),
        "securityContext": {"privileged": spec.pop("privileged", False)},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


@dataclass(frozen=True)
class Space:
    """A namespace of one test."""

    bed: Bed
    name: str

    def apply(self, *manifests: Json) -> None:
        self.bed.cluster.apply(*manifests, namespace=self.name)

    def start(self, *manifests: Json) -> None:
        """Apply and wait until every pod among them is Ready."""
        self.apply(*manifests)
        for manifest in manifests:
            if manifest["kind"] == "Pod":
                self.ready(manifest["metadata"]["name"])

    def ready(self, name: str, seconds: int = 60) -> None:
        words = ("wait", "-n", self.name, "--for=condition=Ready", f"pod/{name}", f"--timeout={seconds}s")
        self.bed.cluster.kubectl(*words, seconds=seconds + 10)

    def execute(self, name: str, *command: str) -> str:
        return self.bed.cluster.kubectl("exec", "-n", self.name, name, "--", *command)

    def get(self, name: str) -> Json:
        found = self.bed.cluster.get(f"/api/v1/namespaces/{self.name}/pods/{name}")
        assert found is not None
        return found

    def address(self, name: str) -> str:
        return self.addresses(name)[0]

    def addresses(self, name: str) -> list[str]:
        """The pod's addresses, IPv4 first."""
        return [str(entry["ip"]) for entry in self.get(name)["status"]["podIPs"]]


@pytest.fixture(scope="session", autouse=True)
def alone() -> Iterator[None]:
    """Two runs of these tests on one machine would take down each other's testbeds: the second waits for the first."""
    with (Path(tempfile.gettempdir()) / "berth-cluster-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def bed(alone: None) -> Iterator[Bed]:
    """Up before the first test with the test tools loaded, down after the last."""
    made = Bed(1)
    made.run("up", seconds=1800)  # the first time, the programs are fetched or built
    archives = images.ensure(("testtools",), made.settings)
    made.run("load-image", *map(str, archives))
    yield made
    made.run("down")


@pytest.fixture
def space(bed: Bed) -> Iterator[Space]:
    """A namespace for one test."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    bed.cluster.kubectl("create", "namespace", name)
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait("the service account", lambda: bed.cluster.get(account), 20)
    yield Space(bed, name)
    bed.cluster.kubectl("delete", "namespace", name, "--wait=false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test brings the cluster up, and may have to build its programs: that is not the test's time."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(180, func_only=True))
