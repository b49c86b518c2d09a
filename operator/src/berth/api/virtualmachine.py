"""The VirtualMachine kind: what a user writes (``spec``) and what Berth answers (``status``).

crd.py turns these models into the CustomResourceDefinition; rules that need two fields are both a CEL rule there and a
validator here, so that the API server, the CLI and the controller say the same.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from berth.api.base import Live, Model, NextBoot, Rule
from berth.api.cpu import Cpu
from berth.api.devices import MOST_DISKS, MOST_NICS, Boot, CloudInit, Disk, Display, Nic, PodNetwork
from berth.api.kubernetes import ObjectMeta, Placement, Probe
from berth.api.quantity import Quantity
from berth.api.savedstate import RevertStatus, SavedState, SavedStateStatus

KIND = "VirtualMachine"
PLURAL = "virtualmachines"


class Power(enum.StrEnum):
    """What the user wants of the machine's power."""

    ON = "On"
    OFF = "Off"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"


def _yaml_word(value: Any) -> Any:
    """YAML 1.1 (kubectl's) reads a bare On as true and a bare Off as false: the words that people write stay good."""
    if isinstance(value, bool):
        return Power.ON if value else Power.OFF
    return value


POWER_SCHEMA: dict[str, Any] = {"enum": [*Power, True, False], "x-kubernetes-preserve-unknown-fields": True}
PowerWord = Annotated[Power, BeforeValidator(_yaml_word), Field(json_schema_extra={"x-berth-schema": POWER_SCHEMA})]


class Restart(enum.StrEnum):
    """When a guest that ended by itself is started again."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class Eviction(enum.StrEnum):
    """What a drain of its node does to a running machine."""

    LIVE_MIGRATE = "LiveMigrate"
    SHUTDOWN = "Shutdown"
    BLOCK = "Block"


class Memory(Model):
    """The machine's memory."""

    size: Annotated[Quantity, NextBoot] = Field(
        "512Mi", description='Memory the guest sees, for example "512Mi", "2Gi".'
    )


class Shutdown(Model):
    """How a running guest is stopped."""

    grace_period_seconds: Annotated[int, NextBoot] = Field(
        60,
        ge=0,
        le=86400,
        description="Seconds a guest has to shut down after the ACPI power button, before it is cut off.",
    )


class Probes(Model):
    """Probes that kubelet runs against the guest, through the pod IP."""

    startup: Annotated[Probe | None, NextBoot] = Field(
        None, description="Holds the other probes back until the guest is up."
    )
    readiness: Annotated[Probe | None, NextBoot] = Field(
        None, description="Decides whether Services send traffic to the guest."
    )
    liveness: Annotated[Probe | None, NextBoot] = Field(
        None, description="When it fails, the guest is shut down and, by spec.restart, started again."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "successThreshold must be 1 here",
            "!has(self.startup) || self.startup.successThreshold == 1",
            lambda probes: probes.startup is None or probes.startup.success_threshold == 1,
            field="startup",
            given=lambda probes: f" {probes.startup.success_threshold}",
        ),
        Rule(
            "successThreshold must be 1 here",
            "!has(self.liveness) || self.liveness.successThreshold == 1",
            lambda probes: probes.liveness is None or probes.liveness.success_threshold == 1,
            field="liveness",
            given=lambda probes: f" {probes.liveness.success_threshold}",
        ),
    )


def _twice(values: list[Any]) -> list[Any]:
    """What is in the list more than once."""
    return [value for value, times in Counter(values).items() if times > 1]


def _boot_orders(spec: VirtualMachineSpec) -> list[int]:
    return [disk.boot_order for disk in spec.disks if disk.boot_order is not None]


def _twice_cel(order: int) -> str:
    """The API server wants a bound on every message's length: this one is made of constants."""
    return f"(self.disks.filter(d, has(d.bootOrder) && d.bootOrder == {order}).size() > 1 ? ' {order}' : '')"


