"""The machine's own folder on the node, /run/berth/vms/UID: fixed names for all that QEMU may see. Called by berths.py,
media.py. Only root writes in it; QEMU, under the machine's uid, passes through.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from berth.effects import mounts, syscalls
from berth.errors import HostFault

_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class MachineFolders:
    """All machines' folders beneath one root."""

    root: Path = Path("/run/berth/vms")

    def path(self, vm_uid: str) -> Path:
        if not _UID.fullmatch(vm_uid):
            raise HostFault(f"{vm_uid!r} is no machine uid: a lower-case UUID is expected", reason="BadUid")
        return self.root / vm_uid

    def make(self, vm_uid: str, guest_uid: int | None = None) -> Path:
        """The folder, made when it is not there: root's, and this machine's QEMU, no other, may pass through it."""
        folder = self.path(vm_uid)
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder.mkdir(mode=0o710, exist_ok=True)
        if guest_uid is not None:
            os.chown(folder, 0, guest_uid)
            folder.chmod(0o710)
        return folder

    def moving(self, vm_uid: str, owner: int = 0, passing: int | None = None) -> Path:
        """An empty folder in it for the sockets of one migration, which only its owner may enter.

        ``passing``: the machine's QEMU, which may reach a socket of its own in there, and see no other.
        """
        folder = self.make(vm_uid) / "move"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        os.chown(folder, owner, owner if passing is None else passing)
        folder.chmod(0o700 if passing is None else 0o710)
        return folder

    def write(self, vm_uid: str, name: str, text: str) -> Path:
        """A file of root's in the folder, readable by all, there whole or not at all."""
        folder = self.make(vm_uid)
        draft = folder / f".{name}.new"
        draft.write_text(text)
        draft.chmod(0o644)
        os.replace(draft, folder / name)
        return folder / name

    def read(self, vm_uid: str, name: str) -> str | None:
        """A file that ``write`` made, or None when there is none."""
        try:
            return (self.path(vm_uid) / name).read_text()
        except FileNotFoundError:
            return None

    def all(self) -> list[str]:
        """The machine uids that have a folder."""
        try:
            return sorted(name for name in os.listdir(self.root) if _UID.fullmatch(name))
        except FileNotFoundError:
            return []

    def remove(self, vm_uid: str) -> None:
        """Take every mount out of the folder, then the folder away; the files shown there stay as they are."""
        folder = self.path(vm_uid)
        for point in mounts.beneath(folder):
            syscalls.umount(point)
        if left := mounts.beneath(folder):
            raise HostFault(f"{left[0]}: is still mounted; something mounts there again", reason="MountBusy")
        if not folder.is_dir():
            return
        shutil.rmtree(folder / "move", ignore_errors=True)  # sockets
        for entry in os.scandir(folder):  # flat, and never recursive: a mount overlooked here holds somebody's data
            os.rmdir(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)
        folder.rmdir()
