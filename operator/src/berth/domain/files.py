"""The files a machine runs on, as QEMU will see them. Made by the Media port, read by build.py; touches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VMS_FOLDER: Final = "/run/berth/vms"
"""Each machine has a folder in here, named by its uid; QEMU and libvirt see no path outside it."""


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A disk as QEMU will see it: a fixed path in the machine's folder."""

    name: str
    path: str
    format: str  # raw | qcow2
    backing_path: str | None = None
    backing_format: str | None = None


@dataclass(frozen=True, slots=True)
class MediaFiles:
    """Everything on files that the machine needs, at fixed paths beneath /run/berth/vms/UID."""

    disks: tuple[DiskFile, ...]
    console_socket: str
    kernel: str | None = None
    initrd: str | None = None
    seed: str | None = None  # the cloud-init disk
    vnc_socket: str | None = None
