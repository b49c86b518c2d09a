"""The files of a machine's saved states: in a volume of its berth, a folder named by the machine's uid. Called by
apply.py and agent/saving.py.

    memory-7       memory and devices of start 7, in libvirt's format
    state-7.json   its manifest: written last, renamed into place; a state without one does not exist
    used-7.json    the manifest of a state that was used: its memory is gone, or about to go

Beside them are snapshots (snapshots.py) and the marks of reverts to them (revert_marks.py).
Everything is opened beneath the volume's root and never followed out of it. What is synced is named where it matters.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from berth.api.kept import StateOrder
from berth.domain.observed import KeptStates
from berth.effects import kept_files, mounts, paths, revert_marks
from berth.effects.folders import MachineFolders
from berth.effects.ports import Berth
from berth.effects.ports_saving import SavedGuest
from berth.errors import HostFault

MARK: Final = "saving"
CLOCK: Final = "clock"
SHOWN: Final = "memory"
"""The name in the machine's own folder under which libvirt finds a state's memory."""
_STATE: Final = re.compile(r"state-([0-9]{1,12})\.json")
_USED: Final = re.compile(r"used-([0-9]{1,12})\.json")
_OURS: Final = re.compile(r"(memory-[0-9]{1,12}|state-[0-9]{1,12}\.json(\.new)?)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a whole state is told by."""

    uid: str
    epoch: int
    bytes: int
    sha256: str
    machine: str = ""  # QEMU's machine type
    version: int = 1


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

    def finish(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int, machine: str) -> int:
        with kept_files.folder(vm_uid, berth, state) as folder:
            with paths.closing(kept_files.opened(folder, _memory(epoch))) as file:
                kept_files.settle(file)
                size, digest = kept_files.memory_digest(file, _memory(epoch))
            text = json.dumps(asdict(Manifest(vm_uid, epoch, size, digest, machine)), indent=1) + "\n"
            kept_files.write(folder, _state(epoch), text.encode())
            others = [name for name in os.listdir(folder) if _OURS.fullmatch(name) or _USED.fullmatch(name)]
            kept_files.remove(folder, [name for name in others if name not in (_memory(epoch), _state(epoch))])
        return size

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        mounts.unbind(self._shown(vm_uid))
        with kept_files.folder(vm_uid, berth, state) as folder:
            remove(folder)
        self.unmark(vm_uid)

    def unmark(self, vm_uid: str) -> None:
        self._unlink(vm_uid, MARK)

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> SavedGuest:
        with kept_files.folder(vm_uid, berth, state) as folder:
            manifest = _read_manifest(folder, vm_uid, epoch)
            with paths.closing(kept_files.opened(folder, _memory(epoch))) as file:
                found = kept_files.memory_digest(file, _memory(epoch))
                if found != (manifest.bytes, manifest.sha256):
                    text = f"{_memory(epoch)}: is not what was saved: {found[0]} bytes of {manifest.bytes}, and another"
                    text += " checksum. Next: mend the volume; power Off gives the state up"
                    raise HostFault(text, reason="StateCorrupt")
                return SavedGuest(self._show(vm_uid, berth, file), manifest.machine, manifest.bytes)

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


def _state(epoch: int) -> str:
    return f"state-{epoch}.json"


def _epochs(names: list[str], pattern: re.Pattern[str]) -> frozenset[int]:
    return frozenset(int(found[1]) for name in names if (found := pattern.fullmatch(name)))


def _read_manifest(folder: int, vm_uid: str, epoch: int) -> Manifest:
    text = paths.read_regular(folder, _state(epoch), kept_files.MANIFEST_BYTES)
    try:
        said = json.loads(text)
        manifest = Manifest(**{key: said[key] for key in Manifest.__slots__ if key in said})
    except (ValueError, TypeError) as error:
        raise HostFault(f"{_state(epoch)}: cannot be read: {error}", reason="StateCorrupt") from error
    if (manifest.uid, manifest.epoch, manifest.version) != (vm_uid, epoch, 1):
        told = f"{manifest.uid}, start {manifest.epoch}, version {manifest.version}"
        raise HostFault(f"{_state(epoch)}: is another state's: {told}", reason="StateCorrupt")
    return manifest


def _remove_drafts(folder: int) -> None:
    """What an attempt left that was broken off: memories without a manifest."""
    names = os.listdir(folder)
    whole = {_memory(epoch) for epoch in _epochs(names, _STATE)}
    kept_files.remove(
        folder, [name for name in names if _OURS.fullmatch(name) and not _STATE.fullmatch(name) and name not in whole]
    )
