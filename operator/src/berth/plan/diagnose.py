"""What other components say about a berth → one cause in a user's words, with the next step. Pure tables.

Inputs are the API server's refusals, the scheduler's message, the container's waiting reason and the pod's Events, all
of them English text: each table row has a pattern, a stable reason and what to do. Called by conditions.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from berth.api.order import Emulation
from berth.api.virtualmachine import ConditionType, VirtualMachineSpec
from berth.plan import compatible, hardware
from berth.plan.world import Cluster, Pod, PodEvent, Refusal


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a prerequisite is missing."""

    type: ConditionType
    reason: str
    message: str


Rows = Sequence[tuple[str, str, str]]
"""Pattern, reason, next step."""

REFUSALS: Final[Rows] = (
    (r"exceeded quota", "QuotaExceeded", "free some of the quota, raise it, or make the machine smaller"),
    (r"failed quota.*must specify", "QuotaNeedsLimits", "give the namespace a LimitRange with defaults for these"),
    (
        r"(maximum|minimum) .* per (Pod|Container)|ratio per (Pod|Container)|less than or equal to (memory|cpu) limit",
        "LimitRangeViolation",
        "change spec.memory.size or spec.cpu, or the namespace's LimitRange",
    ),
    (
        r"violates PodSecurity",
        "PodSecurityViolation",
        "let the namespace's pod-security.kubernetes.io/enforce level admit berths",
    ),
    (r"no PriorityClass", "PriorityClassMissing", "create it, or change spec.placement.priorityClassName"),
    (r"being terminated", "NamespaceTerminating", "wait until the namespace is gone and create the machine anew"),
    (r"admission webhook", "WebhookRefused", "ask the owner of that webhook to admit berth pods"),
    (r"serviceaccount .* not found", "ServiceAccountMissing", "wait until the namespace is set up"),
    (r"is invalid", "BerthInvalid", "mend the field of the machine's spec that is named here"),
)

_CPU = "change spec.cpu or spec.machineType, or add a node that can"
_NODES = "change spec.placement, or the nodes"
SCHEDULING: Final[Rows] = (
    (r"Insufficient memory", "InsufficientMemory", "make spec.memory.size smaller, or give the cluster memory"),
    (r"Insufficient cpu", "InsufficientCpu", "make spec.cpu smaller, or give the cluster CPUs"),
    (r"Insufficient|Too many pods", "InsufficientResources", "free some on the nodes, or add a node"),
    (r"node affinity|node selector|affinity/selector|pod (anti-)?affinity", "NoNodeMatches", _NODES),
    (r"topology spread", "NoNodeMatches", _NODES),
    (r"taint", "NodesTainted", "tolerate the taints in spec.placement.tolerations, or take them off the nodes"),
    (r"unschedulable", "NodesCordoned", "uncordon a node"),
    (r"no nodes available|0/0 nodes", "NoNodes", "add a node"),
)

_VOLUMES: Final[Rows] = (
    (r'persistentvolumeclaim "(?P<name>[^"]+)" not found', "ClaimMissing", "create the claim {name}"),
    (
        r'persistentvolumeclaim "(?P<name>[^"]+)" (is )?being deleted',
        "ClaimBeingDeleted",
        "name another claim in spec.disks, or create {name} anew",
    ),
    (
        r"unbound immediate PersistentVolumeClaims|didn't find available persistent volumes|"
        r"storage ?class|volume node affinity conflict|did not have enough free storage",
        "ClaimUnbound",
        "see the claim's Events: it needs a StorageClass that exists and a volume that fits",
    ),
    (r'secret "(?P<name>[^"]+)" not found', "SecretMissing", "create the Secret {name}"),
    (r'configmap "(?P<name>[^"]+)" not found', "ConfigMapMissing", "create the ConfigMap {name}"),
    (
        r"references non-existent (secret|config) key: (?P<name>\S+)",
        "KeyMissing",
        "add the key {name}, or change spec.cloudInit.userDataFrom",
    ),
    (r"Multi-Attach|already (used|attached)", "ClaimInUse", "stop the other user of the volume"),
)

_IMAGE_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "RegistryUnavailable",
        "ImageInspectError",
        "SignatureValidationFailed",
        "ImageVolumeMountFailed",
    }
)
_CLEAN_START: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


def _find(rows: Rows, text: str) -> tuple[str, str] | None:
    for pattern, reason, step in rows:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            return reason, step.format(**found.groupdict())
    return None


def refused(refusal: Refusal) -> Cause:
    """The API server would not have the berth pod."""
    reason, step = _find(REFUSALS, refusal.message) or ("BerthRefused", "see the message")
    message = f"The API server refuses the berth pod: {refusal.message}. Next: {step}."
    return Cause(ConditionType.PLACEMENT_READY, reason, message)


def name_taken(pod: Pod) -> Cause:
    message = (
        f"A pod {pod.name} that is not this machine's berth is in the way. Next: delete that pod, or give the machine "
        "another name."
    )
    return Cause(ConditionType.PLACEMENT_READY, "NameTaken", message)


