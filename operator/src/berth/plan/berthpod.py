"""A machine's spec → the berth pod that holds its place: CPU, memory, network, volumes, probes. Called by cluster.py.

The node's agent relies on the mount points below; orders.py names them in the Order. The pod has one container and no
privilege at all: Pod Security's "restricted" level admits it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from berth.api.devices import Disk, Nic
from berth.api.kubernetes import Placement, Probe
from berth.api.order import Emulation
from berth.api.quantity import to_bytes
from berth.api.virtualmachine import VirtualMachineSpec
from berth.plan import affinity, evicting, networks, revert_request, savedclaim
from berth.plan.hardware import Hardware, to_text
from berth.plan.world import (
    COMPONENT,
    COMPONENT_LABEL,
    EMULATION,
    EPOCH,
    GATE,
    GUARD,
    GUARDED,
    HARDWARE,
    KVM_LABEL,
    MACHINE,
    RESTARTED_AT,
    VM_LABEL,
    VM_UID_LABEL,
    Cluster,
    Machine,
    Object,
    owner_reference,
)

CONTAINER: Final = "berth"
RUN: Final = "/run/berth"
STATE: Final = "/berth/state"
IMAGES: Final = "/berth/images"
CLAIMS: Final = "/berth/claims"
CLOUD_INIT: Final = "/berth/cloudinit"
SAVED: Final = "/berth/saved"
USER_DATA: Final = "userdata"
MULTUS: Final = "k8s.v1.cni.cncf.io/networks"
KERNEL: Final = "kernel"
"""The kernel's name among the images: no disk from a container image may have it (the models see to that)."""
USER: Final = 65532
GRACE_EXTRA: Final = 5
"""kubelet gives the guest's own grace period and so many seconds more, so that the agent cuts it off, not kubelet."""
MIB: Final = 1024 * 1024


def pod_name(machine: str) -> str:
    """``berth-<machine>``; shortened with a hash where a label or host name could not hold it."""
    return _fit(f"berth-{machine}")


def _fit(name: str) -> str:
    if len(name) <= 63:
        return name
    return f"{name[:52].rstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def hostname(machine: str, spec: VirtualMachineSpec) -> str:
    """The guest's host name, and its pod's: what cluster DNS knows it by in spec.subdomain."""
    return spec.hostname or machine.split(".")[0][:63].rstrip("-")


def overhead_bytes(spec: VirtualMachineSpec) -> int:
    """What QEMU needs beside the guest's memory: 64 MiB, 8 MiB for each CPU, 1/512 for page tables, 16 MiB for VNC."""
    screen = 16 * MIB if spec.display.type.value == "VNC" else 0
    return 64 * MIB + 8 * MIB * spec.cpu.count + to_bytes(spec.memory.size) // 512 + screen


def requests(spec: VirtualMachineSpec) -> dict[str, str]:
    """What the scheduler books: the guest's memory with QEMU's overhead, and a tenth of a CPU for each virtual one."""
    memory = to_bytes(spec.memory.size) + overhead_bytes(spec)
    return {"cpu": spec.cpu.request or f"{100 * spec.cpu.count}m", "memory": f"{-(-memory // MIB)}Mi"}


def berth_pod(
    machine: Machine, epoch: int, cluster: Cluster, hardware: Hardware | None = None, unlike: Iterable[str] = ()
) -> Object:
    """The whole manifest. ``unlike``: the nodes that cannot run this hardware."""
    spec = machine.spec
    assert spec is not None  # an unreadable spec is never planned
    volumes, mounts = _volumes(machine.name, spec)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(machine, spec, epoch, cluster, hardware),
        "spec": {
            "restartPolicy": "Never",
            "hostname": hostname(machine.name, spec),
            **({"subdomain": spec.subdomain} if spec.subdomain else {}),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": spec.shutdown.grace_period_seconds + GRACE_EXTRA,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(spec, cluster, mounts)],
            "volumes": volumes,
            **({"readinessGates": [{"conditionType": GATE}]} if machine.labels else {}),
            **_placement(spec.placement, cluster.emulation, unlike),
        },
    }


def _metadata(
    machine: Machine, spec: VirtualMachineSpec, epoch: int, cluster: Cluster, hardware: Hardware | None
) -> Object:
    """A machine's own labels go onto its pod, so that Services and NetworkPolicies select machines by them."""
    guarded = evicting.guarded(spec, spec, cluster)
    return {
        "name": pod_name(machine.name),
        "namespace": machine.namespace,
        "labels": {
            **machine.labels,
            COMPONENT_LABEL: COMPONENT,
            VM_LABEL: _fit(machine.name),
            VM_UID_LABEL: machine.uid,
            **({GUARD: GUARDED} if guarded else {}),
        },
        "annotations": {
            EPOCH: str(epoch),
            EMULATION: cluster.emulation.value,
            MACHINE: freeze(spec),
            **({HARDWARE: to_text(hardware)} if hardware is not None else {}),
            **_restart_request(machine),
            **revert_request.annotation(machine),
            **_multus(machine, spec),
            "kubectl.kubernetes.io/default-container": CONTAINER,
        },
        "ownerReferences": [owner_reference(machine)],
    }


