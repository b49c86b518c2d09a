"""The balloon ↔ <memballoon>: memory that the guest frees goes back to the host (free page reporting)."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from berth.domain.devices.address import PciAddress
from berth.domain.element import element


@dataclass(frozen=True, slots=True)
class MemBalloon:
    place: PciAddress

    def to_element(self) -> Element:
        return element(
            "memballoon",
            self.place.to_element(),
            model="virtio-non-transitional", autodeflate="on", freePageReporting="on",
        )  # fmt: skip
