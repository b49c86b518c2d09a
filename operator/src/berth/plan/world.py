"""What the controller sees of one machine, as values: raw Kubernetes objects in, small frozen views out.

Built by controller/reconcile.py (gather), read by every other module of the plan. No rule is decided here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import ValidationError

from berth.api import crd
from berth.api.base import API_VERSION, GROUP
from berth.api.order import Emulation, NodeFacts, Report
from berth.api.virtualmachine import KIND, Power, VirtualMachineSpec, VirtualMachineStatus
from berth.plan import stored, suspendable
from berth.plan.cpu_baseline import FLOOR
from berth.plan.hosts import Host, Kind
from berth.plan.moves import Move
from berth.plan.segment import Segment, SegmentKey
from berth.plan.snaps import Snap
from berth.plan.times import format_time as format_time
from berth.plan.times import parse_time as parse_time

Object = dict[str, Any]
"""A Kubernetes object as JSON: never turned into the client's model classes, which cost memory and time."""

FINALIZER: Final = f"{GROUP}/berth"
MACHINE: Final = f"{GROUP}/machine"
EPOCH: Final = f"{GROUP}/epoch"
HARDWARE: Final = f"{GROUP}/hardware"
EMULATION: Final = f"{GROUP}/emulation"
RESTARTED_AT: Final = f"{GROUP}/restartedAt"
REVERT: Final = f"{GROUP}/revert"
"""On a machine: the Snapshot to go back to. On its berth: what of that it was made for."""
KVM_LABEL: Final = f"{GROUP}/kvm"
VM_LABEL: Final = f"{GROUP}/vm"
VM_UID_LABEL: Final = f"{GROUP}/vm-uid"
MIGRATION: Final = f"{GROUP}/migration"
INCOMING: Final = f"{GROUP}/incoming"
GATE: Final = f"{GROUP}/here"
"""A pod's readiness gate, and the condition that opens it: the guest is in this berth."""
GUARD: Final = f"{GROUP}/eviction"
GUARDED: Final = "guarded"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
COMPONENT: Final = "berth"
NETWORK_STATUS: Final = "k8s.v1.cni.cncf.io/network-status"


@dataclass(frozen=True, slots=True)
class Machine:
    """A VirtualMachine as far as it can be read: ``spec`` is None when it breaks a rule, ``problem`` says which."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: VirtualMachineSpec | None
    problem: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    created: datetime | None = None
    deleted: datetime | None = None
    status: VirtualMachineStatus | None = None
    version: str = ""  # that it was read at

    @property
    def restarted_at(self) -> datetime | None:
        """When the user last asked for a restart."""
        return parse_time(self.annotations.get(RESTARTED_AT))


def owner_reference(machine: Machine) -> Object:
    """Of what goes with the machine."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": machine.name,
        "uid": machine.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def read_machine(obj: Object) -> Machine:
    meta = obj["metadata"]
    spec, problem = read_spec(obj.get("spec") or {})
    return Machine(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta.get("generation", 0),
        spec=spec,
        problem=problem,
        labels=meta.get("labels") or {},
        annotations=meta.get("annotations") or {},
        finalizers=tuple(meta.get("finalizers") or ()),
        created=parse_time(meta.get("creationTimestamp")),
        deleted=parse_time(meta.get("deletionTimestamp")),
        status=stored.read(VirtualMachineStatus, obj.get("status")),
        version=str(meta.get("resourceVersion") or ""),
    )


def read_spec(spec: Object) -> tuple[VirtualMachineSpec | None, str]:
    """The spec, or None and sentences that name path, rule and given value."""
    return stored.spec(VirtualMachineSpec, spec, crd.VIRTUAL_MACHINE)


