"""The random number generator ↔ <rng>: QEMU's own source, so a guest has entropy at once and no host file is open."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from berth.domain.devices.address import PciAddress
from berth.domain.element import element


@dataclass(frozen=True, slots=True)
class Rng:
    place: PciAddress

    def to_element(self) -> Element:
        return element(
            "rng", element("backend", model="builtin"), self.place.to_element(), model="virtio-non-transitional"
        )