def unscheduled(pod: Pod, spec: VirtualMachineSpec | None, cluster: Cluster) -> Cause | None:
    """Why the scheduler finds no node."""
    if pod.scheduling is None:
        return None
    reason, said = pod.scheduling
    said = said.split(". ")[0].strip().rstrip(".")  # what follows is about preemption
    if reason == "SchedulingGated":
        return Cause(ConditionType.PLACEMENT_READY, "SchedulingGated", "The berth waits for its scheduling gates.")
    volumes = _find(_VOLUMES, said)
    if volumes is not None:
        return _claims(said, volumes, spec)
    if cluster_lacks_kvm(pod, cluster) and re.search("affinity|selector", said):
        return _no_kvm(cluster)
    unlike = _unlike(pod, cluster)
    run_guests = [host for host in cluster.hosts if host.kind.accelerator(cluster.emulation_of(pod))]
    if unlike and len(unlike) == len(run_guests) and re.search("affinity|selector", said):
        text = f"No node can run it: {compatible.told(unlike)}. Next: {_CPU}."
        return Cause(ConditionType.PLACEMENT_READY, "NoCompatibleNode", text)
    if unlike:
        said = f"{said} (it is kept away from {compatible.told(unlike)})"
    found, step = _find(SCHEDULING, said) or ("Unschedulable", _NODES)
    return Cause(ConditionType.PLACEMENT_READY, found, f"No node fits: {said}. Next: {step}.")


def _unlike(pod: Pod, cluster: Cluster) -> dict[str, compatible.Trouble]:
    return compatible.start_troubles(hardware.from_text(pod.hardware), cluster.emulation_of(pod), cluster)


def _claims(said: str, found: tuple[str, str], spec: VirtualMachineSpec | None) -> Cause:
    disks = [f"{d.pvc.claim_name} (disk {d.name})" for d in (spec.disks if spec else ()) if d.pvc is not None]
    message = f"{said}. The machine's claims: {', '.join(disks) or 'none'}. Next: {found[1]}."
    return Cause(ConditionType.DISKS_READY, found[0], message)


def cluster_lacks_kvm(pod: Pod, cluster: Cluster) -> bool:
    return pod.emulation == Emulation.NEVER and not any(usable for _, usable, _ in cluster.kvm)


def _no_kvm(cluster: Cluster) -> Cause:
    nodes = "; ".join(f"{node}: {reason or 'not usable'}" for node, _, reason in cluster.kvm) or "no agent has reported"
    message = (
        f"emulation is Never and no node has a usable KVM ({nodes}). Next: add a node with KVM, or allow software "
        "emulation with the chart's value emulation=Auto."
    )
    return Cause(ConditionType.PLACEMENT_READY, "KvmUnavailable", message)


def stuck(pod: Pod, spec: VirtualMachineSpec | None, events: Sequence[PodEvent]) -> Cause | None:
    """Why a berth that has a node does not come up: by its container's state, else by its Events, newest first."""
    if pod.running or pod.terminal or pod.node is None:
        return None
    if pod.waiting is not None and pod.waiting[0] in _IMAGE_REASONS:
        return _image(pod.waiting[1] or pod.waiting[0], spec)
    if pod.waiting is not None and pod.waiting[0] not in _CLEAN_START:
        reason, said = pod.waiting
        if "image volume" in said:
            message = (
                f"An image cannot be mounted: {said.strip().rstrip('.')}. Next: `berth restart`, to fetch it anew."
            )
            return Cause(ConditionType.DISKS_READY, "ImageMountFailed", message)
        message = f"The berth's container cannot start: {reason}: {said}. Next: see the pod {pod.name}."
        return Cause(ConditionType.PLACEMENT_READY, reason, message)
    for event in sorted(events, key=lambda e: e.at.timestamp() if e.at else 0.0, reverse=True):
        cause = _event(event, spec)
        if cause is not None:
            return cause
    return None


def _event(event: PodEvent, spec: VirtualMachineSpec | None) -> Cause | None:
    if event.reason in ("FailedMount", "FailedAttachVolume", "FailedMapVolume"):
        reason, step = _find(_VOLUMES, event.message) or ("VolumeMountFailed", "see the message")
        return Cause(ConditionType.DISKS_READY, reason, f"{event.message.strip().rstrip('.')}. Next: {step}.")
    if event.reason == "FailedCreatePodSandBox":
        message = f"The berth's network cannot be set up: {event.message}. Next: mend the node's network plugin."
        return Cause(ConditionType.NETWORK_READY, "SandboxFailed", message)
    if event.reason in ("Failed", "InspectFailed", "ErrImageNeverPull") and "image" in event.message.lower():
        return _image(event.message, spec)
    return None


_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*": (ErrImagePull: )?|^Error: ')
_PULL: Final = "mend the name, push the image, or give the namespace's default ServiceAccount a pull secret"
_PORTS: Final = re.compile(r"\d+\.\d+\.\d+\.\d+:\d+->")


def _image(said: str, spec: VirtualMachineSpec | None) -> Cause:
    """Which field names the image that cannot be had. Kubelet's back-off says the same again in other words."""
    text = _PORTS.sub("", _BACK_OFF.sub("", said)).strip().rstrip(".")
    for path, image in _images(spec):
        if image in said:
            message = f"{path}: the image {image} cannot be pulled: {text}. Next: {_PULL}."
            return Cause(ConditionType.DISKS_READY, "ImagePullFailed", message)
    message = f"The berth's own image cannot be pulled: {text}. Next: mend the chart's value image.berth."
    return Cause(ConditionType.PLACEMENT_READY, "BerthImagePullFailed", message)


def _images(spec: VirtualMachineSpec | None) -> list[tuple[str, str]]:
    if spec is None:
        return []
    found = [(f"spec.disks[{d.name}].container.image", d.container.image) for d in spec.disks if d.container]
    kernel = spec.boot.kernel
    return ([("spec.boot.kernel.image", kernel.image)] if kernel else []) + found
