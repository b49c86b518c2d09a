"""What a node has of a machine now. Made by the Hypervisor and Berths ports; read by the planner. Touches nothing."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from berth.api.kept import RevertOrder, SnapshotReport
from berth.api.order import Order
from berth.domain.host import Accelerator


class DomainState(enum.Enum):
    """libvirt's virDomainState, as far as a transient domain shows them."""

    RUNNING = "running"
    PAUSED = "paused"  # by us, or not yet resumed for the first time, or by a full disk
    SHUTTING_DOWN = "shutting down"
    CRASHED = "crashed"
    SHUTOFF = "shutoff"


@dataclass(frozen=True, slots=True)
class ObservedDomain:
    """``xml`` is the live XML, metadata included. ``detail`` is libvirt's reason of the state, e.g. "ioerror"."""

    uid: str
    name: str
    state: DomainState
    xml: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GuestNic:
    """A NIC that a running machine has. ``slot`` is where it is plugged in; None: it stays for this start."""

    name: str
    alias: str  # libvirt's name of it
    mac: str
    link_up: bool = True
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Guest:
    """An ObservedDomain, read: ``order`` is the one recorded in its metadata, without its secrets."""

    uid: str
    state: DomainState
    order: Order
    guest_uid: int
    accelerator: Accelerator
    detail: str = ""
    cpu_mode: str = ""
    nics: tuple[GuestNic, ...] = ()
    free_slots: tuple[int, ...] = ()
    """Where further NICs could be plugged in."""
    machine: str = ""
    """QEMU's machine type; it stays that of its first start, whatever newer ones this node would take."""

    def nic(self, name: str) -> GuestNic | None:
        return next((nic for nic in self.nics if nic.name == name), None)


@dataclass(frozen=True, slots=True)
class StartRecord:
    """Kept in the machine's folder from just before the guest runs: without a domain it proves that the guest ended."""

    epoch: int
    pod_uid: str
    guest_uid: int
    namespace: str = ""
    name: str = ""
    at: str = ""  # RFC 3339
    qemu: str = ""  # the version of the QEMU that runs it; empty: an older agent did not write it
    network: int = 0  # Berths.network when the guest was wired to it; 0: an older agent did not write it


@dataclass(frozen=True, slots=True)
class QemuProcess:
    """One process for ever: ``started`` is field 22 of its /proc/PID/stat."""

    pid: int
    started: int


class HandoverState(enum.Enum):
    """What one side has written down of a migration; see plan/handover.py."""

    SENDING = "Sending"  # source
    LETTING_GO = "LettingGo"  # source: QEMU is frozen, and never runs again
    HANDED_OVER = "HandedOver"  # source: QEMU is dead
    FAILED = "Failed"  # either


@dataclass(frozen=True, slots=True)
class HandoverRecord:
    """Kept in the machine's folder: what was once answered is answered again by whichever agent is asked."""

    migration: str
    epoch: int  # of the target's order
    peer: str  # the other side's node
    state: HandoverState
    qemu: QemuProcess | None = None  # source
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class KeptStates:
    """What a machine's folder in its volume holds, by start: whole states, and marks of those that were used."""

    complete: frozenset[int] = frozenset()
    used: frozenset[int] = frozenset()
    snapshots: frozenset[str] = frozenset()
    """The uids of those that are whole."""
    reverted: str = ""
    """The request of the last revert that was carried out."""
    reverting: RevertOrder | None = None
    """The one whose disks are being written, or were, and that no guest has run from yet."""


@dataclass(frozen=True, slots=True)
class KeptSnapshots:
    """The same of snapshots alone, for a guest that runs."""

    there: frozenset[str] = frozenset()
    """The uids of all that anything is there of, whole or not."""
    ready: SnapshotReport | None = None
    """The one that is ordered, when it is whole."""
    reverted: str = ""


@dataclass(frozen=True, slots=True)
class TransferStats:
    """How far it is, in bytes."""

    total: int = 0
    remaining: int = 0
    sent: int = 0
    bytes_per_second: int = 0
    dirty_bytes_per_second: int = 0
    rounds: int = 0
    throttle: int = 0  # by how much auto-converge slows the guest's CPUs down, in per cent


@dataclass(frozen=True, slots=True)
class Pace:
    """What a running guest was seen to do."""

    memory: int  # bytes that hold anything: empty pages cost nothing to send
    dirty: int  # bytes that it changes in a second, each page as often as it is changed
    busy: float = 1.0  # the part of its CPUs' time that it uses
    working: int | None = None  # bytes that it changes at all, again and again; None: no end of them was seen


@dataclass(frozen=True, slots=True)
class Survey:
    """What an agent found out of a guest that is about to be sent away. None: it could not be found out."""

    migration: str
    pace: Pace | None = None
    link: int | None = None  # bytes a second that the way to the other node's agent carries
    free_cpus: int = 0  # of this host