_NAMED: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class VirtualMachineSpec(Model):
    """What the user wants. Everything left out has a default."""

    power: Annotated[PowerWord, Live] = Field(
        Power.ON,
        description="On: keep it running. Off: shut it down. Paused: keep it in memory, with its CPUs stopped."
        " Suspended: write its memory and devices to the volume of savedState, and give CPU and memory back.",
    )
    restart: Annotated[Restart, Live] = Field(
        Restart.ALWAYS,
        description="When the guest ends by itself: start it again Always, only OnFailure (crash, kill), or Never.",
    )
    eviction: Annotated[Eviction, Live] = Field(
        Eviction.LIVE_MIGRATE,
        description="What a drain of its node does. LiveMigrate: move it; one that cannot move is shut down and started"
        " elsewhere. Shutdown: that, in any case. Block: the drain waits until somebody else ends it.",
    )
    machine_type: Annotated[str | None, NextBoot] = Field(
        None,
        max_length=32,
        pattern=r"^pc-q35-[0-9]+\.[0-9]+(\.[0-9]+)?$",
        description="The virtual board, in a version of QEMU's. Default: the newest that all nodes know when the"
        " machine is first started, and that one from then on.",
    )
    cpu: Cpu = Field(default_factory=Cpu, description="The guest's processors.")
    memory: Memory = Field(default_factory=Memory, description="The guest's memory.")
    boot: Boot = Field(
        default_factory=Boot, description="Direct kernel boot. Left out: the firmware boots from the disks."
    )
    disks: list[Disk] = Field(
        default_factory=list,
        max_length=MOST_DISKS,
        description="Disks, in the order the guest finds them.",
        json_schema_extra=_NAMED,
    )
    nics: list[Nic] = Field(
        default_factory=lambda: [Nic(name="default", pod=PodNetwork())],
        max_length=MOST_NICS,
        description="Network interfaces. Left out: one on the pod network.",
        json_schema_extra=_NAMED,
    )
    hostname: Annotated[str | None, NextBoot] = Field(
        None,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="Its host name, told by DHCP and cloud-init. Default: the machine's name up to its first dot.",
    )
    subdomain: Annotated[str | None, NextBoot] = Field(
        None,
        max_length=63,
        pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$",
        description="A headless Service's name: cluster DNS then knows it as HOSTNAME.SUBDOMAIN.NAMESPACE.svc.",
    )
    cloud_init: CloudInit | None = Field(
        None, description="First-boot configuration, given to the guest as a NoCloud disk."
    )
    display: Display = Field(default_factory=Display, description="The guest's graphics.")
    guest_agent: Annotated[bool, NextBoot] = Field(True, description="Give the guest a channel for qemu-guest-agent.")
    saved_state: SavedState | None = Field(
        None, description="The volume for its memory and devices when it is Suspended, and for its Snapshots."
    )
    shutdown: Shutdown = Field(default_factory=Shutdown, description="How the guest is stopped.")
    probes: Probes = Field(default_factory=Probes, description="Health checks of the guest.")
    placement: Placement = Field(default_factory=Placement, description="Where it may run.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "there is nothing to boot from: give boot.kernel or at least one disk",
            "(has(self.boot) && has(self.boot.kernel)) || (has(self.disks) && size(self.disks) > 0)",
            lambda spec: spec.boot.kernel is not None or bool(spec.disks),
        ),
        Rule(
            "each disk needs a name of its own",
            "!has(self.disks) || self.disks.all(d, self.disks.exists_one(e, e.name == d.name))",
            lambda spec: not _twice([disk.name for disk in spec.disks]),
            field="disks",
            given=lambda spec: "".join(f" {name}" for name in _twice([disk.name for disk in spec.disks])),
        ),
        Rule(
            "with boot.kernel given, no disk from a container image may be called kernel",
            "!has(self.boot) || !has(self.boot.kernel) || !has(self.disks)"
            " || !self.disks.exists(d, d.name == 'kernel' && has(d.container))",
            lambda spec: spec.boot.kernel is None or not any(d.name == "kernel" and d.container for d in spec.disks),
            field="disks",
        ),
        Rule(
            "each interface needs a name of its own",
            "!has(self.nics) || self.nics.all(n, self.nics.exists_one(e, e.name == n.name))",
            lambda spec: not _twice([nic.name for nic in spec.nics]),
            field="nics",
            given=lambda spec: "".join(f" {name}" for name in _twice([nic.name for nic in spec.nics])),
        ),
        Rule(
            "at most one interface may be on the pod network",
            "!has(self.nics) || self.nics.filter(n, has(n.pod)).size() < 2",
            lambda spec: sum(nic.pod is not None for nic in spec.nics) < 2,
            field="nics",
        ),
        Rule(
            "each MAC address may be given to one interface only",
            "!has(self.nics) || self.nics.all(n, !has(n.mac) || self.nics.exists_one(e, has(e.mac) && e.mac == n.mac))",
            lambda spec: not _twice([nic.mac for nic in spec.nics if nic.mac]),
            field="nics",
            given=lambda spec: "".join(f" {mac}" for mac in _twice([nic.mac for nic in spec.nics if nic.mac])),
        ),
        Rule(
            "each bootOrder may be given to one disk only",
            "!has(self.disks) || self.disks.all(d, !has(d.bootOrder)"
            " || self.disks.exists_one(e, has(e.bootOrder) && e.bootOrder == d.bootOrder))",
            lambda spec: not _twice(_boot_orders(spec)),
            field="disks",
            given_cel=" + ".join(_twice_cel(order) for order in range(1, MOST_DISKS + 1)),
            given=lambda spec: "".join(f" {order}" for order in _twice(_boot_orders(spec))),
        ),
    )


