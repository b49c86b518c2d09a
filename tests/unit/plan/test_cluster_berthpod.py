"""A spec becomes a berth pod: what the node's agent and Pod Security rely on, and what the scheduler books."""

from __future__ import annotations

from typing import Any

import pytest

from berth.api.order import Emulation
from berth.plan.berthpod import berth_pod, freeze, overhead_bytes, pod_name, requests
from berth.plan.world import Cluster, Object, frozen_spec, read_pod, read_spec
from tests.unit.plan.cluster_worlds import CLUSTER, KERNEL, UID, machine

MIB = 1024 * 1024
DISKS: Any = [
    {"name": "root", "container": {"image": "example.org/debian:1", "pullPolicy": "Always"}},
    {"name": "data", "pvc": {"claimName": "data"}},
    {"name": "look", "pvc": {"claimName": "look"}, "readOnly": True},
    {"name": "scratch", "empty": {}, "size": "1Gi"},
]


def made(**spec: Any) -> Object:
    return berth_pod(machine(**spec), 3, CLUSTER)


def mounts(pod: Object) -> dict[str, str]:
    return {m["mountPath"]: m["name"] for m in pod["spec"]["containers"][0]["volumeMounts"]}


def test_the_mount_points_are_those_the_agent_knows() -> None:
    pod = made(disks=DISKS, cloudInit={"userDataFrom": {"secret": {"name": "s", "key": "k"}}})
    assert mounts(pod) == {
        "/run/berth": "run",
        "/berth/state": "state",
        "/berth/images/root": "image-root",
        "/berth/claims/data": "claim-data",
        "/berth/claims/look": "claim-look",
        "/berth/images/kernel": "image-kernel",
        "/berth/cloudinit": "cloudinit",
    }
    volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
    assert volumes["image-root"]["image"] == {"reference": "example.org/debian:1", "pullPolicy": "Always"}
    assert volumes["claim-look"]["persistentVolumeClaim"] == {"claimName": "look", "readOnly": True}
    source = volumes["cloudinit"]["projected"]["sources"][0]["secret"]
    assert source == {"name": "s", "items": [{"key": "k", "path": "userdata"}]}


def test_it_has_no_privilege_at_all() -> None:
    spec = made()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert "initContainers" not in spec
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    allowed = {"name", "emptyDir", "image", "persistentVolumeClaim", "projected"}
    assert {key for volume in spec["volumes"] for key in volume} <= allowed


def test_it_belongs_to_its_machine_and_carries_its_labels() -> None:
    pod = berth_pod(machine(metadata={"labels": {"app": "shop", "berth.dev/vm": "spoof"}}), 3, CLUSTER)
    meta = pod["metadata"]
    assert meta["labels"] == {
        "app": "shop",
        "app.kubernetes.io/component": "berth",
        "berth.dev/vm": "web",
        "berth.dev/vm-uid": UID,
        "berth.dev/eviction": "guarded",
    }
    assert meta["ownerReferences"][0]["uid"] == UID
    assert meta["annotations"]["berth.dev/epoch"] == "3"


@pytest.mark.parametrize("name", ["web", "a" * 63, "b" * 253, "x." * 100 + "y"])
def test_names_fit(name: str) -> None:
    pod = berth_pod(machine(name), 1, CLUSTER)
    assert len(pod["metadata"]["name"]) <= 63
    assert len(pod["metadata"]["labels"]["berth.dev/vm"]) <= 63
    assert pod["metadata"]["name"][-1].isalnum()
    assert pod_name(name) != pod_name(name + "z")


def test_the_scheduler_books_the_guests_memory_and_qemus() -> None:
    spec, _ = read_spec({**KERNEL, "memory": {"size": "1Gi"}, "cpu": {"count": 2}, "display": {"type": "VNC"}})
    assert spec is not None
    assert overhead_bytes(spec) == (64 + 16 + 2 + 16) * MIB
    assert requests(spec) == {"cpu": "200m", "memory": "1122Mi"}


def test_cpu_can_be_asked_for() -> None:
    assert made(cpu={"count": 8, "request": "2"})["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "2"


def test_the_grace_period_leaves_the_last_word_to_the_agent() -> None:
    assert made(shutdown={"gracePeriodSeconds": 7})["spec"]["terminationGracePeriodSeconds"] == 12


def test_probes_and_placement_are_passed_on() -> None:
    tolerations = [{"operator": "Exists"}]
    pod = made(
        probes={"readiness": {"tcpSocket": {"port": 22}}, "startup": {"httpGet": {"port": 80, "path": "/up"}}},
        placement={"nodeSelector": {"disk": "ssd"}, "tolerations": tolerations, "priorityClassName": "high"},
    )
    container = pod["spec"]["containers"][0]
    assert container["readinessProbe"]["tcpSocket"] == {"port": 22}
    assert container["startupProbe"]["httpGet"]["path"] == "/up"
    assert "livenessProbe" not in container
    assert pod["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert pod["spec"]["tolerations"] == tolerations
    assert pod["spec"]["priorityClassName"] == "high"


def test_without_emulation_only_nodes_with_kvm_will_do() -> None:
    pod = berth_pod(machine(placement={"nodeSelector": {"a": "b"}}), 1, Cluster("i", "Never", Emulation.NEVER))
    assert pod["spec"]["nodeSelector"] == {"a": "b", "berth.dev/kvm": "true"}
    assert pod["metadata"]["annotations"]["berth.dev/emulation"] == "Never"


def test_the_frozen_spec_comes_back_as_it_was() -> None:
    given = machine(disks=DISKS, cpu={"count": 2})
    assert given.spec is not None
    back = frozen_spec(read_pod({**berth_pod(given, 1, CLUSTER), "status": {}} | {"metadata": _stored(given)}))
    assert back == given.spec
    assert freeze(back) == freeze(given.spec)


def _stored(given: Any) -> Object:
    return {**berth_pod(given, 1, CLUSTER)["metadata"], "uid": "u"}


def test_a_disk_may_not_take_the_kernels_place() -> None:
    broken = machine(disks=[{"name": "kernel", "container": {"image": "i"}}])
    assert broken.spec is None
    assert "spec.disks" in broken.problem
    assert "kernel" in broken.problem


def test_a_spoiled_annotation_is_no_spec() -> None:
    manifest = made()
    manifest["metadata"] |= {"uid": "u"}
    manifest["metadata"]["annotations"]["berth.dev/machine"] = '{"memory": 3}'
    assert frozen_spec(read_pod(manifest)) is None
