"""The generated definition on a real API server: accepted within its cost limits, complete, as strict as the models.

It is installed under a group of its own, so that whatever is installed on the cluster is left alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from berth.api import crd
from testbed.kube import ROOT, Cluster, wait
from tests.unit.api.bad_inputs import Bad, good, manifest
from tests.unit.api.bad_kinds import ROWS
from tests.unit.api.bad_migrations import migration
from tests.unit.api.bad_networks import network
from tests.unit.api.bad_snapshots import snapshot

GROUP = f"t{uuid.uuid4().hex[:6]}.test.berth.dev"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The running cluster with the definition under test."""
    subprocess.run([sys.executable, "-m", "testbed", "up"], cwd=ROOT, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "kubeconfig"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    found = Cluster(Path(done.stdout.strip()))
    names = [_install(found, kind) for kind in crd.KINDS]
    yield found
    found.kubectl("delete", "crd", *names)


def _install(cluster: Cluster, kind: crd.Kind) -> str:
    definition = crd.definition(kind)
    name = definition["metadata"]["name"] = f"{kind.plural}.{GROUP}"
    definition["spec"]["group"] = GROUP
    definition["spec"]["names"] |= {"shortNames": [], "categories": []}
    cluster.apply(definition)
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
    wait("the kind is served", lambda: kind.plural in cluster.kubectl("api-resources", f"--api-group={GROUP}"), 30)
    return name


def create(cluster: Cluster, data: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    text = yaml.safe_dump({**data, "apiVersion": f"{GROUP}/v1alpha1"})
    return cluster.run("kubectl", "create", "--dry-run=server", "-o", "json", "-f", "-", stdin=text)


@pytest.mark.parametrize(("kind", "bad"), ROWS)
def test_bad_input_is_refused_by_the_api_server(cluster: Cluster, kind: str, bad: Bad) -> None:
    done = create(cluster, manifest(bad.spec, kind=kind))
    assert done.returncode != 0, done.stdout
    assert bad.path in done.stderr
    for words in bad.server or bad.said:
        assert words in done.stderr


def test_a_snapshot_is_taken_with_its_defaults_and_never_changed(cluster: Cluster) -> None:
    name = f"fixed-{uuid.uuid4().hex[:8]}"
    cluster.apply({**manifest(snapshot(), name, kind="Snapshot"), "apiVersion": f"{GROUP}/v1alpha1"})
    made = json.loads(cluster.kubectl("get", f"snapshots.{GROUP}", name, "-o", "json"))
    assert made["spec"] == {"vm": "web", "memory": True, "deadline": "30m"}
    for change in ({"vm": "db"}, {"memory": False}, {"deadline": "1h"}):
        patch = ("kubectl", "patch", f"snapshots.{GROUP}", name, "--type=merge", "-p", json.dumps({"spec": change}))
        done = cluster.run(*patch)
        assert done.returncode != 0
        assert "cannot be changed" in done.stderr


def test_a_migration_is_taken_with_its_defaults(cluster: Cluster) -> None:
    done = create(cluster, manifest(migration(target={"nodeName": "b"}, bandwidth="1G"), kind="Migration"))
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)["spec"]
    assert (spec["deadline"], spec["maxDowntime"], spec["priority"]) == ("30m", "300ms", "User")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vm": "db"}, "cannot be changed"),
        ({"deadline": "1h"}, "cannot be changed"),
        ({"target": {"nodeName": "b"}}, "cannot be added"),
        ({"bandwidth": "1G"}, "cannot be added"),
        ({"cancel": True}, ""),
    ],
)
def test_only_the_cancelling_of_a_migration_can_be_changed(
    cluster: Cluster, change: dict[str, Any], words: str
) -> None:
    name = f"fixed-{uuid.uuid4().hex[:8]}"
    cluster.apply({**manifest(migration(), name, kind="Migration"), "apiVersion": f"{GROUP}/v1alpha1"})
    patch = ("kubectl", "patch", f"migrations.{GROUP}", name, "--type=merge", "-p", json.dumps({"spec": change}))
    done = cluster.run(*patch)
    assert (done.returncode == 0) == (not words), done.stderr
    assert words in done.stderr
    undone = cluster.run(*patch[:-1], json.dumps({"spec": {"cancel": False}}))
    assert (undone.returncode == 0) == bool(words), undone.stderr


def test_a_network_is_taken(cluster: Cluster) -> None:
    spec = network(ipv6={"range": "fd00:9::/64", "gateway": "fd00:9::1"}, ipv4={"range": "10.9.0.0/24",
                   "exclude": ["10.9.0.0/28", "10.9.0.77"]}, egress={"type": "NAT"}, dns=["fd00::1"])  # fmt: skip
    done = create(cluster, manifest(spec, kind="Network"))
    assert done.returncode == 0, done.stderr


def test_a_small_manifest_is_filled_with_defaults(cluster: Cluster) -> None:
    done = create(cluster, manifest(good()))
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)["spec"]
    assert (spec["power"], spec["cpu"]["count"], spec["memory"]["size"]) == ("On", 1, "512Mi")
    (nic,) = spec["nics"]
    assert (nic["name"], nic["pod"], nic["model"]) == ("default", {}, "virtio")
    assert (nic["link"], nic["queues"], nic["antiSpoofing"]) == ("Up", 1, True)
    assert spec["disks"][0]["bus"] == "virtio"


@pytest.mark.parametrize(("word", "kept"), [("On", True), ("Off", False), ('"Off"', "Off"), ("Paused", "Paused")])
def test_bare_power_words_are_taken_as_kubectl_reads_them(cluster: Cluster, word: str, kept: Any) -> None:
    text = yaml.safe_dump({**manifest(good()), "apiVersion": f"{GROUP}/v1alpha1"}) + f"  power: {word}\n"
    done = cluster.run("kubectl", "create", "--dry-run=server", "-o", "json", "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spec"]["power"] == kept


@pytest.mark.parametrize("name", ["a" * 63, ".".join(["a" * 62] * 4)])
def test_long_names_are_taken(cluster: Cluster, name: str) -> None:
    assert create(cluster, manifest(good(), name)).returncode == 0


def test_a_name_that_is_too_long_is_refused(cluster: Cluster) -> None:
    assert "no more than 253" in create(cluster, manifest(good(), "a" * 254)).stderr


def test_a_manifest_of_one_megabyte_is_answered(cluster: Cluster) -> None:
    done = create(cluster, manifest(good(placement={"affinity": {"x": "y" * 2**20}})))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("part", ["spec", "status"])
def test_explain_knows_every_field(cluster: Cluster, part: str) -> None:
    words = ("explain", f"virtualmachines.{part}", f"--api-version={GROUP}/v1alpha1", "--recursive")
    shown = wait("explain", lambda: cluster.run("kubectl", *words).stdout, 30)
    version = crd.definition(crd.VIRTUAL_MACHINE)["spec"]["versions"][0]
    for name in _names(version["schema"]["openAPIV3Schema"]["properties"][part]):
        assert f"{name}\t<" in shown


def _names(schema: crd.Schema) -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        yield name
        yield from _names(inner.get("items", inner))
