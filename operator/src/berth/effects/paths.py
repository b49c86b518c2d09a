"""Files in places that others can write to, as safe descriptors: opened beneath a folder, never followed out of it.

Called by berths.py, media.py and links.py. A path is resolved once, by the kernel (openat2), and from then on only the
descriptor is used: what a path meant a moment ago proves nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from berth.effects import syscalls
from berth.errors import HostFault

_WHAT = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


class UnsafePath(HostFault):
    """A path leaves its folder, or leads through a link where none may be, or to something other than expected."""

    reason = "UnsafePath"


class PathMissing(HostFault):
    """There is nothing at that path."""

    reason = "FileMissing"


def open_beneath(folder: int, path: str, flags: int, *, symlinks: bool = False, mode: int = 0) -> int:
    """Open ``path`` (a leading slash means the folder itself) beneath the folder; links only where allowed."""
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS
    if not symlinks:
        resolve |= syscalls.RESOLVE_NO_SYMLINKS
    try:
        return syscalls.openat2(folder, path.lstrip("/") or ".", flags, mode, resolve)
    except FileNotFoundError as error:
        raise PathMissing(f"{path}: there is no such file; check the path") from error
    except NotADirectoryError as error:
        raise PathMissing(f"{path}: a part of this path is no folder; check the path") from error
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: str, error: OSError) -> HostFault:
    match error.errno:
        case 40:  # ELOOP
            return UnsafePath(f"{path}: leads through a symbolic link; name the file it points to instead")
        case 18:  # EXDEV
            return UnsafePath(f"{path}: leads out of its folder; a path must stay inside it")
        case _:
            return HostFault(f"{path}: cannot be opened: {error.strerror}")


def open_kind(folder: int, path: str, kind: int, *, symlinks: bool = False) -> int:
    """An O_PATH descriptor of what is at ``path``, which must be of that kind (stat.S_IFREG, S_IFDIR, S_IFSOCK).

    Opening with O_PATH neither waits for a pipe's writer nor wakes a device's driver.
    """
    flags = os.O_PATH | (0 if symlinks else os.O_NOFOLLOW)
    fd = open_beneath(folder, path, flags, symlinks=symlinks)
    found = stat.S_IFMT(os.fstat(fd).st_mode)
    if found != kind:
        os.close(fd)
        raise UnsafePath(f"{path}: must be {_WHAT[kind]}, but is {_WHAT.get(found, 'something else')}")
    return fd


def reopen(fd: int, flags: int) -> int:
    """A descriptor to read or write through, of exactly the file that an O_PATH descriptor refers to."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NOCTTY)


def read_regular(folder: int, path: str, limit: int, *, symlinks: bool = False) -> bytes:
    """The content of a regular file; more than ``limit`` bytes are refused."""
    with closing(open_kind(folder, path, stat.S_IFREG, symlinks=symlinks)) as found, closing(reopen(found, 0)) as fd:
        content = bytearray()
        while chunk := os.read(fd, min(65536, limit + 1 - len(content))):
            content += chunk
        if len(content) > limit:
            raise HostFault(f"{path}: is larger than {limit} bytes; make it smaller", reason="FileTooLarge")
        return bytes(content)


@contextmanager
def closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
