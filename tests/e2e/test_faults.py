"""For each injected fault the VirtualMachine itself names the cause and the next step within ten seconds.

Each row: the fault, the condition that turns False, and words its message must hold: what is wrong, by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from testbed.kube import SYSTEM, Cluster, Json, Machine, tiny, wait

Make = Callable[..., Machine]
IMAGE = "ghcr.io/berth-dev/guest-tiny:dev"
TOOLS = "ghcr.io/berth-dev/testtools:dev"


def kernel(**changes: Any) -> Json:
    return {"boot": {"kernel": {"image": IMAGE, "initrdPath": "/boot/initrd", "args": "console=ttyS0", **changes}}}


def claim(name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}, **spec},
    }


def disk(**source: Any) -> Json:
    return {"disks": [{"name": "data", **source}]}


@dataclass(frozen=True)
class Fault:
    """What is wrong with the manifest or its surroundings, and what the machine has to say of it."""

    name: str
    spec: Json
    condition: str
    says: str
    before: tuple[Json, ...] = field(default=())


QUOTA: Json = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "small"},
    "spec": {"hard": {"requests.memory": "64Mi"}},
}
LIMITS: Json = {
    "apiVersion": "v1",
    "kind": "LimitRange",
    "metadata": {"name": "small"},
    "spec": {"limits": [{"type": "Container", "max": {"memory": "64Mi"}}]},
}
SQUATTER: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "berth-vm"},
    "spec": {
        "containers": [{"name": "main", "image": TOOLS, "command": ["sleep", "3600"]}],
        "terminationGracePeriodSeconds": 0,
    },
}

FAULTS = [
    Fault(
        "no node fits",
        {"placement": {"nodeSelector": {"disk": "none-such"}}},
        "PlacementReady",
        r"node.*(selector|affinity)",
    ),
    Fault("memory above every node", {"memory": {"size": "4Ti"}}, "PlacementReady", r"[Ii]nsufficient memory"),
    Fault("cpu above every node", {"cpu": {"request": "4000"}}, "PlacementReady", r"[Ii]nsufficient cpu"),
    Fault("priority class missing", {"placement": {"priorityClassName": "none-such"}}, "PlacementReady", r"none-such"),
    Fault("kernel image missing", kernel(image="registry.invalid/none:1"), "DisksReady", r"registry\.invalid/none:1"),
    Fault(
        "disk image missing",
        disk(container={"image": "registry.invalid/no-disk:1"}),
        "DisksReady",
        r"registry\.invalid/no-disk:1",
    ),
    Fault("kernel path wrong", kernel(kernelPath="/boot/none-such"), "DisksReady", r"/boot/none-such"),
    Fault("initrd path wrong", kernel(initrdPath="/boot/no-initrd"), "DisksReady", r"/boot/no-initrd"),
    Fault("disk path wrong", disk(container={"image": IMAGE, "path": "/no.qcow2"}), "DisksReady", r"/no\.qcow2"),
    Fault(
        "disk path leads out of the image",
        disk(container={"image": IMAGE, "path": "/../../etc/passwd"}),
        "DisksReady",
        r"etc/passwd",
    ),
    Fault("not a disk image", disk(container={"image": IMAGE, "path": "/boot"}), "DisksReady", r"/boot"),
    Fault("claim missing", disk(pvc={"claimName": "none-such"}), "DisksReady", r"none-such"),
    Fault(
        "claim unbound",
        disk(pvc={"claimName": "waits"}),
        "DisksReady",
        r"waits",
        (claim("waits", storageClassName="none-such"),),
    ),
    Fault("quota exceeded", {}, "PlacementReady", r"quota.*small|small.*quota", (QUOTA,)),
    Fault("limit range", {}, "PlacementReady", r"memory limit of 64Mi", (LIMITS,)),
    Fault("name taken", {}, "PlacementReady", r"berth-vm", (SQUATTER,)),
    Fault(
        "secret missing", {"cloudInit": {"userDataFrom": {"secret": {"name": "no-secret"}}}}, "DisksReady", r"no-secret"
    ),
    Fault(
        "config map missing",
        {"cloudInit": {"userDataFrom": {"configMap": {"name": "no-map"}}}},
        "DisksReady",
        r"no-map",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name.replace(" ", "-"))
def test_the_machine_names_cause_and_next_step(cluster: Cluster, namespace: str, make: Make, fault: Fault) -> None:
    if fault.before:
        cluster.apply(*fault.before, namespace=namespace)
    vm = make(tiny("vm", **fault.spec))

    def told() -> Json:
        c = vm.condition(fault.condition)
        return c if c.get("status") == "False" and re.search(fault.says, c.get("message", "")) else {}

    try:
        found = wait(fault.name, told, 10)
    except AssertionError as error:
        raise AssertionError(f"{error}; {vm.status()}") from None
    assert re.fullmatch(r"[A-Z][A-Za-z]+", found["reason"])
    ready = vm.condition("Ready")
    assert ready["status"] == "False"
    assert re.search(fault.says, vm.status()["message"])
    assert cluster.berth("why", "vm", "-n", namespace).returncode != 0


def test_an_unknown_field_is_refused_by_name(cluster: Cluster, namespace: str) -> None:
    manifest = tiny("typo", memroy={"size": "1Gi"})
    done = cluster.run("kubectl", "apply", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
    assert done.returncode != 0
    assert 'unknown field "spec.memroy"' in done.stderr


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"memory": {"size": "-1Gi"}}, r"spec\.memory\.size"),
        ({"memory": {"size": "12 apples"}}, r"spec\.memory\.size"),
        ({"cpu": {"count": 0}}, r"spec\.cpu\.count.*greater than or equal to 1"),
        ({"cpu": {"count": 999}}, r"spec\.cpu\.count.*less than or equal to 255"),
        ({"power": "on"}, r"spec\.power.*On"),
        ({"disks": [{"name": "a", "size": "1Gi"}]}, r"spec\.disks\[0\].*exactly one"),
        ({"disks": [{"name": "a", "empty": {}}]}, r"spec\.disks\[0\].*size"),
        ({"disks": [{"name": "a", "empty": {}, "size": "1Gi"}] * 2}, r"spec\.disks\[1\].*[Dd]uplicate"),
        ({"disks": [{"name": n, "empty": {}, "size": "1Gi", "bootOrder": 1} for n in "ab"]}, r"spec\.disks.*bootOrder"),
        ({"nics": [{"name": "n", "pod": {}, "mac": "01:00:5e:00:00:01"}]}, r"spec\.nics\[0\]\.mac"),
        ({"cloudInit": {"userData": "a", "userDataFrom": {"secret": {"name": "b"}}}}, r"spec\.cloudInit.*only one"),
    ],
)
def test_the_api_server_refuses(cluster: Cluster, namespace: str, spec: Json, says: str) -> None:
    done = cluster.run("kubectl", "apply", "-n", namespace, "-f", "-", stdin=json.dumps(tiny("bad", **spec)))
    assert done.returncode != 0
    assert re.search(says, done.stderr), done.stderr


@contextmanager
def without_agent(cluster: Cluster, node: str) -> Iterator[None]:
    """The agent's pod is taken off one node, and put back."""
    cluster.kubectl("label", "node", node, "berth.dev/exclude=true", "--overwrite")
    try:
        wait("the agent is gone", lambda: not _agents(cluster, node), 60)
        yield
    finally:
        cluster.kubectl("label", "node", node, "berth.dev/exclude-")
        wait("the agent is back", lambda: _agents(cluster, node), 60)


