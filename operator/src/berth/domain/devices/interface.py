"""A network interface ↔ <interface>, on a tap device that the agent made and that libvirt only opens."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from berth.api.devices import NicModel
from berth.domain.devices.address import PciAddress
from berth.domain.element import element


@dataclass(frozen=True, slots=True)
class Interface:
    tap: str
    mac: str
    model: NicModel
    place: PciAddress

    def to_element(self) -> Element:
        model = "virtio-non-transitional" if self.model is NicModel.VIRTIO else self.model.value
        return element(
            "interface",
            element("mac", address=self.mac),
            element("target", dev=self.tap, managed="no"),
            element("model", type=model),
            element("rom", enabled="no"),  # no network boot: its firmware would only cost time
            self.place.to_element(),
            type="ethernet",
        )
