"""The files of a machine's saved states: in a volume of its berth, a folder named by the machine's uid. Called by
apply.py and agent/saving.py.

    memory-7       memory and devices of start 7, in libvirt's format
    state-7.json   its manifest: written last, renamed into place; a state without one does not exist
    used-7.json    the manifest of a state that was used: its memory is gone, or about to go

Everything is opened beneath the volume's root and never followed out of it. What is synced is named where it matters.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from berth.api.kept import StateOrder
from berth.domain.observed import KeptStates
from berth.effects import berths, mounts, paths
from berth.effects.folders import MachineFolders
from berth.effects.ports import Berth
from berth.effects.ports_saving import SavedGuest
from berth.errors import HostFault

MARK: Final = "saving"
CLOCK: Final = "clock"
SHOWN: Final = "memory"
"""The name in the machine's own folder under which libvirt finds a state's memory."""
MAGIC: Final = b"LibvirtQemudSave"
"""How a file begins that libvirt has written to its end; before, it says Part."""
_CHUNK: Final = 4 << 20
_MANIFEST_BYTES: Final = 65536
_STATE: Final = re.compile(r"state-([0-9]{1,12})\.json")
_USED: Final = re.compile(r"used-([0-9]{1,12})\.json")
_OURS: Final = re.compile(r"(memory-[0-9]{1,12}|state-[0-9]{1,12}\.json(\.new)?)")
_FULL: Final = (28, 122)  # ENOSPC, EDQUOT


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
        with _folder(vm_uid, berth, state) as folder:
            names = os.listdir(folder)
        return KeptStates(_epochs(names, _STATE), _epochs(names, _USED))

    def draft(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> str:
        self.machines.write(vm_uid, MARK, state.folder)
        with _folder(vm_uid, berth, state) as folder:
            _remove(folder, [_state(epoch)])
            _remove_drafts(folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with paths.closing(paths.open_beneath(folder, _memory(epoch), flags, mode=0o600)) as file:
                return self._show(vm_uid, berth, file)

    def finish(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int, machine: str) -> int:
        with _folder(vm_uid, berth, state) as folder:
            with paths.closing(_open(folder, _memory(epoch))) as file:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)  # what is read now is what the disk has
                size, digest = _digest(file, _memory(epoch))
            text = json.dumps(asdict(Manifest(vm_uid, epoch, size, digest, machine)), indent=1) + "\n"
            _write(folder, _state(epoch), text.encode())
            others = [name for name in os.listdir(folder) if _OURS.fullmatch(name) or _USED.fullmatch(name)]
            _remove(folder, [name for name in others if name not in (_memory(epoch), _state(epoch))])
        return size

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        mounts.unbind(self._shown(vm_uid))
        with _folder(vm_uid, berth, state) as folder:
            names = [name for name in os.listdir(folder) if _OURS.fullmatch(name)]
            _remove(folder, sorted(names, reverse=True))  # manifests before memories
        self.unmark(vm_uid)

    def unmark(self, vm_uid: str) -> None:
        self._unlink(vm_uid, MARK)

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> SavedGuest:
        with _folder(vm_uid, berth, state) as folder:
            manifest = _read_manifest(folder, vm_uid, epoch)
            with paths.closing(_open(folder, _memory(epoch))) as file:
                found = _digest(file, _memory(epoch))
                if found != (manifest.bytes, manifest.sha256):
                    text = f"{_memory(epoch)}: is not what was saved: {found[0]} bytes of {manifest.bytes}, and another"
                    text += " checksum. Next: mend the volume; power Off gives the state up"
                    raise HostFault(text, reason="StateCorrupt")
                return SavedGuest(self._show(vm_uid, berth, file), manifest.machine, manifest.bytes)

    def use(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> None:
        self.machines.write(vm_uid, CLOCK, f"{epoch}\n")
        with _folder(vm_uid, berth, state) as folder:
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
        self.machines.make(vm_uid)
        with paths.closing(berths.open_namespace(berth, "mnt")) as mntns:
            mounts.bind(mntns, file, self._shown(vm_uid))
        return str(self._shown(vm_uid))


def _memory(epoch: int) -> str:
    return f"memory-{epoch}"


def _state(epoch: int) -> str:
    return f"state-{epoch}.json"


def _epochs(names: list[str], pattern: re.Pattern[str]) -> frozenset[int]:
    return frozenset(int(found[1]) for name in names if (found := pattern.fullmatch(name)))


@contextlib.contextmanager
def _folder(vm_uid: str, berth: Berth, state: StateOrder) -> Iterator[int]:
    """The machine's folder in the volume, made when it is not there; the system's errors become ours, once."""
    try:
        with ExitStack() as stack:
            root = stack.enter_context(paths.closing(berths.open_root(berth)))
            volume = stack.enter_context(paths.closing(paths.open_kind(root, state.folder, stat.S_IFDIR)))
            with contextlib.suppress(FileExistsError):
                os.mkdir(vm_uid, 0o700, dir_fd=volume)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            yield stack.enter_context(paths.closing(paths.open_beneath(volume, vm_uid, flags)))
    except OSError as error:
        full = error.errno in _FULL
        text = f"the volume for its state: {error.strerror}" + (". Next: free or add space on it" if full else "")
        raise HostFault(text, reason="VolumeFull" if full else "StateUnreadable") from error


def _open(folder: int, name: str) -> int:
    """A regular file, for reading."""
    with paths.closing(paths.open_kind(folder, name, stat.S_IFREG)) as found:
        return paths.reopen(found, os.O_RDONLY)


def _digest(file: int, name: str) -> tuple[int, str]:
    """Size and checksum; StateCorrupt when libvirt has not written it to its end."""
    digest, size, first = hashlib.sha256(), 0, b""
    while chunk := os.pread(file, _CHUNK, size):
        first = first or chunk[: len(MAGIC)]
        digest.update(chunk)
        size += len(chunk)
    if first != MAGIC:
        raise HostFault(f"{name}: is no state that libvirt has written to its end", reason="StateCorrupt")
    return size, digest.hexdigest()


def _read_manifest(folder: int, vm_uid: str, epoch: int) -> Manifest:
    text = paths.read_regular(folder, _state(epoch), _MANIFEST_BYTES)
    try:
        said = json.loads(text)
        manifest = Manifest(**{key: said[key] for key in Manifest.__slots__ if key in said})
    except (ValueError, TypeError) as error:
        raise HostFault(f"{_state(epoch)}: cannot be read: {error}", reason="StateCorrupt") from error
    if (manifest.uid, manifest.epoch, manifest.version) != (vm_uid, epoch, 1):
        told = f"{manifest.uid}, start {manifest.epoch}, version {manifest.version}"
        raise HostFault(f"{_state(epoch)}: is another state's: {told}", reason="StateCorrupt")
    return manifest


def _write(folder: int, name: str, content: bytes) -> None:
    """There whole or not at all, whatever happens, and on the disk when this returns."""
    draft = f"{name}.new"
    _remove(folder, [draft])
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with paths.closing(paths.open_beneath(folder, draft, flags, mode=0o600)) as file:
        os.write(file, content)
        os.fsync(file)
    os.fsync(folder)  # the memory's own name is to be there before the manifest's is
    os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def _remove_drafts(folder: int) -> None:
    """What an attempt left that was broken off: memories without a manifest."""
    names = os.listdir(folder)
    whole = {_memory(epoch) for epoch in _epochs(names, _STATE)}
    _remove(
        folder, [name for name in names if _OURS.fullmatch(name) and not _STATE.fullmatch(name) and name not in whole]
    )


def _remove(folder: int, names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    if names:
        os.fsync(folder)
