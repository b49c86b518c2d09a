"""What tells that a snapshot is whole, and what it is: snapshot.json in its folder. Used by snapshots.py,
reverts.py."""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError

from berth.api.base import Lenient
from berth.api.kept import Consistency, SnapshotDisk, SnapshotReport, SnapshotState
from berth.effects import kept_files, paths
from berth.errors import HostFault

NAME: Final = "snapshot.json"
_VERSION: Final = 1


class KeptFile(Lenient):
    name: str
    bytes: int
    sha256: str


class KeptDisk(SnapshotDisk):
    file: KeptFile


class Manifest(Lenient):
    """``uid`` and ``name`` are the Snapshot's, ``machine`` is QEMU's machine type."""

    uid: str
    name: str
    vm: str
    version: int = _VERSION
    taken_at: str
    consistency: Consistency
    pause_ms: int | None = None
    machine: str = ""
    memory: KeptFile | None = None
    disks: tuple[KeptDisk, ...] = ()

    def report(self) -> SnapshotReport:
        return SnapshotReport(
            uid=self.uid,
            state=SnapshotState.READY,
            memory_bytes=self.memory.bytes if self.memory is not None else 0,
            disks=tuple(
                SnapshotDisk(name=disk.name, size_bytes=disk.size_bytes, stored_bytes=disk.stored_bytes)
                for disk in self.disks
            ),
            consistency=self.consistency,
            pause_ms=self.pause_ms,
            taken_at=self.taken_at,
        )


def write(folder: int, manifest: Manifest) -> None:
    kept_files.write(folder, NAME, (manifest.model_dump_json(by_alias=True, indent=1) + "\n").encode())


def read(folder: int, uid: str, vm_uid: str) -> Manifest:
    """Of this very snapshot; SnapshotCorrupt otherwise."""
    try:
        found = Manifest.model_validate_json(paths.read_regular(folder, NAME, kept_files.MANIFEST_BYTES))
    except ValidationError as error:
        text = f"snapshot {uid}: {NAME}: cannot be read: {error.errors()[0]['msg']}"
        raise HostFault(text, reason="SnapshotCorrupt") from error
    if (found.uid, found.vm, found.version) != (uid, vm_uid, _VERSION):
        told = f"{found.uid} of {found.vm}, version {found.version}"
        raise HostFault(f"snapshot {uid}: {NAME}: is another snapshot's: {told}", reason="SnapshotCorrupt")
    return found
