"""Where a device sits on the PCI buses ↔ <address>.

What stays for a start is an integrated endpoint of bus 0: without a root port each, QEMU starts faster, and firmware
and guest scan fewer buses. Network interfaces that may come and go sit behind one bridge, which has slots for all of
them: a root port for each would cost every start several times as much. The plan is fixed, so that a device keeps its
name in the guest:

    bus 0   slot 1   graphics              slots 2–5, 24–27   network interfaces that stay, one each (enp0s2 …)
            slot 6   system devices        slots 8–11         disks, eight to a slot
            slot 7   the root port of bus 1
    bus 1   slot 0   the bridge to bus 2
    bus 2   slots 1–31   network interfaces that may be unplugged (enp2s1 …): the n-th of the machine in slot n, if free
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from berth.domain.element import element

GRAPHICS_SLOT: Final = 1
_NIC_SLOTS: Final = (*range(2, 6), *range(24, 28))
SYSTEM_SLOT: Final = 6
ROOT_PORT_SLOT: Final = 7
DISK_SLOT: Final = 8
FUNCTIONS: Final = 8
ROOT_PORT_BUS: Final = 1
PLUG_BUS: Final = 2
PLUG_SLOTS: Final = range(1, 32)


@dataclass(frozen=True, slots=True)
class PciAddress:
    slot: int
    function: int = 0
    shared: bool = False
    """Whether other functions sit in the same slot: function 0 has to say so."""
    bus: int = 0

    def to_element(self) -> Element:
        multifunction = "on" if self.shared and self.function == 0 else None
        return element(
            "address",
            type="pci",
            domain="0x0000",
            bus=f"0x{self.bus:02x}",
            slot=f"0x{self.slot:02x}",
            function=f"0x{self.function}",
            multifunction=multifunction,
        )


def disk(index: int) -> PciAddress:
    """The place of the n-th virtio disk."""
    return PciAddress(DISK_SLOT + index // FUNCTIONS, index % FUNCTIONS, shared=True)


def nic(index: int) -> PciAddress:
    """The place of the n-th of a machine's NICs, when it stays."""
    return PciAddress(_NIC_SLOTS[index])


def plugged(slot: int) -> PciAddress:
    """A slot that can be filled and emptied while the machine runs."""
    return PciAddress(slot, bus=PLUG_BUS)


def system(function: int) -> PciAddress:
    """The place of a small device that each machine has at most once."""
    return PciAddress(SYSTEM_SLOT, function, shared=True)
