"""A guest's disk as a file in its volume: made blank for QEMU to write, finished, and put back into a disk. Used by
snapshots.py, reverts.py and states.py.

While it is written it is the guest's uid's, and root's alone afterwards. QEMU wrote it: what its header says is not
believed before it is judged.
"""

from __future__ import annotations

import contextlib
import os

from berth.api.kept import SnapshotDisk
from berth.domain.files import DiskFile
from berth.effects import kept_files, paths, qemuimg
from berth.effects.folders import MachineFolders
from berth.effects.manifests import KeptDisk, KeptFile
from berth.effects.ports import Berth
from berth.errors import HostFault


def blank(
    machines: MachineFolders, vm_uid: str, guest_uid: int, berth: Berth, folder: int, name: str, disk: SnapshotDisk
) -> str:
    """A new empty image as large as the disk; where QEMU finds it."""
    with paths.closing(kept_files.create(folder, name)) as file:
        os.fchown(file, guest_uid, guest_uid)
        try:
            qemuimg.create_qcow2(file, guest_uid, disk.size_bytes)
        except HostFault as error:  # it is the volume that is full, and not one of the guest's disks
            raise HostFault(str(error), reason="VolumeFull" if error.reason == "DiskFull" else error.reason) from error
        return kept_files.show(machines, vm_uid, berth, file, f"{kept_files.SHOWN}{name}")


def finished(folder: int, name: str, disk: SnapshotDisk) -> KeptDisk:
    file = kept_files.finished(folder, name)
    stored = os.stat(name, dir_fd=folder, follow_symlinks=False).st_blocks * 512
    return KeptDisk(
        name=disk.name,
        size_bytes=disk.size_bytes,
        stored_bytes=stored,
        file=KeptFile(name=name, bytes=file.size, sha256=file.sha256),
    )


def put_back(folder: int, name: str, guest_uid: int, disk: SnapshotDisk, file: DiskFile) -> None:
    """Make the machine's disk, which nobody has open, exactly what the copy is, in size and content. The copy stays."""
    try:
        with paths.closing(kept_files.opened(folder, name)) as source:
            os.fchown(source, 0, guest_uid)
            os.fchmod(source, 0o640)
            _put_back(source, name, guest_uid, disk, file)
            os.fchown(source, 0, 0)
            os.fchmod(source, 0o600)
    except HostFault as error:
        raise HostFault(f"disk {disk.name}: {error}", reason=error.reason) from error


def _put_back(source: int, name: str, guest_uid: int, disk: SnapshotDisk, file: DiskFile) -> None:
    image = qemuimg.judge(source, name)
    if (image.format, image.virtual_size) != ("qcow2", disk.size_bytes):
        text = f"is a {image.format} image of {image.virtual_size} bytes, and not one of {disk.size_bytes}"
        raise HostFault(text, reason="SnapshotCorrupt")
    with contextlib.closing(open(file.path, "r+b", buffering=0, opener=_opener)) as opened:
        target = opened.fileno()
        overlay = file.backing_path is not None
        if overlay:
            qemuimg.fit(target, guest_uid, file.format, disk.size_bytes)
        else:
            qemuimg.must_be_free(target, guest_uid, file.format)
            qemuimg.blank(target, guest_uid, file.format, disk.size_bytes)
        qemuimg.copy_into(target, guest_uid, file.format, source, blank=not overlay)
        os.fsync(target)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
