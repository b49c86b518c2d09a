"""What saving a guest and taking snapshots of it asks of the world, beside ports.py: the Protocols for files in a
volume, and for libvirt's copying of disks."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from berth.api.kept import Consistency, RevertOrder, SnapshotDisk, SnapshotOrder, StateOrder
from berth.domain.files import DiskFile
from berth.domain.observed import KeptSnapshots as KeptSnapshots
from berth.domain.observed import KeptStates as KeptStates
from berth.effects.ports import Berth


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """A whole state, verified: where libvirt finds it, and the machine type that it needs."""

    path: str
    machine: str = ""
    bytes: int = 0
    disks: tuple[SnapshotDisk, ...] = ()


class States(Protocol):
    """A machine's states in a volume of its berth, and the mark on this node that a save was begun.

    HostFault's ``reason``: VolumeFull, StateCorrupt, StateUnreadable …
    """

    def begun(self, vm_uid: str) -> str | None:
        """The folder of the volume, in the berth, that a save was begun in; None when none was."""
        ...

    def look(self, vm_uid: str, berth: Berth, state: StateOrder) -> KeptStates: ...

    def draft(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> str:
        """Make the mark, then an empty file in the volume, shown to libvirt at the path that is returned."""
        ...

    def draft_disks(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        epoch: int,
        disks: Sequence[SnapshotDisk],
    ) -> Mapping[str, str]:
        """Blank images beside it, one for each disk, by its name: where QEMU finds them."""
        ...

    def finish(
        self,
        vm_uid: str,
        berth: Berth,
        state: StateOrder,
        epoch: int,
        machine: str,
        disks: Sequence[SnapshotDisk] = (),
    ) -> int:
        """The drafts are written: make sure that they are on the disk and can be read, then make the state whole. Its
        bytes."""
        ...

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        """Remove whole states and drafts, and then the mark. What tells that a state was used stays."""
        ...

    def unmark(self, vm_uid: str) -> None:
        """Remove the mark alone: what was begun was certainly not made whole."""
        ...

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> SavedGuest:
        """Verify the whole of a state, and show it to libvirt; it is left as it is."""
        ...

    def put_back(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        epoch: int,
        disk: SnapshotDisk,
        file: DiskFile,
    ) -> None:
        """Make the machine's disk, which nobody has open, exactly what the state's is, in size and content."""
        ...

    def use(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> None:
        """It counts as whole no more, and as used from now on; the guest's clock is to be set."""
        ...

    def clock_due(self, vm_uid: str) -> bool:
        """Whether a state of this machine was used, and its clock not set since."""
        ...

    def clock_set(self, vm_uid: str) -> None: ...


@dataclass(frozen=True, slots=True)
class SnapshotDraft:
    """Empty files, shown to QEMU and libvirt at these paths: of the memory, and of each disk by its name."""

    memory: str | None = None
    disks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SnapshotMoment:
    """What a snapshot is of, for its manifest."""

    taken_at: str
    consistency: Consistency
    pause_ms: int | None = None
    machine: str = ""
    disks: tuple[SnapshotDisk, ...] = ()


class Snapshots(Protocol):
    """A machine's snapshots in a volume of its berth, and the mark on this node that one was begun.

    HostFault's ``reason``: VolumeFull, SnapshotFailed, SnapshotCorrupt, StateUnreadable …
    """

    def begun(self, vm_uid: str) -> bool:
        """Whether the mark is there."""
        ...

    def look(self, vm_uid: str, berth: Berth, state: StateOrder) -> KeptSnapshots: ...

    def draft(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        snapshot: SnapshotOrder,
        disks: Sequence[SnapshotDisk],
    ) -> SnapshotDraft:
        """Make the mark; remove what attempts left that were broken off; make the files."""
        ...

    def finish(
        self, vm_uid: str, berth: Berth, state: StateOrder, snapshot: SnapshotOrder, moment: SnapshotMoment
    ) -> None:
        """All is written: make sure that it is on the disk and can be read, then make it whole. The mark stays."""
        ...

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        """Remove what was begun, unless it is whole. The mark stays."""
        ...

    def unmark(self, vm_uid: str) -> None: ...

    def mark_frozen(self, vm_uid: str, *, frozen: bool) -> None:
        """Note in the mark that the guest's file systems are about to be frozen, or are not any more."""
        ...

    def frozen(self, vm_uid: str) -> bool: ...

    def forget(self, vm_uid: str, berth: Berth, state: StateOrder, deleted: Sequence[str]) -> None:
        """Remove these, whole or not."""
        ...


@dataclass(frozen=True, slots=True)
class Copying:
    """How far libvirt is with a guest's disks, in bytes."""

    done: int = 0
    total: int = 0


class Held(enum.Enum):
    """Whether a guest's file systems are frozen."""

    NO = "no"
    YES = "yes"
    PERHAPS = "perhaps"  # that was asked for, and not answered


class Backups(Protocol):
    """libvirt's copies of a guest's disks as they are at one moment, made while the guest runs on."""

    def activate(self, uid: str) -> None:
        """Let a guest whose memory was just written open its disks again, though it stands still.

        SnapshotUnsupported when its QEMU cannot do that."""
        ...

    def begin(self, uid: str, targets: Mapping[str, str]) -> None:
        """Copy these disks, libvirt's name → path of a blank qcow2 image, as they are now; it returns at once."""
        ...

    def copying(self, uid: str) -> Copying | None:
        """None when nothing is copied."""
        ...

    def check(self, uid: str) -> None:
        """After the end: HostFault unless all was copied."""
        ...

    def abort(self, uid: str) -> None:
        """End whatever libvirt is doing for a snapshot, be it memory or disks. No error when there is nothing."""
        ...

    def freeze(self, uid: str) -> Held:
        """Have qemu-guest-agent write out and hold all file systems."""
        ...

    def thaw(self, uid: str) -> bool:
        """Have it let go of them; False when it does not answer, so that they may still be held."""
        ...


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """A whole snapshot, verified."""

    machine: str = ""
    disks: tuple[SnapshotDisk, ...] = ()
    bytes: int = 0


class Reverts(Protocol):
    """Disks put back from a snapshot, and the marks in the volume that tell how far that is."""

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> KeptSnapshot:
        """Verify the whole of it; SnapshotCorrupt. It is left as it is."""
        ...

    def begin(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> None:
        """Mark that the machine's disks are about to be written."""
        ...

    def put_back(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        revert: RevertOrder,
        disk: SnapshotDisk,
        file: DiskFile,
    ) -> None:
        """Make the machine's disk, which nobody has open, exactly what the snapshot's is, in size and content."""
        ...

    def show(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> str:
        """Where libvirt finds the snapshot's memory."""
        ...

    def use(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> None:
        """Remove what was saved of the machine, then mark the request as carried out; its clock is to be set."""
        ...