@dataclass(frozen=True, slots=True)
class Ended:
    """How the berth's container ended."""

    exit_code: int
    reason: str
    message: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Pod:
    """A berth pod."""

    namespace: str
    name: str
    uid: str
    owner_uid: str
    phase: str
    machine_name: str = ""  # of the VirtualMachine it belongs to
    created: datetime | None = None
    node: str | None = None
    ip: str | None = None
    ips: tuple[str, ...] = ()  # of both families
    attachments: tuple[tuple[str, tuple[str, ...]], ...] = ()  # what Multus says of further interfaces: name, addresses
    deleted: datetime | None = None  # by when it is to be gone: the grace period is in it
    epoch: int = 0
    machine: str = ""  # the annotation: JSON of the spec it was made from
    hardware: str = ""  # the annotation: JSON of the machine type and CPU that its start was resolved to
    emulation: str = ""
    restarted_at: datetime | None = None  # the machine's last restart request when this berth was made
    restart_request: str = ""  # the same, as it was written
    revert: str = ""  # the annotation: JSON of the revert that its start begins with
    migration: str = ""  # the uid of the Migration that it was made for
    came_from: tuple[str, int] = ("", 0)  # with a migration: the source's node and epoch
    gated: bool = False  # it has the readiness gate
    guarded: bool = False  # from eviction
    here: bool = False  # what the gate's condition says
    open: bool = False  # Services send to it, as kubelet says
    image: str = ""  # the berth's own
    reason: str = ""  # pod-level, for example Evicted
    message: str = ""
    scheduling: tuple[str, str] | None = None  # reason and message while it has no node
    waiting: tuple[str, str] | None = None  # reason and message while its container cannot start
    running: bool = False
    ready: bool = False
    ended: Ended | None = None

    @property
    def terminal(self) -> bool:
        return self.phase in ("Succeeded", "Failed")


def read_pod(obj: Object) -> Pod:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    annotations = meta.get("annotations") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    state = next((c.get("state") or {} for c in status.get("containerStatuses") or ()), {})
    scheduled = conditions.get("PodScheduled", {})
    waiting, terminated = state.get("waiting"), state.get("terminated")
    epoch = annotations.get(EPOCH, "0")
    gated = any(gate.get("conditionType") == GATE for gate in spec.get("readinessGates") or ())
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        owner_uid=(meta.get("labels") or {}).get(VM_UID_LABEL, ""),
        phase=status.get("phase", "Pending"),
        machine_name=next((r.get("name", "") for r in meta.get("ownerReferences") or ()), ""),
        created=parse_time(meta.get("creationTimestamp")),
        node=spec.get("nodeName") or None,
        ip=status.get("podIP") or None,
        ips=tuple(each.get("ip", "") for each in status.get("podIPs") or ()),
        attachments=_attachments(annotations.get(NETWORK_STATUS, "")),
        deleted=parse_time(meta.get("deletionTimestamp")),
        epoch=int(epoch) if epoch.isdigit() else 0,
        machine=annotations.get(MACHINE, ""),
        hardware=sys.intern(annotations.get(HARDWARE, "")),  # the same in most
        emulation=annotations.get(EMULATION, ""),
        restarted_at=parse_time(annotations.get(RESTARTED_AT)),
        restart_request=annotations.get(RESTARTED_AT, ""),
        revert=annotations.get(REVERT, ""),
        migration=annotations.get(MIGRATION, ""),
        came_from=_came_from(annotations.get(INCOMING, "")),
        gated=gated,
        guarded=(meta.get("labels") or {}).get(GUARD) == GUARDED,
        here=conditions.get(GATE, {}).get("status") == "True",
        open=conditions.get("Ready", {}).get("status") == "True",
        image=next((c.get("image", "") for c in spec.get("containers") or ()), ""),
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        scheduling=_why(scheduled) if scheduled.get("status") == "False" else None,
        waiting=_why(waiting) if waiting else None,
        running="running" in state,
        ready=conditions.get("ContainersReady" if gated else "Ready", {}).get("status") == "True",
        ended=_ended(terminated) if terminated else None,
    )


