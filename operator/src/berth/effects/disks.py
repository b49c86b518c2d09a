"""One disk of a machine: its order in, a file at a fixed path of the machine's folder out. Called by media.py.

A disk's format is judged only where the guest cannot have written it (images). A file that the guest writes is what its
name says, .qcow2 or else raw: were it judged, a guest could write a header into its raw disk and so choose its format.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from berth.api.order import DiskKind, DiskOrder, FileOrder
from berth.domain.files import DiskFile
from berth.effects import mounts, paths, qemuimg
from berth.errors import HostFault

STATE_FOLDER = "berth/state"


@dataclass(frozen=True, slots=True)
class Workbench:
    """What a disk is made with: the berth's root and mount namespace, the machine's folder and uid."""

    root: int
    mntns: int
    folder: Path
    guest_uid: int
    arriving: bool = False  # the guest comes from another node, and has its files on claims already

    def show(self, source: int, name: str) -> str:
        """Bind a file of the berth into the machine's folder."""
        mounts.bind(self.mntns, source, self.folder / name)
        return str(self.folder / name)

    def open_file(self, file: FileOrder) -> int:
        """An O_PATH descriptor of a regular file in one of the berth's volumes."""
        with paths.closing(paths.open_kind(self.root, file.folder, stat.S_IFDIR)) as volume:
            return paths.open_kind(volume, file.path, stat.S_IFREG)

    def open_state(self, name: str, make: Callable[[int], None]) -> int:
        """A file of the berth's state folder; first made under another name, so that it is there whole or not."""
        with paths.closing(paths.open_kind(self.root, STATE_FOLDER, stat.S_IFDIR)) as state:
            return open_or_make(state, name, self.guest_uid, make)


def open_or_make(folder: int, name: str, guest_uid: int, make: Callable[[int], None]) -> int:
    try:
        return paths.open_kind(folder, name, stat.S_IFREG)
    except paths.PathMissing:
        pass
    draft = f"{name}.berth-new"
    with ExitStack() as stack:
        stack.enter_context(_Draft(folder, draft))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = stack.enter_context(paths.closing(paths.open_beneath(folder, draft, flags, mode=0o600)))
        os.fchown(fd, guest_uid, guest_uid)
        make(fd)
        os.fsync(fd)
        with paths.closing(
            paths.open_beneath(folder, os.path.dirname(name) or ".", os.O_PATH | os.O_DIRECTORY)
        ) as parent:
            os.rename(os.path.basename(draft), os.path.basename(name), src_dir_fd=parent, dst_dir_fd=parent)
    return paths.open_kind(folder, name, stat.S_IFREG)


class _Draft:
    """Remove a draft before it is made (an earlier attempt broke off) and when making it fails."""

    def __init__(self, folder: int, name: str) -> None:
        self.folder, self.name = folder, name

    def remove(self) -> None:
        try:
            parent = paths.open_beneath(self.folder, os.path.dirname(self.name) or ".", os.O_PATH | os.O_DIRECTORY)
        except paths.PathMissing:
            return
        with paths.closing(parent):
            try:
                os.unlink(os.path.basename(self.name), dir_fd=parent)
            except FileNotFoundError:
                return

    def __enter__(self) -> None:
        self.remove()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            self.remove()


def prepare(bench: Workbench, disk: DiskOrder) -> DiskFile:
    """The disk at its fixed path; errors name the disk."""
    try:
        match disk.kind:
            case DiskKind.OVERLAY:
                return _overlay(bench, disk)
            case DiskKind.EMPTY:
                return _empty(bench, disk)
            case DiskKind.FILE:
                return _file(bench, disk)
    except OSError as error:
        full = error.errno in (28, 122)  # ENOSPC, EDQUOT
        message = f"disk {disk.name}: {error.strerror}" + ("; free space on its volume" if full else "")
        raise HostFault(message, reason="DiskFull" if full else "HostFault") from error
    except HostFault as error:
        reason = "ImageFileMissing" if isinstance(error, paths.PathMissing) else error.reason
        reason = "ImageUnsafe" if isinstance(error, paths.UnsafePath) else reason
        raise HostFault(f"disk {disk.name}: {error}", reason=reason) from error


