"""What can be asked of the world, as Protocols. Each has a real implementation beside this file and one in memory.py;
one contract suite (tests/contract) runs against both.

Methods of the node's ports block (libvirt, netlink, mount are synchronous): the agent calls them in worker threads.
Every method is idempotent: asked twice, the second does nothing. Errors are those of berth.errors.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from berth.api.handover import DoorOrder, Flow, Forward
from berth.api.hardware import HostCpu
from berth.api.order import CloudInitOrder, DiskOrder, KernelOrder, NicOrder, NicReport, SegmentMembers
from berth.api.virtualmachine import GuestInfo
from berth.domain.files import DiskFile as DiskFile
from berth.domain.files import MediaFiles as MediaFiles
from berth.domain.observed import DomainState as DomainState
from berth.domain.observed import HandoverRecord
from berth.domain.observed import ObservedDomain as ObservedDomain
from berth.domain.observed import StartRecord as StartRecord
from berth.effects.ports_moving import TransferStats, Way


class DomainEventKind(enum.Enum):
    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    SHUTDOWN = "shutdown"  # the guest finished its shutdown
    STOPPED = "stopped"  # QEMU is gone
    CRASHED = "crashed"  # the guest panicked
    REBOOTED = "rebooted"
    AGENT = "agent"  # the guest agent's channel opened or closed
    DEVICE = "device"  # a device was let go by the guest, or was refused to be


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """``detail`` is libvirt's own word, for example "shutdown", "destroyed", "crashed"; of a device, its alias."""

    uid: str
    kind: DomainEventKind
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HypervisorVersions:
    libvirt: str
    qemu: str


@dataclass(frozen=True, slots=True)
class Abilities:
    """What QEMU here can be for a guest."""

    machine_types: tuple[str, ...] = ()
    cpus: tuple[HostCpu, ...] = ()


