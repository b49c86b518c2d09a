"""The only words controller and agent exchange: Order goes down, Reports come up.

An Order is one machine fully resolved: no name is left to look up, nothing in it depends on the cluster any more.
The same Order twice changes nothing; an Order with an older epoch than one already carried out is refused.
Both sides may differ in version by one release: unknown fields are dropped, new fields have defaults.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

from pydantic import Field

from berth.api.base import Lenient
from berth.api.devices import DiskBus, NicModel
from berth.api.handover import DoorOrder, Forward, Incoming, MigrationReport, Outgoing
from berth.api.hardware import CpuOrder, HostCpu
from berth.api.kept import SnapshotReport, StateOrder
from berth.api.virtualmachine import ConditionStatus, GuestInfo


class Emulation(enum.StrEnum):
    """Whether a guest may run without KVM: software emulation is 10 to 30 times slower."""

    NEVER = "Never"
    AUTO = "Auto"  # KVM where the node's probe ran guest code with it, else emulation
    ALWAYS = "Always"


class OrderPower(enum.StrEnum):
    RUNNING = "Running"
    PAUSED = "Paused"


class BerthRef(Lenient):
    """The pod that holds the machine's place. A pod uid that is not on the node makes the order void: a fence."""

    pod_uid: str
    pod_name: str
    node: str


class FileOrder(Lenient):
    """A file in a volume of the berth: ``folder`` is the mount point there, ``path`` what the user may influence."""

    folder: str  # for example /berth/images/kernel, /berth/claims/data
    path: str  # beneath it; opened with openat2, never followed out of it


class KernelOrder(Lenient):
    kernel: FileOrder
    initrd: FileOrder | None = None
    args: str = ""


class DiskKind(enum.StrEnum):
    OVERLAY = "Overlay"  # a qcow2 in the berth's state folder over a read-only image
    EMPTY = "Empty"  # a new raw file in the berth's state folder
    FILE = "File"  # a file that stays, made when it is not there


class DiskOrder(Lenient):
    name: str
    kind: DiskKind
    source: FileOrder | None = None  # None for EMPTY
    size_bytes: int | None = None
    bus: DiskBus = DiskBus.VIRTIO
    read_only: bool = False
    boot_order: int | None = None


class NicKind(enum.StrEnum):
    POD = "Pod"  # the pod's IP is the guest's
    SEGMENT = "Segment"  # joined to a layer 2 segment of the node's
    ATTACHMENT = "Attachment"  # joined to a further interface of the pod
    DEVICE = "Device"  # a PCI function that the device plugin gave to the pod


class SegmentKind(enum.StrEnum):
    BRIDGE = "Bridge"
    VLAN = "Vlan"
    OVERLAY = "Overlay"


class SegmentOrder(Lenient):
    """A layer 2 segment, as far as one node has to make it; its other members come with SegmentMembers."""

    uid: str  # the Network's
    name: str  # namespace/name, for people
    kind: SegmentKind
    device: str = ""  # BRIDGE: the bridge. VLAN: the card beneath it
    vlan: int = 0
    vni: int = 0
    mtu: int | None = None  # None: what the device beneath carries (an overlay needs 50 bytes of that, 70 over IPv6)
    nat: bool = False  # the berth is the gateway and sends what leaves the segment through the pod's own interface


class LimitOrder(Lenient):
    bits_per_second: int
    burst_bytes: int


class NicOrder(Lenient):
    name: str
    mac: str
    model: NicModel = NicModel.VIRTIO
    kind: NicKind = NicKind.POD
    mtu: int | None = None  # None: what the network carries
    queues: int = 1
    boot_order: int | None = None
    link_up: bool = True
    anti_spoofing: bool = True
    inbound: LimitOrder | None = None  # to the guest
    outbound: LimitOrder | None = None
    segment: SegmentOrder | None = None  # for SEGMENT
    interface: str = ""  # for ATTACHMENT: its name in the pod, for example net1
    resource: str = ""  # for DEVICE: the device plugin's resource
    addresses: tuple[str, ...] = ()  # with prefix lengths: what a SEGMENT's or ATTACHMENT's guest is given
    gateways: tuple[str, ...] = ()  # one of each family at most; with segment.nat the berth itself has them
    dns: tuple[str, ...] = ()  # empty, with a gateway: the pod's
    search: tuple[str, ...] = ()


class SegmentMember(Lenient):
    """One interface on a segment, on whichever node."""

    mac: str
    addresses: tuple[str, ...] = ()  # without prefix lengths
    node: str
    node_address: str  # where that node's VXLAN packets go


class SegmentMembers(Lenient):
    """Who else is on an overlay: all of it, each time. ``PUT /v1/segments/{uid}``; the same twice changes nothing."""

    segment: SegmentOrder
    version: int  # the Network's status; an older one than was taken is ignored
    members: tuple[SegmentMember, ...] = ()


class CloudInitOrder(Lenient):
    """The documents themselves, or the file in the berth that holds one."""

    instance_id: str
    hostname: str
    user_data: str | None = Field(None, repr=False)
    user_data_file: FileOrder | None = None
    network_data: str | None = None


class MachineOrder(Lenient):
    """The virtual hardware."""

    cpus: int
    memory_bytes: int
    cpu: CpuOrder | None = None  # None: what the accelerator gives, the host's own CPU under KVM
    machine_type: str = ""  # with its version, for example pc-q35-10.0; empty: the agent's own
    kernel: KernelOrder | None = None
    disks: tuple[DiskOrder, ...] = ()
    nics: tuple[NicOrder, ...] = ()
    cloud_init: CloudInitOrder | None = None
    hostname: str = ""
    vnc: bool = False
    guest_agent: bool = True


