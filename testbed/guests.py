"""Gives the test guests as container images and as plain files, building those whose inputs changed.

Called by the cluster's start, by contract tests (files) and as `python -m testbed.guests`. `tiny` is a kernel and an
initrd that are up in two to three seconds without hardware help; `debian` is a real cloud disk with cloud-init and the
guest agent.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from testbed import errors, images, images_archive, settings

TINY = images.Image("guest-tiny", "guests/tiny/Dockerfile", f"{images.REGISTRY}/guest-tiny", "dev")
DEBIAN = images.Image("guest-debian", "guests/debian/Dockerfile", f"{images.REGISTRY}/guest-debian", "dev")
GUESTS = (TINY, DEBIAN)
OLDER_QEMU = images.Image("older-qemu", "guests/older-qemu/Dockerfile", f"{images.REGISTRY}/older-qemu", "dev")

# Quiet, because a serial line costs time; no relocation and no self-tests of ciphers, which no test needs.
# no_timer_check: emulated on a busy host the timer may tick too late for the kernel, which then gives up ("IO-APIC +
# timer doesn't work"); under KVM kernels leave that check out by themselves.
TINY_ARGS = "console=ttyS0 quiet nokaslr cryptomgr.notests no_timer_check"
TINY_KERNEL, TINY_INITRD, DEBIAN_DISK = "boot/vmlinuz", "boot/initrd", "disk/debian.qcow2"


def ensure(names: Sequence[str] = (), where: settings.Settings | None = None) -> list[Path]:
    """Have the archives of the named guests, of all by default, and return their paths."""
    return images.ensure(names, where, GUESTS)


def references() -> dict[str, str]:
    """The full image name of each guest by its short name; manifests in examples/ name these."""
    return {guest.name: f"{guest.repository}:{guest.tag}" for guest in GUESTS}


def tiny_files(where: settings.Settings | None = None) -> tuple[Path, Path]:
    """The tiny guest's kernel and initrd as files."""
    folder = _unpacked(TINY, where or settings.load())
    return folder / TINY_KERNEL, folder / TINY_INITRD


def debian_disk(where: settings.Settings | None = None) -> Path:
    """The Debian guest's disk as a file; put a writable overlay over it, it is shared."""
    return _unpacked(DEBIAN, where or settings.load()) / DEBIAN_DISK


def older_qemu(where: settings.Settings | None = None) -> Path:
    """A folder with Debian 12's QEMU, which expects to be mounted at /older."""
    return _unpacked(OLDER_QEMU, where or settings.load()) / "older"


def _unpacked(guest: images.Image, where: settings.Settings) -> Path:
    [archive] = images.ensure([guest.name], where, [guest])
    folder = where.cache / "guests" / archive.stem
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{guest.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two that ask at the same time unpack it once
        if not folder.is_dir():
            _unpack(guest, archive, folder)
    return folder


def _unpack(guest: images.Image, archive: Path, folder: Path) -> None:
    """In the place of whatever was unpacked of it before."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    images_archive.unpack(archive, partial)
    for old in folder.parent.glob(f"{guest.name}-*"):
        if old != partial:
            shutil.rmtree(old, ignore_errors=True)
    partial.rename(folder)


def main(arguments: Sequence[str]) -> None:
    """Print each guest's image name and archive."""
    logging.basicConfig(level=logging.DEBUG if "-v" in arguments else logging.INFO, format="%(message)s")
    names = [word for word in arguments if word != "-v"]
    for guest, path in zip(images.select(names, GUESTS), ensure(names), strict=True):
        print(f"{guest.repository}:{guest.tag}\t{path}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except errors.TestbedError as error:
        sys.exit(f"error: {error}")
