"""The files of a machine's snapshots: in its folder of the volume for its states, beside those. Called by apply.py and
agent/taking.py.

    snapshots/UID/memory            memory and devices, in libvirt's format
    snapshots/UID/disk-NAME.qcow2   all that a disk shows; QEMU writes it, as the guest's uid, while it is taken
    snapshots/UID/snapshot.json     the manifest: written last, renamed into place; without one there is no snapshot
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from berth.api.kept import SnapshotDisk, SnapshotOrder, StateOrder
from berth.domain.observed import KeptSnapshots
from berth.effects import disk_copies, kept_files, manifests, paths, revert_marks, snapshot_folders
from berth.effects.folders import MachineFolders
from berth.effects.manifests import KeptFile, Manifest
from berth.effects.ports import Berth
from berth.effects.ports_saving import SnapshotDraft, SnapshotMoment
from berth.errors import HostFault

MARK: Final = "snapshot"


@dataclass(frozen=True, slots=True)
class NodeSnapshots:
    """Snapshots on a volume's file system."""

    machines: MachineFolders = field(default_factory=MachineFolders)

    def begun(self, vm_uid: str) -> bool:
        return self.machines.read(vm_uid, MARK) is not None

    def look(self, vm_uid: str, berth: Berth, state: StateOrder) -> KeptSnapshots:
        ordered = state.snapshot.uid if state.snapshot is not None else ""
        with kept_files.folder(vm_uid, berth, state) as folder:
            there = frozenset(snapshot_folders.uids(folder))
            whole = ordered in snapshot_folders.whole(folder)
            ready = snapshot_folders.manifest(folder, ordered, vm_uid).report() if whole else None
            return KeptSnapshots(there, ready, revert_marks.reverted(folder))

    def draft(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        snapshot: SnapshotOrder,
        disks: Sequence[SnapshotDisk],
    ) -> SnapshotDraft:
        self._mark(vm_uid, state, snapshot.uid)
        with kept_files.folder(vm_uid, berth, state) as folder, snapshot_folders.every(folder, make=True) as every:
            for uid in set(snapshot_folders.uids(folder)) - snapshot_folders.whole(folder):
                snapshot_folders.remove(every, uid)  # left by an attempt that was broken off
            os.mkdir(snapshot_folders.checked(snapshot.uid), 0o700, dir_fd=every)
            with kept_files.subfolder(every, snapshot.uid) as own:
                memory = self._blank(vm_uid, berth, own, snapshot_folders.MEMORY) if snapshot.memory else None
                where = (self.machines, vm_uid, guest_uid, berth, own)
                blanks = {d.name: disk_copies.blank(*where, snapshot_folders.disk_name(d.name), d) for d in disks}
                os.fsync(own)
            os.fsync(every)
            os.fsync(folder)
        return SnapshotDraft(memory, blanks)

    def finish(
        self, vm_uid: str, berth: Berth, state: StateOrder, snapshot: SnapshotOrder, moment: SnapshotMoment
    ) -> None:
        kept_files.unshow(self.machines, vm_uid)
        with kept_files.folder(vm_uid, berth, state) as folder, snapshot_folders.one(folder, snapshot.uid) as own:
            made = Manifest(
                uid=snapshot.uid,
                name=snapshot.name,
                vm=vm_uid,
                taken_at=moment.taken_at,
                consistency=moment.consistency,
                pause_ms=moment.pause_ms,
                machine=moment.machine,
                memory=_memory(own) if snapshot.memory else None,
                disks=tuple(
                    disk_copies.finished(own, snapshot_folders.disk_name(disk.name), disk) for disk in moment.disks
                ),
            )
            manifests.write(own, made)

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        kept_files.unshow(self.machines, vm_uid)
        uid = self._marked(vm_uid).get("snapshot", "")
        with kept_files.folder(vm_uid, berth, state) as folder:
            if uid in snapshot_folders.uids(folder) and uid not in snapshot_folders.whole(folder):
                with snapshot_folders.every(folder) as every:
                    snapshot_folders.remove(every, uid)

    def unmark(self, vm_uid: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.machines.path(vm_uid) / MARK).unlink()

    def mark_frozen(self, vm_uid: str, *, frozen: bool) -> None:
        self.machines.write(vm_uid, MARK, json.dumps({**self._marked(vm_uid), "frozen": frozen}))

    def frozen(self, vm_uid: str) -> bool:
        return bool(self._marked(vm_uid).get("frozen"))

    def forget(self, vm_uid: str, berth: Berth, state: StateOrder, deleted: Sequence[str]) -> None:
        with kept_files.folder(vm_uid, berth, state) as folder:
            for uid in set(snapshot_folders.uids(folder)) & set(deleted):
                with snapshot_folders.every(folder) as every:
                    snapshot_folders.remove(every, uid)

    def _mark(self, vm_uid: str, state: StateOrder, uid: str) -> None:
        self.machines.write(vm_uid, MARK, json.dumps({"folder": state.folder, "snapshot": uid}))

    def _marked(self, vm_uid: str) -> dict[str, str]:
        text = self.machines.read(vm_uid, MARK)
        found: dict[str, str] = json.loads(text) if text else {}
        return found

    def _blank(self, vm_uid: str, berth: Berth, own: int, name: str) -> str:
        with paths.closing(kept_files.create(own, name)) as file:
            return kept_files.show(self.machines, vm_uid, berth, file, f"{kept_files.SHOWN}{name}")


def _memory(own: int) -> KeptFile:
    found = kept_files.finished(own, snapshot_folders.MEMORY)
    if found.begin != kept_files.MAGIC:
        raise HostFault("memory: libvirt has not written it to its end", reason="SnapshotFailed")
    return KeptFile(name=snapshot_folders.MEMORY, bytes=found.size, sha256=found.sha256)
