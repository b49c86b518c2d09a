"""Snapshots and reverts to them, in memory. Used by tests, beside memory_states.py, whose Volume holds them.

A disk has no content here, but the name of the snapshot that it was put back from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from berth.api.kept import RevertOrder, SnapshotDisk, SnapshotOrder, StateOrder
from berth.domain.files import DiskFile
from berth.domain.observed import KeptSnapshots
from berth.effects.manifests import KeptDisk, KeptFile, Manifest
from berth.effects.memory_states import Volume
from berth.effects.ports import Berth
from berth.effects.ports_saving import Copying, Held, KeptSnapshot, SnapshotDraft, SnapshotMoment
from berth.errors import HostFault

Did = Callable[[str, str], None]


@dataclass(slots=True)
class MemorySnapshots:
    """``marks``: machines that a snapshot was begun of; which one, and whose file systems may be frozen, is beside."""

    volume: Volume
    did: Did
    marks: set[str] = field(default_factory=set)
    begun_of: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    def begun(self, vm_uid: str) -> bool:
        return vm_uid in self.marks

    def look(self, vm_uid: str, berth: Berth, state: StateOrder) -> KeptSnapshots:
        there = frozenset(uid for vm, uid in self.volume.snapshots if vm == vm_uid)
        told = self.volume.snapshots.get((vm_uid, state.snapshot.uid)) if state.snapshot is not None else None
        reverted = self.volume.reverted.get(vm_uid, "")
        return KeptSnapshots(there, told.report() if told is not None else None, reverted)

    def draft(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        snapshot: SnapshotOrder,
        disks: Sequence[SnapshotDisk],
    ) -> SnapshotDraft:
        self.marks.add(vm_uid)
        self.begun_of[vm_uid] = snapshot.uid
        self.held.discard(vm_uid)
        self.did("draft_snapshot", vm_uid)
        volume = self.volume
        volume.snapshots = {key: told for key, told in volume.snapshots.items() if told is not None or key[0] != vm_uid}
        volume.snapshots[vm_uid, snapshot.uid] = None
        memory = f"/memory/{vm_uid}/memory" if snapshot.memory else None
        return SnapshotDraft(memory, {disk.name: f"/memory/{vm_uid}/{disk.name}" for disk in disks})

    def finish(
        self, vm_uid: str, berth: Berth, state: StateOrder, snapshot: SnapshotOrder, moment: SnapshotMoment
    ) -> None:
        self.did("finish_snapshot", vm_uid)
        self.volume.snapshots[vm_uid, snapshot.uid] = Manifest(
            uid=snapshot.uid,
            name=snapshot.name,
            vm=vm_uid,
            taken_at=moment.taken_at,
            consistency=moment.consistency,
            pause_ms=moment.pause_ms,
            machine=moment.machine,
            memory=_file("memory") if snapshot.memory else None,
            disks=tuple(_disk(disk) for disk in moment.disks),
        )

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        self.did("scrap_snapshot", vm_uid)
        uid = self.begun_of.get(vm_uid, "")
        if self.volume.snapshots.get((vm_uid, uid)) is None:
            self.volume.snapshots.pop((vm_uid, uid), None)

    def unmark(self, vm_uid: str) -> None:
        self.marks.discard(vm_uid)

    def mark_frozen(self, vm_uid: str, *, frozen: bool) -> None:
        (self.held.add if frozen else self.held.discard)(vm_uid)

    def frozen(self, vm_uid: str) -> bool:
        return vm_uid in self.marks and vm_uid in self.held

    def forget(self, vm_uid: str, berth: Berth, state: StateOrder, deleted: Sequence[str]) -> None:
        self.did("forget_snapshots", vm_uid)
        for uid in deleted:
            self.volume.snapshots.pop((vm_uid, uid), None)


@dataclass(slots=True)
class MemoryReverts:
    volume: Volume
    did: Did
    clocks: set[str]

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> KeptSnapshot:
        told = self.volume.snapshots.get((vm_uid, revert.snapshot))
        if told is None or revert.snapshot in self.volume.spoiled:
            raise HostFault(f"snapshot {revert.name}: memory: is not what was taken", reason="SnapshotCorrupt")
        return KeptSnapshot(told.machine, told.disks, 1)

    def begin(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> None:
        self.did("begin_revert", vm_uid)
        self.volume.reverting[vm_uid] = revert

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
        self.volume.disks[vm_uid] = "half"
        self.did("put_back", f"{vm_uid} {disk.name}")
        self.volume.disks[vm_uid] = revert.snapshot

    def show(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> str:
        return f"/memory/{vm_uid}/snapshot"

    def use(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> None:
        self.did("use_revert", f"{vm_uid} {revert.request}")
        if revert.memory:
            self.clocks.add(vm_uid)
        self.volume.complete = {one for one in self.volume.complete if one[0] != vm_uid}
        self.volume.reverted[vm_uid] = revert.request
        self.volume.reverting.pop(vm_uid, None)


@dataclass(slots=True)
class MemoryBackups:
    """``has`` tells whether the machine has a domain. Copies take as many looks as ``looks`` says."""

    did: Did
    has: Callable[[str], bool]
    looks: int = 2
    agent: bool = True
    silent: int = 0  # so often the guest's agent does not answer
    running: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    frozen: set[str] = field(default_factory=set)

    def activate(self, uid: str) -> None:
        self.did("activate", uid)

    def begin(self, uid: str, targets: Mapping[str, str]) -> None:
        self._there(uid)
        self.did("backup", uid)
        self.failed.discard(uid)
        self.running[uid] = self.looks

    def copying(self, uid: str) -> Copying | None:
        self._there(uid)
        left = self.running.get(uid)
        if left is None:
            return None
        self.running[uid] = left - 1
        if left - 1 <= 0:
            del self.running[uid]
        return Copying(self.looks - left, self.looks)

    def check(self, uid: str) -> None:
        if uid in self.failed:
            raise HostFault("the guest's disks were not copied to the end", reason="SnapshotFailed")

    def abort(self, uid: str) -> None:
        if self.running.pop(uid, None) is not None:
            self.did("abort_backup", uid)
            self.failed.add(uid)

    def freeze(self, uid: str) -> Held:
        self._there(uid)
        if not self.agent:
            return Held.NO
        self.did("freeze", uid)
        self.frozen.add(uid)
        return Held.YES if not self.silent else Held.PERHAPS

    def thaw(self, uid: str) -> bool:
        self._there(uid)
        if self.silent:
            self.silent -= 1
            return False
        if self.agent:
            self.did("thaw", uid)
            self.frozen.discard(uid)
        return True

    def _there(self, uid: str) -> None:
        if not self.has(uid):
            raise HostFault(f"domain {uid} is not there", reason="SnapshotFailed")


def _file(name: str) -> KeptFile:
    return KeptFile(name=name, bytes=1, sha256="0" * 64)


def _disk(disk: SnapshotDisk) -> KeptDisk:
    return KeptDisk(name=disk.name, size_bytes=disk.size_bytes, stored_bytes=1, file=_file(f"disk-{disk.name}.qcow2"))
