"""A machine's folder in the volume for its states: opened beneath the volume's root, never followed out of it. What is
in it is verified when it is read, and there whole or not at all. Used by states.py, snapshots.py and reverts.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from berth.api.kept import StateOrder
from berth.effects import berths, mounts, paths
from berth.effects.folders import MachineFolders
from berth.effects.ports import Berth
from berth.errors import HostFault

MAGIC: Final = b"LibvirtQemudSave"
"""How a file begins that libvirt has written to its end; before, it says Part."""
MANIFEST_BYTES: Final = 65536
SHOWN: Final = "snapshot-"
"""How names in a machine's own folder begin under which QEMU and libvirt find what they write copies to."""
_CHUNK: Final = 4 << 20
_FULL: Final = (28, 122)  # ENOSPC, EDQUOT


@dataclass(frozen=True, slots=True)
class Digest:
    size: int
    sha256: str
    begin: bytes


@contextlib.contextmanager
def folder(vm_uid: str, berth: Berth, state: StateOrder) -> Iterator[int]:
    """Made when it is not there; the system's errors become ours, once."""
    try:
        with ExitStack() as stack:
            root = stack.enter_context(paths.closing(berths.open_root(berth)))
            volume = stack.enter_context(paths.closing(paths.open_kind(root, state.folder, stat.S_IFDIR)))
            yield stack.enter_context(subfolder(volume, vm_uid, make=True))
    except OSError as error:
        full = error.errno in _FULL
        text = f"the volume for its state: {error.strerror}" + (". Next: free or add space on it" if full else "")
        raise HostFault(text, reason="VolumeFull" if full else "StateUnreadable") from error


@contextlib.contextmanager
def subfolder(parent: int, name: str, *, make: bool = False) -> Iterator[int]:
    """PathMissing when it is not there, and is not made."""
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
    with paths.closing(paths.open_kind(parent, name, stat.S_IFDIR)) as place:
        found = paths.reopen(place, os.O_RDONLY | os.O_DIRECTORY)
    with paths.closing(found):
        yield found


def create(folder: int, name: str) -> int:
    """A new file, root's alone, for reading and writing."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return paths.open_beneath(folder, name, flags, mode=0o600)


def opened(folder: int, name: str) -> int:
    """A regular file, for reading."""
    with paths.closing(paths.open_kind(folder, name, stat.S_IFREG)) as found:
        return paths.reopen(found, os.O_RDONLY)


def show(machines: MachineFolders, vm_uid: str, berth: Berth, file: int, name: str) -> str:
    """Bind it into the machine's folder on this node, where QEMU and libvirt find it."""
    target = machines.make(vm_uid) / name
    with paths.closing(berths.open_namespace(berth, "mnt")) as mntns:
        mounts.bind(mntns, file, target)
    return str(target)


def unshow(machines: MachineFolders, vm_uid: str) -> None:
    """All that was shown under names of SHOWN."""
    folder = machines.path(vm_uid)
    for point in mounts.beneath(folder):
        if point.startswith(f"{folder}/{SHOWN}"):
            mounts.unbind(folder / point.rpartition("/")[2])


def exists(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def settle(file: int) -> None:
    """Have it on the disk, and forget it: what is read afterwards is what the disk has."""
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def digest(file: int) -> Digest:
    made, size, first = hashlib.sha256(), 0, b""
    while chunk := os.pread(file, _CHUNK, size):
        first = first or chunk[: len(MAGIC)]
        made.update(chunk)
        size += len(chunk)
    return Digest(size, made.hexdigest(), first)


def finished(folder: int, name: str) -> Digest:
    """Root's alone from now on, on the disk, and read back from there."""
    with paths.closing(opened(folder, name)) as file:
        os.fchown(file, 0, 0)
        os.fchmod(file, 0o600)
        settle(file)
        return digest(file)


def memory_digest(file: int, name: str) -> tuple[int, str]:
    """Size and checksum of a memory; StateCorrupt when libvirt has not written it to its end."""
    found = digest(file)
    if found.begin != MAGIC:
        raise HostFault(f"{name}: is no state that libvirt has written to its end", reason="StateCorrupt")
    return found.size, found.sha256


def write(folder: int, name: str, content: bytes) -> None:
    """There whole or not at all, whatever happens, and on the disk when this returns."""
    draft = f"{name}.new"
    remove(folder, [draft])
    with paths.closing(create(folder, draft)) as file:
        os.write(file, content)
        os.fsync(file)
    os.fsync(folder)  # the names of what it tells of are to be there before its own is
    os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


def remove(folder: int, names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    if names:
        os.fsync(folder)
