"""The cluster with Berth installed, a namespace per test that must come clean away, and a client pod."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.kube import CLIENT, ROOT, VMS, Cluster, Json, Machine, wait


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The running cluster with Berth installed: brought up when it is not there, by one test process for all."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(uuid.uuid4()))  # the same in all processes of a run
    with (Path(tempfile.gettempdir()) / "berth-e2e.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if lock.read() != run:
            for step in (["up"], ["install"]):
                subprocess.run([sys.executable, "-m", "testbed", *step], cwd=ROOT, check=True)
            lock.truncate(0)
            lock.write(run)
    out = subprocess.run(
        [sys.executable, "-m", "testbed", "kubeconfig"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    found = Cluster(Path(out.strip()))
    _client(found)
    return found


def _client(cluster: Cluster) -> None:
    namespace, name = CLIENT
    container: Json = {
        "name": "main",
        "image": "ghcr.io/berth-dev/testtools:dev",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "86400"],
    }
    pod: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    }
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, pod)
    cluster.kubectl("wait", "--for=condition=Ready", "-n", namespace, f"pod/{name}", "--timeout=60s", seconds=70)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own; whatever it holds must come clean away within a minute."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    yield name
    for vm in cluster.items(VMS.format(ns=name)):
        cluster.kubectl("delete", "vm", "-n", name, vm["metadata"]["name"], "--wait=false")
    wait("the machines are gone", lambda: not cluster.items(VMS.format(ns=name)), 60)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def make(cluster: Cluster, namespace: str) -> Callable[..., Machine]:
    """Apply a VirtualMachine manifest in the test's namespace."""

    def apply(manifest: dict[str, Any]) -> Machine:
        cluster.apply(manifest, namespace=namespace)
        return Machine(cluster, namespace, manifest["metadata"]["name"])

    return apply


@pytest.fixture
def shared(cluster: Cluster, namespace: str) -> Iterator[str]:
    """A claim on a folder that all nodes of the built-in cluster have."""
    name = f"e2e-states-{uuid.uuid4().hex[:8]}"
    size = {"storage": "1Gi"}
    volume: Json = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": size,
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"/var/tmp/{name}", "type": "DirectoryOrCreate"},
        },
    }
    claim: Json = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "states"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": name,
            "resources": {"requests": size},
        },
    }
    cluster.apply(volume)
    cluster.apply(claim, namespace=namespace)
    yield "states"
    cluster.kubectl("delete", "pv", name, "--wait=false")
