"""Linux system calls that Python does not offer, as functions that raise OSError. Called by the node's effects only.

This module knows numbers and structures, not what they are good for.
"""

from __future__ import annotations

import ctypes
import os

# Numbers since Linux 5.x are the same on every architecture.
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_OPENAT2 = 437

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _checked(result: int, subject: object = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)
    return result


def openat2(dir_fd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """open(2) with a say in how the path may be resolved. The descriptor is close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    number = ctypes.c_long(_OPENAT2)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    for _ in range(32):
        result = _libc.syscall(number, ctypes.c_int(dir_fd), os.fsencode(path), ctypes.byref(how), size)
        if result >= 0 or ctypes.get_errno() != 11:  # EAGAIN: something was renamed meanwhile; ask again
            break
    return _checked(result, path)


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into a namespace: never call it on a thread that lives on afterwards."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), f"namespace {fd}")


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)))


def open_tree_clone(fd: int) -> int:
    """A detached copy of the mount at ``fd``, restricted to the file or folder that ``fd`` is."""
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH)
    return _checked(_libc.syscall(ctypes.c_long(_OPEN_TREE), ctypes.c_int(fd), b"", flags), fd)


def move_mount(fd: int, target: str) -> None:
    """Attach a detached mount at ``target``."""
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    number = ctypes.c_long(_MOVE_MOUNT)
    result = _libc.syscall(number, ctypes.c_int(fd), b"", ctypes.c_int(_AT_FDCWD), os.fsencode(target), flags)
    _checked(result, target)


def umount(target: str) -> None:
    """Detach what is mounted at ``target`` itself; users of it keep what they have open."""
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(MNT_DETACH | UMOUNT_NOFOLLOW)), target)
