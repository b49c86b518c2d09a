"""The files of a machine's saved states: in a volume of its berth, a folder named by the machine's uid. Called by
apply.py and agent/saving.py.

    memory-7       memory and devices of start 7, in libvirt's format
    disk-7-NAME.qcow2   what a disk of the node's alone showed then
    state-7.json   its manifest: written last, renamed into place; a state without one does not exist
    used-7.json    the manifest of a state that was used: its memory is gone, or about to go

Beside them are snapshots (snapshots.py) and the marks of reverts to them (revert_marks.py).
Everything is opened beneath the volume's root and never followed out of it. What is synced is named where it matters.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from berth.api.base import Lenient
from berth.api.kept import SnapshotDisk, StateOrder
from berth.domain.files import DiskFile
from berth.domain.observed import KeptStates
from berth.effects import disk_copies, kept_files, mounts, paths, revert_marks
from berth.effects.folders import MachineFolders
from berth.effects.manifests import KeptDisk
from berth.effects.ports import Berth
from berth.effects.ports_saving import SavedGuest
from berth.errors import HostFault

MARK: Final = "saving"
CLOCK: Final = "clock"
SHOWN: Final = "memory"
"""The name in the machine's own folder under which libvirt finds a state's memory."""
_STATE: Final = re.compile(r"state-([0-9]{1,12})\.json")
_USED: Final = re.compile(r"used-([0-9]{1,12})\.json")
_OURS: Final = re.compile(
    r"(memory-[0-9]{1,12}|disk-[0-9]{1,12}-[a-z0-9.-]{1,63}\.qcow2|state-[0-9]{1,12}\.json(\.new)?)"
)


class Manifest(Lenient):
    """What a whole state is told by: of its memory, and of the disks beside it."""

    uid: str
    epoch: int
    bytes: int
    sha256: str
    machine: str = ""  # QEMU's machine type
    version: int = 1
    disks: tuple[KeptDisk, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeStates:
    """States on a volume's file system."""

    machines: MachineFolders = field(default_factory=MachineFolders)

    def begun(self, vm_uid: str) -> str | None:
        return self.machines.read(vm_uid, MARK)

    def look(self, vm_uid: str, berth: Berth, state: StateOrder) -> KeptStates:
        with kept_files.folder(vm_uid, berth, state) as folder:
            names = os.listdir(folder)
            states = KeptStates(_epochs(names, _STATE), _epochs(names, _USED))
            return revert_marks.look(folder, states)

    def draft(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> str:
        self.machines.write(vm_uid, MARK, state.folder)
        with kept_files.folder(vm_uid, berth, state) as folder:
            kept_files.remove(folder, [_state(epoch)])
            _remove_drafts(folder)
            with paths.closing(kept_files.create(folder, _memory(epoch))) as file:
                return self._show(vm_uid, berth, file)

    def draft_disks(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        epoch: int,
        disks: Sequence[SnapshotDisk],
    ) -> Mapping[str, str]:
        with kept_files.folder(vm_uid, berth, state) as folder:
            where = (self.machines, vm_uid, guest_uid, berth, folder)
            return {disk.name: disk_copies.blank(*where, _disk(epoch, disk.name), disk) for disk in disks}

    def finish(
        self,
        vm_uid: str,
        berth: Berth,
        state: StateOrder,
        epoch: int,
        machine: str,
        disks: Sequence[SnapshotDisk] = (),
    ) -> int:
        kept_files.unshow(self.machines, vm_uid)
        with kept_files.folder(vm_uid, berth, state) as folder:
            with paths.closing(kept_files.opened(folder, _memory(epoch))) as file:
                kept_files.settle(file)
                size, digest = kept_files.memory_digest(file, _memory(epoch))
            kept = tuple(disk_copies.finished(folder, _disk(epoch, disk.name), disk) for disk in disks)
            told = Manifest(uid=vm_uid, epoch=epoch, bytes=size, sha256=digest, machine=machine, disks=kept)
            kept_files.write(folder, _state(epoch), (told.model_dump_json(by_alias=True, indent=1) + "\n").encode())
            others = [name for name in os.listdir(folder) if _OURS.fullmatch(name) or _USED.fullmatch(name)]
            whole = {_memory(epoch), _state(epoch), *(disk.file.name for disk in kept)}
            kept_files.remove(folder, [name for name in others if name not in whole])
        return size + sum(disk.file.bytes for disk in kept)

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        mounts.unbind(self._shown(vm_uid))
        kept_files.unshow(self.machines, vm_uid)
        with kept_files.folder(vm_uid, berth, state) as folder:
            remove(folder)
        self.unmark(vm_uid)

    def unmark(self, vm_uid: str) -> None:
        self._unlink(vm_uid, MARK)

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> SavedGuest:
        with kept_files.folder(vm_uid, berth, state) as folder:
            manifest = _read_manifest(folder, vm_uid, epoch)
            for disk in manifest.disks:
                with paths.closing(kept_files.opened(folder, disk.file.name)) as copy:
                    found = kept_files.digest(copy)
                _same(disk.file.name, (found.size, found.sha256), (disk.file.bytes, disk.file.sha256))
            with paths.closing(kept_files.opened(folder, _memory(epoch))) as file:
                said = kept_files.memory_digest(file, _memory(epoch))
                _same(_memory(epoch), said, (manifest.bytes, manifest.sha256))
                total = manifest.bytes + sum(disk.file.bytes for disk in manifest.disks)
                return SavedGuest(self._show(vm_uid, berth, file), manifest.machine, total, manifest.disks)

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
        with kept_files.folder(vm_uid, berth, state) as folder:
            disk_copies.put_back(folder, _disk(epoch, disk.name), guest_uid, disk, file)

    def use(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> None:
        self.machines.write(vm_uid, CLOCK, f"{epoch}\n")
        with kept_files.folder(vm_uid, berth, state) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.rename(_state(epoch), f"used-{epoch}.json", src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def clock_due(self, vm_uid: str) -> bool:
        return self.machines.read(vm_uid, CLOCK) is not None

    def clock_set(self, vm_uid: str) -> None:
        self._unlink(vm_uid, CLOCK)

    def _unlink(self, vm_uid: str, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.machines.path(vm_uid) / name).unlink()

    def _shown(self, vm_uid: str) -> Path:
        return self.machines.path(vm_uid) / SHOWN

    def _show(self, vm_uid: str, berth: Berth, file: int) -> str:
        return kept_files.show(self.machines, vm_uid, berth, file, SHOWN)


def remove(folder: int) -> None:
    """All states, whole or not; what tells that one was used stays."""
    names = [name for name in os.listdir(folder) if _OURS.fullmatch(name)]
    kept_files.remove(folder, sorted(names, reverse=True))  # manifests before memories


def _memory(epoch: int) -> str:
    return f"memory-{epoch}"


def _disk(epoch: int, name: str) -> str:
    return f"disk-{epoch}-{name}.qcow2"


def _same(name: str, found: tuple[int, str], told: tuple[int, str]) -> None:
    if found != told:
        text = f"{name}: is not what was saved: {found[0]} bytes of {told[0]}, and another checksum"
        raise HostFault(f"{text}. Next: mend the volume; power Off gives the state up", reason="StateCorrupt")


def _state(epoch: int) -> str:
    return f"state-{epoch}.json"


def _epochs(names: list[str], pattern: re.Pattern[str]) -> frozenset[int]:
    return frozenset(int(found[1]) for name in names if (found := pattern.fullmatch(name)))


def _read_manifest(folder: int, vm_uid: str, epoch: int) -> Manifest:
    text = paths.read_regular(folder, _state(epoch), kept_files.MANIFEST_BYTES)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise HostFault(f"{_state(epoch)}: cannot be read: {why}", reason="StateCorrupt") from error
    if (manifest.uid, manifest.epoch, manifest.version) != (vm_uid, epoch, 1):
        told = f"{manifest.uid}, start {manifest.epoch}, version {manifest.version}"
        raise HostFault(f"{_state(epoch)}: is another state's: {told}", reason="StateCorrupt")
    return manifest


def _remove_drafts(folder: int) -> None:
    """What an attempt left that was broken off: memories and disks without a manifest."""
    names = os.listdir(folder)
    whole = {str(epoch) for epoch in _epochs(names, _STATE)}
    ours = [name for name in names if _OURS.fullmatch(name) and not _STATE.fullmatch(name)]
    kept_files.remove(folder, [name for name in ours if name.split("-")[1] not in whole])