def _agents(cluster: Cluster, node: str) -> list[Json]:
    pods = cluster.items(f"/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io/component%3Dagent")
    return [p for p in pods if p["spec"].get("nodeName") == node]


@pytest.mark.disruptive
def test_agent_down(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("vm"))
    node = vm.wait_up()["node"]
    boot = vm.boot_id()
    with without_agent(cluster, node):
        found = vm.wait_condition("AgentConnected", "False", seconds=15)
        assert node in found["message"]
        assert vm.boot_id() == boot
    vm.wait_condition("AgentConnected", "True", seconds=60)
    assert vm.boot_id() == boot


@pytest.mark.disruptive
def test_libvirt_down(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("vm"))
    node = vm.wait_up()["node"]
    cluster.signal(node, "STOP", "-x", "libvirtd")
    try:
        vm.wait_condition("AgentConnected", "False", "HypervisorDown", seconds=12)
        assert "libvirt" in vm.condition("AgentConnected")["message"]
    finally:
        cluster.signal(node, "CONT", "-x", "libvirtd")
    vm.wait_condition("AgentConnected", "True", seconds=60)


def test_a_corrupt_disk_file_on_a_claim(cluster: Cluster, namespace: str, make: Make) -> None:
    writer: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "writer"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "main",
                    "image": TOOLS,
                    "command": ["sh", "-c", r"printf 'QFI\373garbage' > /v/disk.img; chmod 600 /v/disk.img"],
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                }
            ],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "bad"}}],
        },
    }
    cluster.apply(claim("bad"), writer, namespace=namespace)
    pod = f"/api/v1/namespaces/{namespace}/pods/writer"
    wait("the file is written", lambda: (cluster.get(pod) or {})["status"]["phase"] == "Succeeded", 60)
    vm = make(tiny("vm", **disk(pvc={"claimName": "bad"})))
    found = vm.wait_condition("DisksReady", "False", "ImageCorrupt", seconds=15)
    assert "disk.img" in found["message"]
    assert "data" in found["message"]


@pytest.mark.disruptive
def test_kvm_demanded_but_not_usable(cluster: Cluster, make: Make) -> None:
    deployment = ("-n", SYSTEM, "deployment/berth-controller")
    cluster.kubectl("set", "env", *deployment, "BERTH_EMULATION=Never")
    cluster.kubectl("rollout", "status", *deployment, "--timeout=120s", seconds=130)
    try:
        vm = make(tiny("vm"))
        found = vm.wait_condition("PlacementReady", "False", seconds=30)
        assert re.search(r"KVM", found["message"])
        assert re.search(r"emulation", found["message"])
    finally:
        cluster.kubectl("set", "env", *deployment, "BERTH_EMULATION=Auto")
        cluster.kubectl("rollout", "status", *deployment, "--timeout=120s", seconds=130)