def _attachments(text: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Multus' own words, which anybody may spoil who may change pods."""
    try:
        said = json.loads(text) if text else []
        found = [
            (str(each["interface"]), tuple(map(str, each.get("ips") or ()))) for each in said if not each.get("default")
        ]
    except (ValueError, TypeError, KeyError, AttributeError):
        return ()
    return tuple(found)


def _came_from(text: str) -> tuple[str, int]:
    """``NODE EPOCH``, as incoming.py wrote it."""
    node, _, epoch = text.rpartition(" ")
    return (node, int(epoch)) if epoch.isdigit() else ("", 0)


def _why(part: Object) -> tuple[str, str]:
    return part.get("reason", ""), part.get("message", "")


def _ended(part: Object) -> Ended:
    finished = parse_time(part.get("finishedAt"))
    return Ended(part.get("exitCode", 1), part.get("reason", ""), part.get("message", ""), finished)


def frozen_spec(pod: Pod) -> VirtualMachineSpec | None:
    """The spec the berth was made from, or None when somebody spoiled the annotation."""
    try:
        return VirtualMachineSpec.model_validate(json.loads(pod.machine))
    except (ValueError, ValidationError):
        return None


@dataclass(frozen=True, slots=True)
class PodEvent:
    """What another component said about a berth pod."""

    reason: str
    message: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Somebody understood and said no: the API server to a berth, or an agent to an Order."""

    code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent of one node, as far as this machine is concerned."""

    node: str
    exists: bool  # an agent pod is on that node
    connected: bool
    silent_since: datetime | None = None  # None while connected
    error: str = ""  # why the last connection failed
    facts: NodeFacts | None = None
    hypervisor_down_since: datetime | None = None
    report: Report | None = None  # the last one; kept when the connection is lost, and when the machine has gone
    present: bool = False  # whether the machine is on the node still, as far as the agent has said
    sent: str | None = None  # digest of the Order that this connection's agent accepted last
    refusal: Refusal | None = None  # its answer to the last Order, when it was no
    address: str = ""  # where its node is reached

    def lacks(self, ability: Literal["states", "snapshots"]) -> bool:
        """Whether it has told that it cannot do that: it is of an earlier version."""
        return self.connected and self.facts is not None and not getattr(self.facts, ability)


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is the same for all machines."""

    berth_image: str = "berth"
    berth_pull_policy: str = "IfNotPresent"
    emulation: Emulation = Emulation.NEVER
    kvm: tuple[tuple[str, bool, str], ...] = ()  # node, usable, reason: of every agent that ever connected
    nodes: tuple[str, ...] = ()  # that have or had an agent since this controller leads; empty: nothing is known yet
    cordoned: frozenset[str] = frozenset()  # nodes that are to be emptied
    door_seconds: int = 3600  # so long a berth that its guest has left may be a door
    hosts: tuple[Host, ...] = ()  # of every agent that ever told its facts
    settled: bool = True  # no agent that has just been found is still to tell its facts
    cpu_floor: str = FLOOR  # a node that lacks any of it is left out of the baseline

    def kind(self, node: str | None) -> Kind | None:
        return next((host.kind for host in self.hosts if host.node == node), None)

    def emulation_of(self, pod: Pod) -> Emulation:
        """What holds for a berth: what held when it was made."""
        return Emulation(pod.emulation) if pod.emulation in list(Emulation) else self.emulation


@dataclass(frozen=True, slots=True)
class World:
    """Everything one reconcile of one machine decides from."""

    now: datetime
    machine: Machine
    cluster: Cluster
    pod: Pod | None = None  # the pod that has our berth's name, whoever made it
    departed: Pod | None = None  # our berth as it was last seen before it went
    events: tuple[PodEvent, ...] = ()  # of a berth that is stuck
    agent: Agent | None = None  # of the node that the berth is on, or was on last
    node_exists: bool = True  # that node's Node object
    create_refusal: Refusal | None = None  # the API server's last answer to our berth, when it was no
    networks: Mapping[SegmentKey, Segment] = field(default_factory=dict)  # those it names or has leases of
    moves_wait: bool = False  # a Migration of it is there that is not finished
    move: Move | None = None  # the Migration that is under way
    incoming: Pod | None = None  # the berth that it moves to
    former: tuple[Pod, ...] = ()  # berths that it has left, in the order in which it did
    agents: Mapping[str, Agent] = field(default_factory=dict)  # of the nodes of all its berths
    move_refusal: Refusal | None = None  # the API server's last answer to the incoming berth, when it was no
    move_events: tuple[PodEvent, ...] = ()  # of an incoming berth that is stuck
    snapshots: tuple[Snap, ...] = ()  # all of its Snapshots, who comes first first
    idle_doors: Mapping[str, datetime] = field(default_factory=dict)  # pod's uid → since when nothing goes through

    @property
    def berth(self) -> Pod | None:
        """The pod, when it is ours."""
        return self.pod if self.pod is not None and self.pod.owner_uid == self.machine.uid else None

    @property
    def last_berth(self) -> Pod | None:
        """The berth that is, else the one that was, if it was seen."""
        return self.berth or self.departed

    @property
    def report(self) -> Report | None:
        """The agent's report on the last berth, never one on an earlier berth."""
        report, berth = (self.agent.report if self.agent else None), self.last_berth
        return report if report and berth and report.pod_uid == berth.uid else None

    @property
    def wanted(self) -> Power:
        """The power that is wanted. A machine whose spec cannot be read stays as it is; one that cannot be suspended,
        though that is asked for, runs on, and its condition Suspendable says why."""
        spec = self.machine.spec
        if self.machine.deleted:
            return Power.OFF
        if spec is None or (spec.power is Power.SUSPENDED and not suspendable.wanted(spec)):
            return Power.ON
        return spec.power