def fit(guest_uid: int, file: DiskFile, size: int) -> None:
    """Make a disk of this node's that a guest is to be copied into as large as that guest knows it."""
    try:
        with paths.closing(os.open(file.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            qemuimg.fit(fd, guest_uid, file.format, size)
    except OSError as error:
        raise HostFault(f"disk {file.name}: {error.strerror}", reason="HostFault") from error
    except HostFault as error:
        raise HostFault(f"disk {file.name}: {error}", reason=error.reason) from error


def _source(disk: DiskOrder) -> FileOrder:
    if disk.source is None:
        raise HostFault(f"an order for a disk of kind {disk.kind} must name a file", reason="OrderInvalid")
    return disk.source


def _overlay(bench: Workbench, disk: DiskOrder) -> DiskFile:
    source = _source(disk)
    with paths.closing(bench.open_file(source)) as base:
        must_be_readable(base, source.path)
        image = qemuimg.judge(base, source.path)
        size = disk.size_bytes or image.virtual_size
        if size < image.virtual_size:
            limit = f"size must be at least the image's {image.virtual_size} bytes (given: {size})"
            raise HostFault(limit, reason="SizeTooSmall")
        backing = bench.show(base, f"disk-{disk.name}.base")
        if disk.read_only:
            return DiskFile(disk.name, backing, image.format)

    def make(fd: int) -> None:
        qemuimg.create_overlay(fd, bench.guest_uid, size, backing, image.format)

    with paths.closing(bench.open_state(f"{disk.name}.qcow2", make)) as overlay:
        path = bench.show(overlay, f"disk-{disk.name}.qcow2")
    return DiskFile(disk.name, path, "qcow2", backing, image.format)


def _empty(bench: Workbench, disk: DiskOrder) -> DiskFile:
    size = _required_size(disk)
    with paths.closing(bench.open_state(f"{disk.name}.img", lambda fd: qemuimg.create_raw(fd, size))) as file:
        return DiskFile(disk.name, bench.show(file, f"disk-{disk.name}.img"), "raw")


def _required_size(disk: DiskOrder) -> int:
    if disk.size_bytes is None:
        raise HostFault("size is needed to make it, for example 10Gi", reason="SizeMissing")
    return disk.size_bytes


def _file(bench: Workbench, disk: DiskOrder) -> DiskFile:
    source = _source(disk)
    form = "qcow2" if source.path.endswith(".qcow2") else "raw"

    def make(fd: int) -> None:
        if bench.arriving:
            text = (
                f"{source.path}: is not on the claim as this node mounts it, so its storage is not the same everywhere"
            )
            raise HostFault(f"{text}; use a claim whose storage several nodes share", reason="ClaimNotShared")
        size = _required_size(disk)
        if form == "raw":
            qemuimg.create_raw(fd, size)
        else:
            qemuimg.create_qcow2(fd, bench.guest_uid, size)

    with ExitStack() as stack:
        volume = stack.enter_context(paths.closing(paths.open_kind(bench.root, source.folder, stat.S_IFDIR)))
        if disk.read_only:
            file = stack.enter_context(paths.closing(paths.open_kind(volume, source.path, stat.S_IFREG)))
        else:
            opened = open_or_make(volume, source.path.lstrip("/"), bench.guest_uid, make)
            file = stack.enter_context(paths.closing(opened))
        image = _expect(file, source.path, form)
        if not disk.read_only:
            _own_and_grow(bench, file, image, disk.size_bytes or 0)
        return DiskFile(disk.name, bench.show(file, f"disk-{disk.name}.{'img' if form == 'raw' else form}"), form)


def _own_and_grow(bench: Workbench, file: int, image: qemuimg.Image, size: int) -> None:
    """The uid is the node's choice and another one at every start; the file follows it."""
    with paths.closing(paths.reopen(file, os.O_RDWR)) as fd:
        os.fchown(fd, bench.guest_uid, bench.guest_uid)
        os.fchmod(fd, 0o600)
        qemuimg.grow(fd, bench.guest_uid, image, size)


def _expect(file: int, path: str, form: str) -> qemuimg.Image:
    """The guest may have written anything into a raw disk; only qcow2 under a raw name is likely a mistake."""
    if form == "raw" and not qemuimg.is_qcow2(file):
        return qemuimg.Image("raw", os.fstat(file).st_size)
    image = qemuimg.judge(file, path)
    if image.format != form:
        hint = "rename it to end in .qcow2" if form == "raw" else "rename it to end in .img"
        raise HostFault(f"{path}: is a {image.format} image, and its name says {form}; {hint}", reason="ImageAmbiguous")
    return image


def must_be_readable(file: int, path: str) -> None:
    """QEMU reads it as a uid of its own, and a read-only image's owner cannot be changed."""
    mode = os.fstat(file).st_mode
    if not mode & stat.S_IROTH:
        raise HostFault(
            f"{path}: has mode {mode & 0o7777:o}; make it readable by all (chmod o+r)", reason="ImageUnreadable"
        )
