"""Disks put back from a snapshot, with the marks that tell how far that is. Called by apply.py and agent/reverting.py.

A snapshot's files are read, and never changed, but that qemu-img, which runs as the guest's uid, is let read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from berth.api.kept import RevertOrder, SnapshotDisk, StateOrder
from berth.domain.files import DiskFile
from berth.effects import disk_copies, kept_files, mounts, paths, revert_marks, snapshot_folders, states
from berth.effects.folders import MachineFolders
from berth.effects.manifests import KeptFile, Manifest
from berth.effects.ports import Berth
from berth.effects.ports_saving import KeptSnapshot
from berth.errors import HostFault


@dataclass(frozen=True, slots=True)
class NodeReverts:
    """Reverts on a volume's file system."""

    machines: MachineFolders = field(default_factory=MachineFolders)

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> KeptSnapshot:
        with kept_files.folder(vm_uid, berth, state) as folder:
            told = snapshot_folders.manifest(folder, revert.snapshot, vm_uid)
            with snapshot_folders.one(folder, revert.snapshot) as own:
                total = sum(_verify(own, file, revert.name) for file in _files(told, revert))
        if revert.memory and told.memory is None:
            text = f"snapshot {revert.name} has no memory: it is of disks alone. Next: revert to it without memory"
            raise HostFault(text, reason="SnapshotWithoutMemory")
        return KeptSnapshot(told.machine, told.disks, total)

    def begin(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> None:
        with kept_files.folder(vm_uid, berth, state) as folder:
            revert_marks.write(folder, revert_marks.REVERTING, revert)

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
        with kept_files.folder(vm_uid, berth, state) as folder, snapshot_folders.one(folder, revert.snapshot) as own:
            disk_copies.put_back(own, snapshot_folders.disk_name(disk.name), guest_uid, disk, file)

    def show(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> str:
        with (
            kept_files.folder(vm_uid, berth, state) as folder,
            snapshot_folders.one(folder, revert.snapshot) as own,
            paths.closing(kept_files.opened(own, snapshot_folders.MEMORY)) as file,
        ):
            return kept_files.show(self.machines, vm_uid, berth, file, states.SHOWN)

    def use(self, vm_uid: str, berth: Berth, state: StateOrder, revert: RevertOrder) -> None:
        if revert.memory:
            self.machines.write(vm_uid, states.CLOCK, f"{revert.request}\n")
        mounts.unbind(self.machines.path(vm_uid) / states.SHOWN)
        with kept_files.folder(vm_uid, berth, state) as folder:
            states.remove(folder)  # what was saved before must never meet these disks
            revert_marks.write(folder, revert_marks.REVERTED, revert)
            kept_files.remove(folder, [revert_marks.REVERTING])


def _files(told: Manifest, revert: RevertOrder) -> list[KeptFile]:
    memory = [told.memory] if told.memory is not None and revert.memory else []
    return [*memory, *(disk.file for disk in told.disks)]


def _verify(own: int, file: KeptFile, snapshot: str) -> int:
    with paths.closing(kept_files.opened(own, file.name)) as opened:
        found = kept_files.digest(opened)
    if (found.size, found.sha256) != (file.bytes, file.sha256):
        text = f"snapshot {snapshot}: {file.name}: is not what was taken: {found.size} bytes of {file.bytes}, and"
        text += " another checksum. Next: mend the volume, or revert to another snapshot"
        raise HostFault(text, reason="SnapshotCorrupt")
    return found.size
