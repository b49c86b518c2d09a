"""Which disks go along by being copied, under libvirt's names for them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from berth.api.order import DiskKind, DiskOrder, FileOrder, MachineOrder
from berth.domain import build, copied, files, xml
from tests.golden.domain import cases as golden

CASES = [(name, order, host) for name, order, host in golden.cases()]
SOURCE = FileOrder(folder="/berth/images/root", path="disk.img")


@pytest.mark.parametrize("index", range(len(CASES)), ids=[name for name, _, _ in CASES])
def test_their_names_are_those_of_the_domain(index: int) -> None:
    _, order, host = CASES[index]
    taps = {nic.name: f"bt{n}" for n, nic in enumerate(order.machine.nics)}
    text = xml.render(build.build(order, files.expected(order.uid, order.machine), taps, host))
    disks = ElementTree.fromstring(text).findall("devices/disk")
    names = {
        disk.findtext("serial"): target.get("dev") for disk in disks if (target := disk.find("target")) is not None
    }
    found = copied.of(order.machine)
    assert {disk.name: disk.target for disk in found}.items() <= names.items()
    by_name = {disk.name: disk for disk in order.machine.disks}
    assert [disk.name for disk in found] == [name for name, disk in by_name.items() if copied.is_copied(disk)]


@pytest.mark.parametrize(
    ("disk", "goes"),
    [
        (DiskOrder(name="x", kind=DiskKind.EMPTY, size_bytes=1), True),
        (DiskOrder(name="x", kind=DiskKind.OVERLAY, source=SOURCE), True),
        (DiskOrder(name="x", kind=DiskKind.OVERLAY, source=SOURCE, read_only=True), False),
        (DiskOrder(name="x", kind=DiskKind.FILE, source=SOURCE), False),
    ],
)
def test_what_the_guest_writes_beside_its_claims(disk: DiskOrder, goes: bool) -> None:
    machine = MachineOrder(cpus=1, memory_bytes=1, disks=(disk,))
    assert bool(copied.of(machine)) is goes
