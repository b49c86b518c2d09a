"""What Orders and Reports say of what is kept of a machine in a volume: saved states and snapshots. Part of order.py's
words."""

from __future__ import annotations

import enum

from berth.api.base import Lenient


class SnapshotOrder(Lenient):
    """Take this snapshot now, unless the volume holds it already."""

    uid: str  # the Snapshot's
    name: str
    memory: bool = True  # False: disks alone, as they are at one moment


class RevertOrder(Lenient):
    """Begin with what a snapshot holds, in place of what the disks hold. Once: ``request`` is marked in the volume as
    carried out just before the guest runs, and the same request of a later start is then over."""

    request: str
    snapshot: str  # the Snapshot's uid
    name: str
    memory: bool = True  # restore memory and devices, too; False: boot from the disks


class StateOrder(Lenient):
    """The volume for saved states, and what is to be done with one. An older agent knows nothing of it."""

    folder: str  # where it is mounted in the berth
    save: bool = False  # write memory and devices into it, then end
    restore: int | None = None  # begin with the state of this epoch; a state of any other is thrown away at a start
    sure: bool = True  # False: boot when that state turns out not to be complete
    snapshot: SnapshotOrder | None = None
    revert: RevertOrder | None = None
    forget: tuple[str, ...] = ()  # snapshots that were deleted: their files are to go


class SnapshotState(enum.StrEnum):
    """How far the agent is with a snapshot."""

    WAITING = "Waiting"  # for others of this node
    SAVING = "Saving"  # memory is written: the guest stands still
    COPYING = "Copying"  # the disks, as they were; the guest runs
    READY = "Ready"  # it is in the volume, whole
    FAILED = "Failed"  # and nothing of it is left there


class Consistency(enum.StrEnum):
    """What a snapshot's disks are like."""

    MEMORY = "Memory"  # they fit the memory beside them
    FILESYSTEM = "Filesystem"  # qemu-guest-agent held the guest's file systems still
    CRASH = "Crash"  # as after a power cut


class SnapshotDisk(Lenient):
    name: str
    size_bytes: int  # as the guest sees it
    stored_bytes: int = 0  # what its copy takes


class SnapshotReport(Lenient):
    """One snapshot that was ordered. READY ones are told from their manifest."""

    uid: str
    state: SnapshotState
    percent: int | None = None
    memory_bytes: int = 0  # what memory and devices take in the volume
    disks: tuple[SnapshotDisk, ...] = ()
    consistency: Consistency | None = None
    pause_ms: int | None = None  # so long the guest stood still
    taken_at: str | None = None  # the moment that it holds
    reason: str = ""
    message: str = ""
