"""A PCI function of the host's, handed to the guest whole as a network interface ↔ <interface type='hostdev'>."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from berth.domain.devices.address import PciAddress
from berth.domain.devices.interface import tail
from berth.domain.element import element
from berth.errors import HostFault

_ADDRESS: Final = re.compile(r"([0-9a-f]{4}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")


@dataclass(frozen=True, slots=True)
class HostFunction:
    """``source`` is the function's address on the host, for example 0000:03:02.1."""

    name: str
    source: str
    mac: str
    place: PciAddress
    boot_order: int | None = None

    def to_element(self) -> Element:
        domain, bus, slot, function = _parts(self.name, self.source)
        source = element(
            "address",
            type="pci", domain=f"0x{domain}", bus=f"0x{bus}", slot=f"0x{slot}", function=f"0x{function}",
        )  # fmt: skip
        return element(
            "interface",
            element("mac", address=self.mac),
            element("source", source),
            *tail(self.name, self.boot_order, self.place),
            type="hostdev", managed="yes",
        )  # fmt: skip


def _parts(name: str, source: str) -> tuple[str, str, str, str]:
    found = _ADDRESS.fullmatch(source)
    if found is None:
        message = f"NIC {name}: the device plugin gave {source!r}, which is no PCI address such as 0000:03:02.1"
        raise HostFault(message, reason="DeviceInvalid")
    domain, bus, slot, function = found.groups()
    return domain, bus, slot, function