class Hypervisor(Protocol):
    """libvirt on this node. HypervisorDown when libvirtd does not answer; it comes back by itself."""

    def versions(self) -> HypervisorVersions: ...

    def abilities(self) -> Abilities:
        """Takes seconds when libvirt has not asked this QEMU before."""
        ...

    def domains(self) -> list[ObservedDomain]:
        """All domains that Berth made, running or paused."""
        ...

    def domain(self, uid: str) -> ObservedDomain | None:
        """One of them, or None when libvirt has no such domain: the same evidence, without asking for all."""
        ...

    def create_paused(self, xml: str) -> None:
        """Start QEMU with its CPUs stopped."""
        ...

    def resume(self, uid: str) -> None: ...

    def suspend(self, uid: str) -> None: ...

    def press_power_button(self, uid: str) -> None:
        """ACPI shutdown: a request the guest may ignore."""
        ...

    def destroy(self, uid: str) -> None:
        """End QEMU at once. No error when the domain is already gone."""
        ...

    def set_metadata(self, uid: str, order_json: str) -> None:
        """Replace the Order recorded in the domain's metadata."""
        ...

    def guest_info(self, uid: str) -> GuestInfo:
        """Ask qemu-guest-agent; agent_connected is False when it does not answer within two seconds."""
        ...

    def guest_nics(self, uid: str) -> tuple[NicReport, ...]:
        """What qemu-guest-agent says of the guest's interfaces; nothing when it does not answer."""
        ...

    def plug_nic(self, uid: str, alias: str, xml: str) -> None:
        """Plug the interface in; one of that alias that is there already is left alone."""
        ...

    def unplug_nic(self, uid: str, alias: str) -> None:
        """Ask the guest to let go of the interface: it may take its time, or never do it. DEVICE events tell."""
        ...

    def set_link(self, uid: str, alias: str, up: bool) -> None:
        """Plug the interface's cable in or out, as the guest sees it."""
        ...

    def migrate(self, uid: str, way: Way) -> None:
        """Send the guest away, for as long as it takes. HostFault when it stayed here, or nobody knows: look then."""
        ...

    def disk_bytes(self, uid: str, target: str) -> int:
        """How large the guest sees that disk, by libvirt's name of it; HostFault when it has none such."""
        ...

    def transfer(self, uid: str) -> TransferStats | None:
        """How far that is; None when nothing is sent."""
        ...

    def allow_pause(self, uid: str, milliseconds: int) -> None:
        """The guest that is being sent may stand still for so long. No error when nothing is sent."""
        ...

    def abort_migration(self, uid: str) -> None:
        """The guest runs on here. No error when nothing is sent."""
        ...

    def save(self, uid: str, path: str) -> None:
        """Write memory and devices of a guest that stands still into this file, for as long as it takes; it stays."""
        ...

    def restore(self, path: str, xml: str) -> None:
        """Like ``create_paused``, of a file that ``save`` wrote."""
        ...

    def set_clock(self, uid: str, seconds: float) -> None:
        """Have qemu-guest-agent set the guest's clock, to seconds since 1970."""
        ...

    def listen(self, on_event: Callable[[DomainEvent], None], on_connection: Callable[[bool, str], None]) -> None:
        """Call back (from another thread) on every event, and when the connection to libvirtd comes (True) or goes."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Berth:
    """A berth process found on this node: what the other ports need to work in its pod. Verified against pid reuse."""

    pod_uid: str
    pid: int
    start_time: int  # field 22 of /proc/PID/stat: with the pid it names one process for ever


class Berths(Protocol):
    """The berth pods' processes on this node."""

    def find(self, pod_uid: str) -> Berth | None:
        """The running berth process of that pod, or None when there is none (yet, or any more)."""
        ...

    def alive(self, berth: Berth) -> bool: ...

    def network(self, berth: Berth) -> int:
        """The identity of its pod's network namespace, never 0; another one means another network."""
        ...

    def functions(self, berth: Berth, resources: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Device plugin resource → PCI addresses that the pod was given of it; HostFault when one is not to be used."""
        ...

    def prepare_cgroup(self, vm_uid: str, guest_uid: int, berth: Berth) -> None:
        """Write what the emulator wrapper reads to enter the berth's cgroup."""
        ...

    def forget(self, vm_uid: str) -> None:
        """Remove the machine's folder /run/berth/vms/UID with every mount in it. Only after its domain is gone."""
        ...

    def record_start(self, vm_uid: str, record: StartRecord) -> None:
        """Write the record into the machine's folder, durably enough to outlive this process."""
        ...

    def start_record(self, vm_uid: str) -> StartRecord | None: ...

    def record_handover(self, vm_uid: str, record: HandoverRecord) -> None:
        """The same for what was promised to the other side of a migration."""
        ...

    def handover_record(self, vm_uid: str) -> HandoverRecord | None: ...

    def folders(self) -> list[str]:
        """The machine uids that have a folder on this node."""
        ...


class BerthLink(Protocol):
    """The open control connection to one berth process (asyncio; the agent's loop)."""

    async def exit(self, code: int, note: str) -> None:
        """Print the note on the console, then end the berth with this code."""
        ...

    def close(self) -> None: ...


class BerthLinks(Protocol):
    async def connect(self, berth: Berth, on_shutdown: Callable[[], None], on_lost: Callable[[], None]) -> BerthLink:
        """Connect to the berth's control socket. ``on_shutdown``: the pod is to end (again after each connect)."""
        ...


class Media(Protocol):
    """Disks, kernel, sockets and cloud-init seed of one machine."""

    def prepare(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        *,
        disks: Sequence[DiskOrder],
        kernel: KernelOrder | None,
        cloud_init: CloudInitOrder | None,
        vnc: bool,
        arriving: bool = False,
    ) -> MediaFiles:
        """Make or find all of them; existing files of this berth are kept. ``arriving``: the guest comes from another
        node, so a file on a claim that is not there is not made: ClaimNotShared.

        HostFault and InvalidSpec name disk, path and cause;

        their ``reason``: ImageFileMissing, ImageCorrupt, ImageUnsafe, KernelMissing,
        CloudInitInvalid, DiskFull …
        """
        ...

    def mark(self, berth: Berth, folder: str, name: str) -> None:
        """Make an empty file of that name in one of the berth's volumes; it is to be seen by all who mount it."""
        ...

    def is_marked(self, berth: Berth, folder: str, name: str) -> bool: ...

    def unmark(self, berth: Berth, folder: str, name: str) -> None: ...

    def fit(self, guest_uid: int, file: DiskFile, size_bytes: int) -> None:
        """Make a disk that nobody has written yet, or opened, exactly that large: the guest that comes knows it so."""
        ...


class Network(Protocol):
    """The NICs of one machine. Those of kind DEVICE have no tap and nothing to set up: they are passed over.

    What is made for a NIC is named after its name, never its place in the list: others come and go meanwhile.
    """

    def create_taps(self, vm_uid: str, guest_uid: int, nics: Sequence[NicOrder]) -> dict[str, str]:
        """NIC name → tap device in the agent's own network namespace, for libvirt to open.

        All of a machine's NICs before it starts; later only those that are about to be plugged in.
        """
        ...

    def attach(
        self,
        vm_uid: str,
        berth: Berth,
        nics: Sequence[NicOrder],
        hostname: str,
        *,
        doors: Sequence[DoorOrder] = (),
        silent: bool = False,
    ) -> None:
        """Move the taps into the berth's namespace, set addresses, rules and DHCP up. The guest may run afterwards.

        ``nics`` are all that the guest has: taps, rules and services of any other are taken away. ``doors`` are all
        that lead here: the way to and from any other is closed, with the connections that came through it.
        ``silent``: the guest is still elsewhere; segments hear of it with ``announce`` and not before, and nothing of
        theirs reaches it until then. What ``depart`` switched stays so until ``stay``.
        """
        ...

    def serve(
        self,
        vm_uid: str,
        berth: Berth,
        nics: Sequence[NicOrder],
        hostname: str,
        *,
        doors: Sequence[DoorOrder] = (),
        silent: bool = False,
    ) -> None:
        """The same for a guest that runs: the agent was restarted, or the NICs are others or shall be otherwise."""
        ...

    def detach(self, vm_uid: str) -> None:
        """Stop DHCP and remove what is left outside the berth: taps, and what joined it to segments."""
        ...

    def announce(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder]) -> None:
        """Tell segments that the guest is here now; attach does so by itself when it made the way there.

        After a silent attach this opens the way: to be called when the guest is about to be resumed.
        """
        ...

    def prepare_departure(self, vm_uid: str, berth: Berth, forward: Forward) -> None:
        """Make the tunnel ready that ``depart`` switches to, while the guest still runs: to save time of its pause."""
        ...

    def depart(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder], forward: Forward) -> tuple[Flow, ...]:
        """The guest has just been paused: what comes for it goes where it will be, and segments hear of it no more.

        Its connections; again when asked again. With another ``forward``: the guest went on from there to elsewhere.
        """
        ...

    def stay(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder]) -> None:
        """Take ``depart`` and its preparation back: the guest runs on here."""
        ...

    def arrive(self, vm_uid: str, berth: Berth, flows: Sequence[Flow]) -> None:
        """Before the guest is resumed, and after attach with the doors: through which one each connection goes."""
        ...

    def connections(self, vm_uid: str, berth: Berth) -> int:
        """How many are open through this berth's own pod IP."""
        ...

    def set_members(self, members: SegmentMembers) -> None:
        """Who else is on an overlay. Kept while no guest of this node is on it; an older version is ignored."""
        ...

    def members(self) -> list[SegmentMembers]:
        """What was set, since this agent started."""
        ...

    def tidy(self) -> None:
        """Shut strangers out of overlays, and remove the devices of segments that no guest of this node is on."""
        ...


@dataclass(frozen=True, slots=True)
class KvmProbe:
    usable: bool
    reason: str


class Prober(Protocol):
    """Facts of the host that need something to be run."""

    def kvm(self) -> KvmProbe:
        """Run real guest code under KVM with the CPU model guests will get."""
        ...

    def vhost(self) -> bool:
        """Whether the host's kernel can move packets between tap and guest by itself."""
        ...


class Journal(Protocol):
    """What QEMU had to say."""

    def last_words(self, vm_uid: str) -> str:
        """The last telling line that QEMU left in libvirt's log of the domain; empty when there is none."""
        ...
