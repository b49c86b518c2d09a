"""The chart, rendered by Helm and judged by a real API server: no value leads to an object that it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed.kube import ROOT, Cluster

CHART = str(ROOT / "charts" / "berth")
VARIANTS = {
    "defaults": (),
    "emulation": ("emulation=Auto", "controller.labelNodes=false"),
    "single": ("controller.replicas=1", "controller.podDisruptionBudget=false"),
    "images": ("image.agent=example.org/agent@sha256:" + "0" * 64, "image.pullSecrets[0]=registry"),
    "policies": ("networkPolicy.enabled=true", "rbac.aggregate=false", "crds.install=false"),
    "placement": ("agent.tolerations=null", "controller.nodeSelector.role=system", "agent.maxUnavailable=20%"),
    "address": ("agent.enrollUrl=https://enroll.example.org/v1/enroll", "agent.port=9553", "enroll.port=9443"),
}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    subprocess.run([sys.executable, "-m", "testbed", "up"], cwd=ROOT, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "kubeconfig"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return Cluster(Path(done.stdout.strip()))


def helm(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    return cluster.run("helm", *words)


def test_helm_finds_nothing_to_complain_about(cluster: Cluster) -> None:
    done = helm(cluster, "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", VARIANTS)
def test_the_api_server_takes_every_object(cluster: Cluster, name: str) -> None:
    chosen = [word for value in VARIANTS[name] for word in ("--set", value)]
    done = helm(cluster, "template", "berth", CHART, "-n", "default", "--kube-version", "1.36.3", *chosen)
    assert done.returncode == 0, done.stderr
    cluster.kubectl("apply", "-n", "default", "--dry-run=server", "--validate=strict", "-f", "-", stdin=done.stdout)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("emulation=auto", "Never"),
        ("emulaton=Auto", "emulaton"),
        ("controller.replicas=0", "minimum"),
        ("agent.port=99999", "maximum"),
    ],
)
def test_a_wrong_value_is_refused_by_name(cluster: Cluster, value: str, said: str) -> None:
    done = helm(cluster, "template", "berth", CHART, "--kube-version", "1.36.3", "--set", value)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_definitions_stay_when_the_release_goes(cluster: Cluster) -> None:
    done = helm(cluster, "template", "berth", CHART, "--kube-version", "1.36.3", "-s", "templates/crds.yaml")
    assert "helm.sh/resource-policy: keep" in done.stdout
