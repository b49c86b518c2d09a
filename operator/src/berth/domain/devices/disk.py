"""A disk ↔ <disk>: a file, on virtio-blk or SATA.

A SATA disk cannot be read-only, neither in hardware nor in QEMU: what is read-only on that bus is a CD-ROM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from berth.api.devices import DiskBus
from berth.domain.devices.address import PciAddress
from berth.domain.element import element
from berth.domain.files import DiskFile

SEED_SERIAL: Final = "cidata"
_PREFIX: Final = {DiskBus.VIRTIO: "vd", DiskBus.SATA: "sd"}


@dataclass(frozen=True, slots=True)
class Disk:
    """``index`` counts the disks of the same bus; ``place`` is None on SATA, whose controller the machine type has."""

    file: DiskFile
    bus: DiskBus
    index: int
    serial: str
    read_only: bool = False
    boot_order: int | None = None
    place: PciAddress | None = None

    @property
    def is_cdrom(self) -> bool:
        return self.bus is DiskBus.SATA and self.read_only

    def to_element(self) -> Element:
        return element(
            "disk",
            element("driver", name="qemu", type=self.file.format, discard="unmap"),
            element("source", file=self.file.path),
            _backing(self.file),
            element("target", dev=target(self.bus, self.index), bus=self.bus.value),
            element("readonly") if self.read_only else None,
            element("serial", text=self.serial),
            element("boot", order=self.boot_order) if self.boot_order is not None else None,
            self.place.to_element() if self.place else None,
            type="file", device="cdrom" if self.is_cdrom else "disk",
            model="virtio-non-transitional" if self.bus is DiskBus.VIRTIO else None,
        )  # fmt: skip


def target(bus: DiskBus, index: int) -> str:
    """libvirt's name of the disk with that number on its bus."""
    return _PREFIX[bus] + _letters(index)


def _backing(file: DiskFile) -> Element:
    """Said in full, so that libvirt does not open the files to find out. Images are shared: their owner stays."""
    if file.backing_path is None:
        return element("backingStore")
    return element(
        "backingStore",
        element("format", type=file.backing_format),
        element("source", element("seclabel", model="dac", relabel="no"), file=file.backing_path),
        element("backingStore"),
        type="file",
    )


def _letters(index: int) -> str:
    """0 → a, 25 → z, 26 → aa, as Linux names disks."""
    letter = chr(ord("a") + index % 26)
    return letter if index < 26 else _letters(index // 26 - 1) + letter