class Phase(enum.StrEnum):
    """The one word that says how a machine is."""

    PENDING = "Pending"  # it has no place yet, or its place is being made ready
    STARTING = "Starting"  # its node is known and the agent is at work
    RUNNING = "Running"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"  # its memory and devices are in a volume, and no node has anything of it
    MIGRATING = "Migrating"  # it runs on, and is being moved to another node
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    FAILED = (
        "Failed"  # it ended or cannot start, and nothing will be tried until something changes (or the back-off ends)
    )
    UNKNOWN = "Unknown"  # its node or agent does not answer: it may or may not run


class ConditionStatus(enum.StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One prerequisite: True is good."""

    type: str = Field(description="Which prerequisite.", max_length=316)
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(description="A stable CamelCase word for machines.", max_length=1024)
    message: str = Field(description="What is the matter and what to do next, for people.", max_length=32768)
    observed_generation: int | None = Field(None, description="The spec's generation this speaks of.")
    last_transition_time: str | None = Field(
        None, description="When the status last changed.", json_schema_extra={"format": "date-time"}
    )


class ConditionType(enum.StrEnum):
    """The conditions of a VirtualMachine, in the order they come true."""

    SPEC_VALID = "SpecValid"
    PLACEMENT_READY = "PlacementReady"
    AGENT_CONNECTED = "AgentConnected"
    DISKS_READY = "DisksReady"
    NETWORK_READY = "NetworkReady"
    GUEST_RUNNING = "GuestRunning"
    READY = "Ready"
    REVERTED = "Reverted"  # no prerequisite, and told only of a machine that was asked to go back to a Snapshot
    SUSPENDABLE = "Suspendable"  # no prerequisite either, and told only of a machine that has savedState
    MIGRATABLE = "Migratable"  # no prerequisite of its running: whether it could move to another node


class LastExit(Model):
    """How the guest ended the last time."""

    reason: str = Field(
        description="GuestPoweroff, ShutDown, ForcedOff, GuestPanicked, QemuCrashed, Killed, BerthLost and the like."
    )
    exit_code: int = Field(description="0 when the guest ended in order, else 1.")
    message: str = Field("", description="What is known of the cause.")
    at: str = Field(description="When it ended.", json_schema_extra={"format": "date-time"})
    epoch: int = Field(
        0, description="The start that ended so; 0 when it was ended on request, so that spec.restart has no say in it."
    )


class GuestInfo(Model):
    """What the guest says of itself, by its agent. A hostile guest can say anything."""

    agent_connected: bool = Field(False, description="Whether qemu-guest-agent answers.")
    hostname: str | None = Field(None, max_length=253, description="Its host name.")
    os: str | None = Field(None, max_length=256, description="Its operating system.")
    kernel: str | None = Field(None, max_length=256, description="Its kernel's release.")


class NicStatus(Model):
    """One network interface: what was given to it, and what the guest says. One never erases the other."""

    name: str = Field(description="Its name in the spec.", max_length=32)
    network: str = Field(description="What it is on: pod, network/NAMESPACE/NAME, multus/NAMESPACE/NAME or device.")
    mac: str = Field(description="Its MAC address.", max_length=17)
    addresses: list[str] = Field(default_factory=list, description="Addresses given to it.", max_length=16)
    guest_name: str | None = Field(None, description="What the guest calls it.", max_length=64)
    guest_addresses: list[str] = Field(
        default_factory=list, description="Addresses that the guest says it has.", max_length=32
    )


class VirtualMachineStatus(Model):
    """What Berth has to say. Written by the controller alone."""

    phase: Phase = Field(Phase.PENDING, description="How the machine is, in one word.")
    message: str = Field("", description="Why it is so and what to do next, when there is anything to say.")
    observed_generation: int = Field(0, description="The generation of the spec that this status speaks of.")
    node: str | None = Field(None, description="The node it runs on.")
    ip: str | None = Field(None, description="Its pod IP: every port of it is the guest's.")
    berth: str | None = Field(None, description="The pod that holds its place.")
    epoch: int = Field(0, description="How often it was started or moved: every order to a node carries this number.")
    migration: str | None = Field(None, description="The Migration that moves it.")
    ending: int | None = Field(
        None, description="The start that is being ended on request: spec.restart has no say in its end."
    )
    started_at: str | None = Field(
        None, description="When the guest was started.", json_schema_extra={"format": "date-time"}
    )
    restarts: int = Field(
        0, description="Starts in a row after the guest ended by itself; 0 again after ten quiet minutes."
    )
    next_start_at: str | None = Field(
        None, description="When a guest that ended will be started again.", json_schema_extra={"format": "date-time"}
    )
    last_exit: LastExit | None = Field(None, description="How the guest ended the last time.")
    saved_state: SavedStateStatus | None = Field(None, description="The state that its next start restores.")
    revert: RevertStatus | None = Field(None, description="The last request to go back to a Snapshot.")
    pending_changes: list[str] = Field(
        default_factory=list, description="Changed fields that take effect at the next start."
    )
    machine_type: str | None = Field(None, description="The virtual board of its last start; the next one has it, too.")
    cpu_model: str | None = Field(None, description="The CPU model that the guest was given.")
    incompatible_nodes: list[str] = Field(
        default_factory=list,
        max_length=64,
        description="Nodes that it cannot move to, because of their CPU or QEMU: the condition Migratable tells why.",
    )
    guest: GuestInfo | None = Field(None, description="What the guest says of itself.")
    nics: list[NicStatus] = Field(
        default_factory=list,
        description="Its network interfaces.",
        max_length=MOST_NICS * 2,
        json_schema_extra=_NAMED,
    )
    conditions: list[Condition] = Field(
        default_factory=list,
        description="One per prerequisite; True is good.",
        max_length=32,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class VirtualMachine(Model):
    """A virtual machine: a QEMU/KVM guest that the cluster schedules, connects and keeps like a pod."""

    api_version: Literal["berth.dev/v1alpha1"] = "berth.dev/v1alpha1"
    kind: Literal["VirtualMachine"] = "VirtualMachine"
    metadata: ObjectMeta
    spec: VirtualMachineSpec = Field(description="What you want.")
    status: VirtualMachineStatus | None = Field(None, description="What Berth has to say.")