class Order(Lenient):
    """Run this machine, in this berth, like this."""

    uid: str
    namespace: str
    name: str
    epoch: int
    generation: int = 0
    berth: BerthRef
    power: OrderPower = OrderPower.RUNNING
    emulation: Emulation = Emulation.NEVER
    machine: MachineOrder
    grace_seconds: int = 60
    incoming: Incoming | None = None
    leaving: Outgoing | None = None  # it is about to be sent so: find out beforehand how, and how long that takes
    outgoing: Outgoing | None = None
    forward: Forward | None = None
    doors: tuple[DoorOrder, ...] = ()  # earlier berths that lead here
    state: StateOrder | None = None


class GuestState(enum.StrEnum):
    """How far the agent is with an order."""

    WAITING = "Waiting"  # for the berth process, or for the hypervisor
    PREPARING = "Preparing"  # disks, network
    STARTING = "Starting"  # libvirt is at work
    RUNNING = "Running"
    PAUSED = "Paused"
    STOPPING = "Stopping"  # the power button was pressed
    MOVED = "Moved"  # it was handed over to another node; this berth is a door
    ENDED = "Ended"  # ``fate`` tells how
    FAILED = "Failed"  # it could not be started; ``conditions`` tell why; tried again


class FateReason(enum.StrEnum):
    """Why a guest ended."""

    GUEST_POWEROFF = "GuestPoweroff"  # by itself
    SHUT_DOWN = "ShutDown"  # as asked
    FORCED_OFF = "ForcedOff"  # cut off after the grace period
    GUEST_PANICKED = "GuestPanicked"
    QEMU_CRASHED = "QemuCrashed"
    KILLED = "Killed"  # QEMU got a signal from somebody else
    SAVED = "Saved"  # its memory and devices are in a volume, as asked
    UNKNOWN = "Unknown"  # it ended while nobody looked


class Fate(Lenient):
    """How a guest ended: ``exit_code`` 0 in order, 1 not."""

    reason: FateReason
    exit_code: int
    message: str = ""
    at: str


class ReportCondition(Lenient):
    """A prerequisite that the node knows of: DisksReady, NetworkReady, GuestRunning."""

    type: str
    status: ConditionStatus
    reason: str
    message: str = ""


class NicReport(Lenient):
    """What the guest says of one of its interfaces. A hostile guest can say anything."""

    mac: str
    name: str = ""
    addresses: tuple[str, ...] = ()


class Report(Lenient):
    """How one machine is on this node."""

    uid: str
    namespace: str
    name: str
    epoch: int
    pod_uid: str
    state: GuestState
    accelerator: Literal["kvm", "tcg", ""] = ""
    machine_type: str = ""  # what it really runs with, whatever was ordered of whichever agent
    cpu_mode: str = ""
    qemu_version: str = ""  # of the QEMU that runs it, which may be older than the node's
    started_at: str | None = None
    fate: Fate | None = None
    guest: GuestInfo | None = None
    guest_nics: tuple[NicReport, ...] = ()
    migration: MigrationReport | None = None
    connections: int | None = None  # MOVED: how many still go through the door
    snapshot: SnapshotReport | None = None  # the one that was ordered
    forgotten: tuple[str, ...] = ()  # those of ``forget`` that are positively not in the volume
    reverted: str = ""  # the ordered revert's request, once it is marked as carried out
    conditions: tuple[ReportCondition, ...] = ()


class NodeFacts(Lenient):
    """What a node's agent found out about its host."""

    node: str
    agent_version: str
    boot_id: str = ""
    kvm_usable: bool = False
    kvm_reason: str = ""
    libvirt_version: str = ""
    qemu_version: str = ""
    hypervisor_connected: bool = False
    hypervisor_message: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    cgroup_version: Literal[1, 2] = 2
    machine_types: tuple[str, ...] = ()  # pc-q35 of all versions that QEMU here knows; empty: an older agent
    host_cpus: tuple[HostCpu, ...] = ()
    states: bool = False  # whether it can save and restore guests; an older agent cannot
    snapshots: bool = False  # whether it can take snapshots and revert to them
    peer_port: int = 0  # where other nodes' agents are served; 0: an older agent, to and from which nothing moves
    copies_disks: bool = False  # it copies node-local disks when a guest moves; an older agent would leave them behind


class Hello(Lenient):
    """The stream's first line, and again whenever the facts change."""

    type: Literal["hello"] = "hello"
    facts: NodeFacts


class Snapshot(Lenient):
    """Everything the agent knows, once after Hello: a machine that is not in it is not on this node."""

    type: Literal["snapshot"] = "snapshot"
    reports: tuple[Report, ...]


class Changed(Lenient):
    type: Literal["changed"] = "changed"
    report: Report


class Gone(Lenient):
    """The machine and its berth are positively gone from this node, and nothing of it is left behind."""

    type: Literal["gone"] = "gone"
    uid: str


class Heartbeat(Lenient):
    type: Literal["heartbeat"] = "heartbeat"


Message = Annotated[Hello | Snapshot | Changed | Gone | Heartbeat, Field(discriminator="type")]
"""One line of ``GET /v1/reports``."""


class Refusal(Lenient):
    """The body of every error answer of the agent's and controller's APIs."""

    reason: str
    message: str
