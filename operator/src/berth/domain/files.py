"""The files a machine runs on, as QEMU will see them. Made by the Media port, read by build.py; touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from berth.api.order import DiskKind, DiskOrder, MachineOrder

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


def expected(vm_uid: str, machine: MachineOrder) -> MediaFiles:
    """The files as they would be on a node: for previews and for a node in memory, where nobody opens them."""
    folder = f"{VMS_FOLDER}/{vm_uid}"
    return MediaFiles(
        disks=_expected_disks(folder, machine.disks),
        console_socket=f"{folder}/console.sock",
        kernel=f"{folder}/kernel" if machine.kernel else None,
        initrd=f"{folder}/initrd" if machine.kernel and machine.kernel.initrd else None,
        seed=f"{folder}/seed.iso" if machine.cloud_init else None,
        vnc_socket=f"{folder}/vnc/vnc.sock" if machine.vnc else None,
    )


def _expected_disks(folder: str, disks: Sequence[DiskOrder]) -> tuple[DiskFile, ...]:
    return tuple(
        DiskFile(disk.name, f"{folder}/disk-{disk.name}.qcow2", "qcow2", f"{folder}/disk-{disk.name}.base", "qcow2")
        if disk.kind is DiskKind.OVERLAY
        else DiskFile(disk.name, f"{folder}/disk-{disk.name}.img", "raw")
        for disk in disks
    )
