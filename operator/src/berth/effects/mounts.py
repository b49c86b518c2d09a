"""A file of a berth's pod, seen at a fixed path of the node: descriptor in, bind mount out. Called by media.py.

The kernel binds only mounts of the caller's own mount namespace, so the copy is made inside the berth's
(open_tree) and attached in ours (move_mount). Every function is idempotent.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from berth.effects import namespaces, paths, syscalls
from berth.errors import HostFault


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IFMT(status.st_mode), status.st_dev, status.st_ino


def is_bound(source: int, target: Path) -> bool:
    """Whether ``target`` already is the file that ``source`` refers to."""
    try:
        return _identity(os.fstat(source)) == _identity(os.lstat(target))
    except FileNotFoundError:
        return False


def bind(mntns: int, source: int, target: Path) -> bool:
    """Show ``source``, a descriptor from mount namespace ``mntns``, at ``target``; True when something was changed."""
    if is_bound(source, target):
        return False
    unbind(target)
    _make_target(target, is_folder=stat.S_ISDIR(os.fstat(source).st_mode))
    try:
        with paths.closing(namespaces.in_mounts(mntns, lambda: syscalls.open_tree_clone(source))) as copy:
            syscalls.move_mount(copy, str(target))
    except OSError as error:
        raise HostFault(
            f"{target}: cannot show the berth's file there: {error.strerror}", reason="MountFailed"
        ) from error
    return True


def _make_target(target: Path, *, is_folder: bool) -> None:
    if is_folder:
        target.mkdir(mode=0o700, exist_ok=True)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def unbind(target: Path) -> None:
    """Detach everything that is mounted at ``target``."""
    while str(target) in beneath(target):
        syscalls.umount(str(target))


def beneath(folder: Path) -> list[str]:
    """The mount points at and beneath a folder, the latest mount first."""
    return parse_mountinfo(Path("/proc/thread-self/mountinfo").read_text(), str(folder))[::-1]


def parse_mountinfo(text: str, folder: str) -> list[str]:
    """The mount points at and beneath ``folder`` in the order of mounting."""
    points = [unescape(line.split(" ", 5)[4]) for line in text.splitlines()]
    return [point for point in points if point == folder or point.startswith(folder.rstrip("/") + "/")]


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text