def _restart_request(machine: Machine) -> dict[str, str]:
    """The last restart request, as given: this berth is its answer (history.restart_wanted)."""
    return {RESTARTED_AT: machine.annotations[RESTARTED_AT]} if machine.restarted_at else {}


def _multus(machine: Machine, spec: VirtualMachineSpec) -> dict[str, str]:
    """Multus' annotation: one further interface of the pod for each of the machine's that is on an attachment."""
    wanted = [
        {
            "name": nic.multus.name,
            "namespace": nic.multus.namespace or machine.namespace,
            "interface": attachment(spec.nics, nic.name),
            "mac": networks.mac_of(machine.uid, nic),
        }
        for nic in spec.nics
        if nic.multus is not None
    ]
    return {MULTUS: json.dumps(wanted, separators=(",", ":"))} if wanted else {}


def attachment(nics: Sequence[Nic], name: str) -> str:
    """The pod's name for an interface that Multus adds: net1, net2 …, in the order of the list."""
    return f"net{[nic.name for nic in nics if nic.multus is not None].index(name) + 1}"


def freeze(spec: VirtualMachineSpec) -> str:
    """The spec as the berth's annotation keeps it: what is not Live in it holds until the next start."""
    content = spec.model_dump(mode="json", by_alias=True, exclude_none=True)  # with defaults: a later version's differ
    return json.dumps(content, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _container(spec: VirtualMachineSpec, cluster: Cluster, mounts: list[Object]) -> Object:
    container: Object = {
        "name": CONTAINER,
        "image": cluster.berth_image,
        "imagePullPolicy": cluster.berth_pull_policy,
        "stdin": True,
        "tty": True,
        "resources": _resources(spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    for kind in ("startup", "readiness", "liveness"):
        probe: Probe | None = getattr(spec.probes, kind)
        if probe is not None:
            container[f"{kind}Probe"] = probe.model_dump(mode="json", by_alias=True, exclude_none=True)
    return container


def _resources(spec: VirtualMachineSpec) -> Object:
    """Device plugins' resources are given whole: request and limit are the same."""
    devices = Counter(nic.device.resource for nic in spec.nics if nic.device is not None)
    whole = {resource: str(count) for resource, count in sorted(devices.items())}
    limits = {"limits": whole} if whole else {}
    return {"requests": {**requests(spec), **whole}, **limits}


def _placement(placement: Placement, emulation: Emulation, unlike: Iterable[str]) -> Object:
    fields = placement.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    if emulation is Emulation.NEVER:
        fields["nodeSelector"] = {**fields.get("nodeSelector", {}), KVM_LABEL: "true"}
    if away := [affinity.beyond(node) for node in sorted(unlike)]:
        fields["affinity"] = affinity.required(fields.get("affinity"), away)
    return fields


def _volumes(machine: str, spec: VirtualMachineSpec) -> tuple[list[Object], list[Object]]:
    """Volumes and their mounts, in step."""
    pairs = [
        ({"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, RUN, False),
        ({"name": "state", "emptyDir": {}}, STATE, False),
    ]
    pairs += [pair for disk in spec.disks if (pair := _disk(disk)) is not None]
    if spec.saved_state is not None:
        claim = {"claimName": savedclaim.name(machine, spec.saved_state)}
        pairs.append(({"name": "saved", "persistentVolumeClaim": claim}, SAVED, False))
    kernel = spec.boot.kernel
    if kernel is not None:
        pairs.append((_image(KERNEL, kernel.image, kernel.pull_policy), f"{IMAGES}/{KERNEL}", True))
    if spec.cloud_init is not None and spec.cloud_init.user_data_from is not None:
        pairs.append((_user_data(spec.cloud_init.user_data_from), CLOUD_INIT, True))
    mounts = [{"name": v["name"], "mountPath": path, **({"readOnly": True} if ro else {})} for v, path, ro in pairs]
    return [volume for volume, _, _ in pairs], mounts


def _disk(disk: Disk) -> tuple[Object, str, bool] | None:
    if disk.container is not None:
        return _image(disk.name, disk.container.image, disk.container.pull_policy), f"{IMAGES}/{disk.name}", True
    if disk.pvc is not None:
        claim = {"claimName": disk.pvc.claim_name, **({"readOnly": True} if disk.read_only else {})}
        return {"name": f"claim-{disk.name}", "persistentVolumeClaim": claim}, f"{CLAIMS}/{disk.name}", disk.read_only
    return None  # an empty disk is a file in the state folder


def _image(name: str, reference: str, policy: Any) -> Object:
    pull = {"pullPolicy": policy.value} if policy is not None else {}
    return {"name": f"image-{name}", "image": {"reference": reference, **pull}}


def _user_data(source: Any) -> Object:
    """One projected file, readable by root alone: the agent reads it, the berth's process does not."""
    reference = source.secret or source.config_map
    kind = "secret" if source.secret is not None else "configMap"
    projection = {"name": reference.name, "items": [{"key": reference.key, "path": USER_DATA}]}
    return {"name": "cloudinit", "projected": {"defaultMode": 0o400, "sources": [{kind: projection}]}}
