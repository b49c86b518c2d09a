"""What is wrong becomes a condition that names cause and next step: one row per fault, and the status around it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from berth.api.order import Emulation, Fate, FateReason, GuestState, NodeFacts, ReportCondition
from berth.api.virtualmachine import ConditionStatus, ConditionType
from berth.plan.conditions import PROGRESS
from berth.plan.status import Urgency, as_json, merge_patch, urgency
from berth.plan.world import PodEvent, Refusal, World
from tests.unit.plan.cluster_worlds import (
    CLUSTER,
    NODE,
    agent,
    ago,
    bound,
    condition,
    machine,
    over,
    pod,
    report,
    running,
    silent,
    told,
    up,
    world,
)


def refused(message: str, code: int = 403) -> World:
    return world(create_refusal=Refusal(code, "Forbidden", message))


def unscheduled(message: str, **changes: Any) -> World:
    said = "0/2 nodes are available: " + message + " no new claims to deallocate, preemption: 0/2 nodes are available."
    return world(pod=pod(scheduling=("Unschedulable", said)), **changes)


def mount(message: str) -> World:
    event = PodEvent("FailedMount", f'MountVolume.SetUp failed for volume "cloudinit" : {message}', ago(1))
    return world(pod=bound(waiting=("ContainerCreating", "")), agent=agent(), events=(event,))


def pull(reason: str, message: str, **spec: Any) -> World:
    owner = machine(**spec)
    return world(machine=owner, pod=pod(owner, node=NODE, waiting=(reason, message)), agent=agent())


def failed(kind: str, reason: str, message: str) -> World:
    said = ReportCondition(type=kind, status=ConditionStatus.FALSE, reason=reason, message=message)
    return world(pod=up(), agent=agent(report(GuestState.FAILED, conditions=(said,))))


def crashed(reason: FateReason, message: str) -> World:
    fate = Fate(reason=reason, exit_code=1, message=message, at="2026-03-01T11:59:58Z")
    return world(pod=over(1), agent=agent(report(GuestState.ENDED, fate=fate)))


DOWN = NodeFacts(node=NODE, agent_version="1", hypervisor_connected=False, hypervisor_message="no socket")
CLAIM: Any = [{"name": "data", "pvc": {"claimName": "db"}}]
DISK: Any = [{"name": "root", "container": {"image": "example.org/disk:1"}}]

FAULTS: list[tuple[str, World, str, str, str]] = [
    ("memory", unscheduled("2 Insufficient memory."), "PlacementReady", "InsufficientMemory", r"spec\.memory\.size"),
    ("cpu", unscheduled("2 Insufficient cpu."), "PlacementReady", "InsufficientCpu", r"spec\.cpu"),
    (
        "selector",
        unscheduled("2 node(s) didn't match Pod's node affinity/selector."),
        "PlacementReady",
        "NoNodeMatches",
        r"spec\.placement",
    ),
    ("taint", unscheduled("2 node(s) had untolerated taint {a: b}."), "PlacementReady", "NodesTainted", "tolerations"),
    ("cordon", unscheduled("2 node(s) were unschedulable."), "PlacementReady", "NodesCordoned", "uncordon"),
    ("pods", unscheduled("2 Too many pods."), "PlacementReady", "InsufficientResources", "add a node"),
    ("no nodes", world(pod=pod(scheduling=("Unschedulable", "no nodes available"))), "PlacementReady", "NoNodes", ""),
    ("unheard of", unscheduled("2 of the nodes sulk."), "PlacementReady", "Unschedulable", "sulk"),
    ("claim", unscheduled('persistentvolumeclaim "db" not found.', machine=machine(disks=CLAIM)),
     "DisksReady", "ClaimMissing", r"create the claim db"),
    ("unbound", unscheduled("pod has unbound immediate PersistentVolumeClaims.", machine=machine(disks=CLAIM)),
     "DisksReady", "ClaimUnbound", r"db \(disk data\)"),
    ("quota", refused("exceeded quota: small, requested: memory"), "PlacementReady", "QuotaExceeded", "small.*quota"),
    ("quota needs limits", refused("failed quota: q: must specify limits.memory"), "PlacementReady",
     "QuotaNeedsLimits", "LimitRange"),
    ("limit range", refused("maximum memory usage per Container is 64Mi, but request is 200Mi"), "PlacementReady",
     "LimitRangeViolation", "64Mi"),
    ("limit of a range", refused("Pod is invalid: must be less than or equal to memory limit of 64Mi", 422),
     "PlacementReady", "LimitRangeViolation", "limit of 64Mi"),
    ("pod security", refused('violates PodSecurity "restricted:latest"'), "PlacementReady", "PodSecurityViolation",
     "enforce"),
    ("priority class", refused("no PriorityClass with name high was found"), "PlacementReady",
     "PriorityClassMissing", "high"),
    ("namespace ends", refused("unable to create new content: it is being terminated"), "PlacementReady",
     "NamespaceTerminating", "namespace"),
    ("webhook", refused('admission webhook "x" denied the request'), "PlacementReady", "WebhookRefused", "owner"),
    ("invalid pod", refused('Pod "berth-web" is invalid: spec.x', 422), "PlacementReady", "BerthInvalid", r"spec\.x"),
    ("refused", refused("no"), "PlacementReady", "BerthRefused", "no"),
    ("name taken", world(pod=replace(pod(), owner_uid="other")), "PlacementReady", "NameTaken", "pod berth-web"),
    ("kernel image", pull("ErrImagePull", 'failed to pull image "example.org/kernel:1": not found'), "DisksReady",
     "ImagePullFailed", r"spec\.boot\.kernel\.image.*example\.org/kernel:1"),
    ("disk image", pull("ImagePullBackOff",
     'Back-off pulling image "example.org/disk:1": ErrImagePull: nothing there', disks=DISK), "DisksReady",
     "ImagePullFailed", r"spec\.disks\[root\]\.container\.image.*nothing there"),
    ("berth image", pull("ErrImagePull", 'failed to pull "example.org/berth:1"'), "PlacementReady",
     "BerthImagePullFailed", "chart"),
    ("container", pull("CreateContainerError", "no such runtime"), "PlacementReady", "CreateContainerError", "runtime"),
    ("image mount", pull("CreateContainerError", "failed to mount image volume: not found"), "DisksReady",
     "ImageMountFailed", "berth restart"),
    ("secret", mount('secret "s" not found'), "DisksReady", "SecretMissing", "create the Secret s"),
    ("config map", mount('configmap "m" not found'), "DisksReady", "ConfigMapMissing", "create the ConfigMap m"),
    ("key", mount("references non-existent secret key: userdata"), "DisksReady", "KeyMissing", "key userdata"),
    ("mount", mount("mount failed: exit status 32"), "DisksReady", "VolumeMountFailed", "exit status 32"),
    ("sandbox", world(pod=bound(waiting=("ContainerCreating", "")), agent=agent(),
     events=(PodEvent("FailedCreatePodSandBox", "plugin type=bridge failed", ago(1)),)), "NetworkReady",
     "SandboxFailed", "bridge"),
    ("no kvm", unscheduled("2 node(s) didn't match Pod's node affinity/selector.",
     cluster=replace(CLUSTER, emulation=Emulation.NEVER, kvm=(("n1", False, "-cpu host aborts"),))),
     "PlacementReady", "NoNodeMatches", "selector"),
    ("disk file", failed("DisksReady", "ImageCorrupt", "disk data: no qcow2"), "DisksReady", "ImageCorrupt", "data"),
    ("kernel path", failed("DisksReady", "KernelMissing", "/boot/none"), "DisksReady", "KernelMissing", "/boot/none"),
    ("cannot start", failed("GuestRunning", "StartFailed", "qemu says no"), "GuestRunning", "StartFailed", "says no"),
    ("panic", crashed(FateReason.GUEST_PANICKED, "the guest's kernel panicked"), "GuestRunning", "GuestPanicked",
     "panicked.*next start"),
    ("killed", crashed(FateReason.KILLED, "signal 9"), "GuestRunning", "Killed", "signal 9"),
    ("agent down", world(pod=up(), agent=silent(6)), "AgentConnected", "AgentDown", "node-1.*connection refused"),
    ("agent missing", world(pod=up(), agent=silent(6, exists=False)), "AgentConnected", "AgentMissing", "DaemonSet"),
    ("libvirt down", world(pod=up(), agent=agent(report(), facts=DOWN, hypervisor_down_since=ago(6))),
     "AgentConnected", "HypervisorDown", "libvirtd.*no socket"),
    ("order refused", world(pod=up(), agent=agent(refusal=Refusal(409, "StaleEpoch", "epoch 1 is old"))),
     "GuestRunning", "StaleEpoch", "epoch 1"),
    ("stuck", world(pod=up(deleted=ago(30)), agent=silent(60)), "PlacementReady", "BerthStuckTerminating",
     "delete the Node"),
    ("invalid spec", world(machine=machine(memory={"size": "12 apples"})), "SpecValid", "InvalidSpec",
     r"spec\.memory\.size.*12 apples"),
    ("unknown field", world(machine=machine(memroy={})), "SpecValid", "InvalidSpec", r"spec\.memroy"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "seen", "kind", "reason", "says"), FAULTS, ids=[row[0] for row in FAULTS])
def test_a_fault_names_cause_and_next_step(name: str, seen: World, kind: str, reason: str, says: str) -> None:
    status, found, message = condition(seen, kind)
    assert (status, found) == ("False", reason)
    assert re.search(says, message), message
    assert reason not in PROGRESS
    goes_on = reason == "HypervisorDown"  # its guest runs
    assert condition(seen, "Ready")[0] == ("True" if goes_on else "False")
    assert message in told(seen).message
    assert urgency(None, told(seen)) is Urgency.NOW


def test_kvm_is_named_when_the_berth_asks_for_it() -> None:
    never = replace(CLUSTER, emulation=Emulation.NEVER, kvm=(("n1", False, "-cpu host aborts"),))
    said = ("Unschedulable", "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
    seen = world(pod=pod(cluster=never, scheduling=said), cluster=never)
    _, reason, message = condition(seen, "PlacementReady")
    assert reason == "KvmUnavailable"
    assert "n1: -cpu host aborts" in message
    assert "emulation=Auto" in message


def test_all_is_true_when_all_is_well() -> None:
    status = told(running())
    asked = (ConditionType.SUSPENDABLE, ConditionType.REVERTED)  # told only of one that has to do with that
    always = [t.value for t in ConditionType if t not in asked]
    assert [c.type for c in status.conditions] == always
    assert {c.status for c in status.conditions} == {ConditionStatus.TRUE}
    assert (status.phase, status.node, status.ip, status.message) == ("Running", NODE, "10.0.0.7", "")


def test_readiness_waits_for_the_probe() -> None:
    assert condition(world(pod=up(ready=False), agent=agent(report())), "Ready")[:2] == ("False", "NotReady")


def test_an_agent_that_is_soon_back_was_never_missed() -> None:
    seen = running()
    for away in (silent(3, report()), silent(3), agent(report(), hypervisor_down_since=ago(2))):
        assert urgency(seen.machine.status, told(replace(seen, agent=away))) is Urgency.NONE


def test_back_off_and_first_failure_of_a_pull_say_the_same() -> None:
    first = pull("ErrImagePull", "10.0.0.1:4711->10.0.0.2:53: no host for example.org/kernel:1")
    again = pull(
        "ImagePullBackOff",
        'Back-off pulling image "example.org/kernel:1": ErrImagePull: '
        "10.0.0.1:4712->10.0.0.2:53: no host for example.org/kernel:1",
    )
    assert condition(first, "DisksReady") == condition(again, "DisksReady")


def test_a_lasting_fault_is_kept_while_kubelet_says_nothing() -> None:
    seen = pull("ErrImagePull", "no example.org/kernel:1")
    later = replace(seen, machine=replace(seen.machine, status=told(seen)))
    quiet = replace(later, pod=replace(bound(), waiting=("ContainerCreating", "")))
    assert urgency(later.machine.status, told(quiet)) in (Urgency.NONE, Urgency.HELD)


def test_the_transition_time_stays_while_the_status_does() -> None:
    seen = running()
    later = told(replace(seen, now=ago(-100)))
    assert later == seen.machine.status
    lost = told(replace(seen, now=ago(-100), agent=silent(60)))
    times = {c.type: c.last_transition_time for c in lost.conditions}
    assert times["AgentConnected"] == "2026-03-01T12:01:40Z"
    assert times["SpecValid"] == "2026-03-01T12:00:00Z"


def test_a_patch_takes_away_what_is_no_more() -> None:
    assert merge_patch({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"b": None, "c": 3}
    assert merge_patch(as_json(told(running())), as_json(told(running()))) == {}


def test_a_mistyped_restart_is_told() -> None:
    odd = machine(metadata={"annotations": {"berth.dev/restartedAt": "tomorrow"}})
    status, reason, message = condition(world(machine=odd), "SpecValid")
    assert (status, reason) == ("True", "AnnotationIgnored")
    assert "'tomorrow'" in message


URGENCIES = [
    ("scheduled", world(pod=pod()), world(pod=bound(), agent=agent()), Urgency.HELD),
    ("preparing", world(pod=bound(), agent=agent()), world(pod=up(), agent=agent(report(GuestState.PREPARING))),
     Urgency.HELD),
    ("runs", world(pod=bound(), agent=agent()), world(pod=up(), agent=agent(report())), Urgency.NOW),
    ("guest info", world(pod=up(), agent=agent(report())),
     world(pod=up(), agent=agent(report(guest={"agentConnected": True}))), Urgency.HELD),
    ("stops", world(pod=up(), agent=agent(report())), world(pod=up(deleted=ago(-60)), agent=agent(report())),
     Urgency.NOW),
    ("changed", world(pod=up(), agent=agent(report())),
     world(machine=machine(memory={"size": "2Gi"}, metadata={"generation": 2}), pod=up(), agent=agent(report())),
     Urgency.NOW),
]  # fmt: skip


@pytest.mark.parametrize(("name", "before", "after", "wanted"), URGENCIES, ids=[row[0] for row in URGENCIES])
def test_what_tells_something_is_written_at_once(name: str, before: World, after: World, wanted: Urgency) -> None:
    assert urgency(told(before), told(after)) is wanted
