"""Copies of disks as they are at one moment: of a machine in memory, and of a real QEMU that stands still."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from berth.api.order import DiskKind, DiskOrder
from berth.domain.files import DiskFile, MediaFiles
from berth.effects import libvirt_backup
from berth.effects.hypervisor import Libvirt
from berth.effects.libvirt_backup import LibvirtBackups
from berth.effects.memory_snapshots import MemoryBackups
from berth.effects.ports_saving import Backups, Held
from berth.errors import HostFault
from tests.contract import libvirtd, pods
from tests.contract.libvirtd import Bench, QemuBench
from tests.contract.test_node_snapshots import content, owned, run

MIB = 1 << 20
SIZE = 256 * MIB
"""So large that it is not copied when the next call comes."""
DISK = DiskOrder(name="data", kind=DiskKind.EMPTY, size_bytes=SIZE)


class DiskBench(QemuBench):
    """With a disk that somebody has written to."""

    def media(self) -> MediaFiles:
        disk = self.folder / "disk-data.img"
        if not disk.exists():
            owned(disk, os.urandom(SIZE))
        return replace(super().media(), disks=(DiskFile("data", str(disk), "raw"),))


@dataclass
class Copies:
    bench: Bench
    backups: Backups
    target: Callable[[], str]

    def begin(self) -> None:
        self.backups.begin(self.bench.uid, {"vda": self.target()})

    def over(self) -> None:
        pods.until(lambda: self.backups.copying(self.bench.uid) is None, 20, "the copies' end")


@pytest.fixture(params=["memory", "qemu"])
def copies(request: pytest.FixtureRequest) -> Iterator[Copies]:
    if request.param == "memory":
        memory = libvirtd.memory()
        domains = memory.hypervisor.node.domains  # type: ignore[attr-defined]
        made = Copies(memory, MemoryBackups(lambda *_: None, domains.__contains__, agent=False), lambda: "")
    else:
        libvirtd.Daemon().start()
        qemu = DiskBench(Libvirt())
        machine = qemu.order.machine.model_copy(update={"disks": (DISK,)})
        qemu.order = qemu.order.model_copy(update={"machine": machine})
        made = Copies(qemu, LibvirtBackups(), lambda: target(qemu.folder))
    made.bench.hypervisor.create_paused(made.bench.xml())
    yield made
    made.bench.close()


def target(folder: Path, name: str = "copy.qcow2") -> str:
    path = folder / name
    path.unlink(missing_ok=True)
    run("qemu-img", "create", "-q", "-f", "qcow2", str(path), str(SIZE))
    os.chown(path, libvirtd.GUEST_UID, libvirtd.GUEST_UID)
    return str(path)


def test_disks_are_copied_while_qemu_stands_still(copies: Copies) -> None:
    uid, backups = copies.bench.uid, copies.backups
    assert backups.copying(uid) is None
    backups.activate(uid)
    backups.activate(uid)
    copies.begin()
    copies.over()
    backups.check(uid)
    if isinstance(copies.bench, QemuBench):
        folder = copies.bench.folder
        assert content(folder / "copy.qcow2", "qcow2") == (folder / "disk-data.img").read_bytes()


def test_one_that_is_ended_was_not_copied(copies: Copies) -> None:
    uid, backups = copies.bench.uid, copies.backups
    backups.abort(uid)
    copies.begin()
    backups.abort(uid)
    copies.over()
    with pytest.raises(HostFault) as caught:
        backups.check(uid)
    assert caught.value.reason == "SnapshotFailed"
    copies.begin()
    copies.over()
    backups.check(uid)


def test_a_machine_that_is_gone_has_nothing_to_end_and_nothing_to_copy(copies: Copies) -> None:
    copies.bench.hypervisor.destroy(copies.bench.uid)
    copies.backups.abort(copies.bench.uid)
    with pytest.raises(HostFault):
        copies.begin()


def test_a_guest_without_an_agent_is_not_frozen(copies: Copies) -> None:
    assert copies.backups.freeze(copies.bench.uid) is Held.NO


@pytest.mark.parametrize("copies", ["qemu"], indirect=True)
def test_a_qemu_that_cannot_take_disks_back_is_named(copies: Copies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_backup, "_ACTIVATE", '{"execute": "blockdev-of-the-future"}')
    with pytest.raises(HostFault, match=r"older than 10\.0") as caught:
        copies.backups.activate(copies.bench.uid)
    assert caught.value.reason == "SnapshotUnsupported"
    with pytest.raises(HostFault, match="no disk vdz"):
        copies.backups.begin(copies.bench.uid, {"vdz": "/nowhere"})
