"""Where a machine's snapshots are beneath its folder in the volume, and which of them are whole. Used by snapshots.py,
reverts.py and revert_marks.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from berth.effects import kept_files, manifests, paths
from berth.effects.manifests import Manifest
from berth.errors import HostFault

FOLDER: Final = "snapshots"
MEMORY: Final = "memory"
_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def manifest(folder: int, uid: str, vm_uid: str) -> Manifest:
    with one(folder, uid) as own:
        return manifests.read(own, uid, vm_uid)


def uids(folder: int) -> list[str]:
    """Of all that anything is there of."""
    try:
        with every(folder) as found:
            return [name for name in os.listdir(found) if _UID.fullmatch(name)]
    except paths.PathMissing:
        return []


def whole(folder: int) -> frozenset[str]:
    try:
        with every(folder) as found:
            return frozenset(uid for uid in uids(folder) if _is_whole(found, uid))
    except paths.PathMissing:
        return frozenset()


def _is_whole(parent: int, uid: str) -> bool:
    try:
        with kept_files.subfolder(parent, uid) as own:
            return kept_files.exists(own, manifests.NAME)
    except (paths.PathMissing, paths.UnsafePath):
        return False


@contextlib.contextmanager
def every(folder: int, *, make: bool = False) -> Iterator[int]:
    with kept_files.subfolder(folder, FOLDER, make=make) as found:
        yield found


@contextlib.contextmanager
def one(folder: int, uid: str) -> Iterator[int]:
    with every(folder) as all_of_them, kept_files.subfolder(all_of_them, checked(uid)) as found:
        yield found


def checked(uid: str) -> str:
    if not _UID.fullmatch(uid):
        raise HostFault(f"{uid!r} is no snapshot's uid: a lower-case UUID is expected", reason="BadUid")
    return uid


def remove(parent: int, uid: str) -> None:
    """The manifest first: what is half removed is no snapshot. A link is removed itself, never followed."""
    if not stat.S_ISDIR(os.stat(uid, dir_fd=parent, follow_symlinks=False).st_mode):
        kept_files.remove(parent, [uid])
        return
    with kept_files.subfolder(parent, uid) as own:
        kept_files.remove(own, [manifests.NAME])
        kept_files.remove(own, os.listdir(own))
    os.rmdir(uid, dir_fd=parent)
    os.fsync(parent)


def disk_name(name: str) -> str:
    return f"disk-{name}.qcow2"
