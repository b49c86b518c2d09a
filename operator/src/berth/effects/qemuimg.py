"""Disk images judged and made: a descriptor in, its format and size out; new qcow2 and raw files. Called by disks.py.

qemu-img runs as the machine's own uid, without capabilities, with limits of time and memory, and never sees a path
that somebody else can change: it works through /proc/self/fd.
"""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass

from berth.effects import diskformat, paths
from berth.errors import HostFault

_SECONDS = 30
COPY_SECONDS = 6 * 3600
_MEMORY_BYTES = 2 << 30
_SIZE_AT = 24  # of a qcow2 header: how large the guest sees the disk


@dataclass(frozen=True, slots=True)
class Image:
    """A disk image that may be run."""

    format: str  # raw | qcow2
    virtual_size: int


def judge(place: int, label: str) -> Image:
    """What the image behind an O_PATH descriptor is; ``label`` names it in errors."""
    with paths.closing(paths.reopen(place, os.O_RDONLY)) as fd:
        size = os.fstat(fd).st_size
        verdict = diskformat.inspect(os.pread(fd, diskformat.HEADER_BYTES, 0), size)
    match verdict:
        case diskformat.Unsuitable(reason, what):
            raise HostFault(f"{label}: {what}", reason=reason)
        case diskformat.Qcow2(virtual_size):
            return Image("qcow2", virtual_size)
        case diskformat.Raw():
            return Image("raw", size)


def is_qcow2(place: int) -> bool:
    with paths.closing(paths.reopen(place, os.O_RDONLY)) as fd:
        return os.pread(fd, 4, 0) == b"QFI\xfb"


def create_overlay(fd: int, guest_uid: int, size: int, backing_path: str, backing_format: str) -> None:
    """Make the empty file ``fd``, of the guest's own, a qcow2 image over a backing file, which is not opened."""
    backing = ("-u", "-b", backing_path, "-F", backing_format)
    _run(guest_uid, fd, "create", "-q", "-f", "qcow2", *backing, f"/proc/self/fd/{fd}", str(size))


def create_qcow2(fd: int, guest_uid: int, size: int) -> None:
    _run(guest_uid, fd, "create", "-q", "-f", "qcow2", f"/proc/self/fd/{fd}", str(size))


def grow(fd: int, guest_uid: int, image: Image, size: int) -> None:
    """Make the image at least this large; never smaller."""
    if size <= image.virtual_size:
        return
    if image.format == "raw":
        _truncate(fd, size)
    else:
        _run(guest_uid, fd, "resize", "-q", "-f", "qcow2", f"/proc/self/fd/{fd}", str(size))


def fit(fd: int, guest_uid: int, form: str, size: int) -> None:
    """Make an image that holds nothing yet exactly that large, be it smaller."""
    if form == "raw":
        _truncate(fd, size)
    elif struct.unpack_from(">Q", os.pread(fd, 32, 0), _SIZE_AT)[0] != size:
        _run(guest_uid, fd, "resize", "-q", "--shrink", "-f", "qcow2", f"/proc/self/fd/{fd}", str(size))


def blank(fd: int, guest_uid: int, form: str, size: int) -> None:
    """Make an image anew in the place of one that stands on no other: nothing of it is left.

    Whoever is killed meanwhile leaves an image of that format: what is not one would be refused the next time.
    """
    if form == "raw":
        _truncate(fd, 0)
        _truncate(fd, size)
        return
    with paths.closing(os.memfd_create("qcow2")) as empty:
        os.fchown(empty, guest_uid, guest_uid)
        create_qcow2(empty, guest_uid, size)
        made = os.pread(empty, os.fstat(empty).st_size, 0)
    os.pwrite(fd, made, 0)
    _truncate(fd, len(made))


def must_be_free(fd: int, guest_uid: int, form: str) -> None:
    """ImageToolFailed while a QEMU has the image open to write, as far as locks on its storage tell."""
    if os.fstat(fd).st_size:
        _run(guest_uid, fd, "resize", "-q", "-f", form, f"/proc/self/fd/{fd}", "+0")


def copy_into(fd: int, guest_uid: int, form: str, source: int, *, blank: bool) -> None:
    """All that a qcow2 image shows, which the guest's uid may read, into an image of the guest's own of that size.

    ``blank``: nothing but zeros is read from it now.
    """
    how = ("--target-is-zero",) if blank else ()
    names = (f"/proc/self/fd/{source}", f"/proc/self/fd/{fd}")
    _run(guest_uid, fd, "convert", "-n", *how, "-f", "qcow2", "-O", form, *names, more=(source,), seconds=COPY_SECONDS)


def create_raw(fd: int, size: int) -> None:
    """A sparse file: it takes space as the guest writes."""
    _truncate(fd, size)


def _truncate(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise _full_or_fault(error.strerror or str(error)) from error


def _full_or_fault(problem: str) -> HostFault:
    if "No space left" in problem or "quota" in problem:
        return HostFault(f"no space is left: {problem}; free some, or use a larger volume", reason="DiskFull")
    if "too large" in problem:
        return HostFault(f"the volume's file system cannot hold a file of that size: {problem}", reason="DiskFull")
    return HostFault(f"the disk image cannot be made: {problem}", reason="ImageToolFailed")


def _run(guest_uid: int, fd: int, *arguments: str, more: tuple[int, ...] = (), seconds: int = _SECONDS) -> None:
    drop = ("setpriv", f"--reuid={guest_uid}", f"--regid={guest_uid}", "--clear-groups", "--no-new-privs")
    no_capabilities = ("--inh-caps=-all", "--bounding-set=-all", "--pdeathsig=KILL")  # none outlives its agent
    limits = ("prlimit", f"--as={_MEMORY_BYTES}", f"--cpu={seconds}", "--core=0")
    command = [*limits, *drop, *no_capabilities, "qemu-img", *arguments]
    try:
        fds = (fd, *more)
        done = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        message = f"qemu-img {arguments[0]} took more than {seconds} s; is the volume's storage stuck?"
        raise HostFault(message, reason="ImageToolFailed") from error
    if done.returncode:
        raise _full_or_fault((done.stderr or done.stdout).strip()[-500:] or f"qemu-img ended with {done.returncode}")
