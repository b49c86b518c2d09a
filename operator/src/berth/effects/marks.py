"""Marks on volumes: a file that one node makes, and another sees if it mounts the very same. Called by media.py."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from berth.effects import berths, paths
from berth.effects.ports import Berth
from berth.errors import HostFault


def make(berth: Berth, folder: str, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with _volume(berth, folder) as volume, paths.closing(paths.open_beneath(volume, name, flags, mode=0o600)) as fd:
        os.fsync(fd)


def found(berth: Berth, folder: str, name: str) -> bool:
    with _volume(berth, folder) as volume:
        try:
            with paths.closing(paths.open_kind(volume, name, stat.S_IFREG)):
                return True
        except paths.PathMissing:
            return False


def remove(berth: Berth, folder: str, name: str) -> None:
    with _volume(berth, folder) as volume, contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=volume)


@contextlib.contextmanager
def _volume(berth: Berth, folder: str) -> Iterator[int]:
    try:
        with (
            paths.closing(berths.open_root(berth)) as root,
            paths.closing(paths.open_kind(root, folder, stat.S_IFDIR)) as volume,
        ):
            yield volume
    except OSError as error:
        raise HostFault(f"{folder}: {error.strerror}") from error
