"""Where a device sits on the PCI root bus ↔ <address>.

All devices of a start are integrated endpoints of bus 0: without a root port each, QEMU starts faster, and firmware and
guest scan fewer buses. The plan of the bus is fixed, so that a device keeps its name in the guest:

    slot 1      graphics              slots 2–5    network interfaces, one each (enp0s2 …)
    slot 6      system devices        slots 8–30   disks, eight to a slot
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from berth.domain.element import element

GRAPHICS_SLOT: Final = 1
NIC_SLOT: Final = 2
SYSTEM_SLOT: Final = 6
DISK_SLOT: Final = 8
FUNCTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class PciAddress:
    slot: int
    function: int = 0
    shared: bool = False
    """Whether other functions sit in the same slot: function 0 has to say so."""

    def to_element(self) -> Element:
        multifunction = "on" if self.shared and self.function == 0 else None
        return element(
            "address",
            type="pci", domain="0x0000", bus="0x00", slot=f"0x{self.slot:02x}", function=f"0x{self.function}",
            multifunction=multifunction,
        )  # fmt: skip


def disk(index: int) -> PciAddress:
    """The place of the n-th virtio disk."""
    return PciAddress(DISK_SLOT + index // FUNCTIONS, index % FUNCTIONS, shared=True)


def system(function: int) -> PciAddress:
    """The place of a small device that each machine has at most once."""
    return PciAddress(SYSTEM_SLOT, function, shared=True)
