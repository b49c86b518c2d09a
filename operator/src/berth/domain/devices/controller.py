"""Controllers that libvirt would add by itself and no machine of Berth needs ↔ <controller>."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from berth.domain.element import element


@dataclass(frozen=True, slots=True)
class NoUsb:
    """Without this libvirt gives every machine a USB controller, which costs memory and wakes the host up."""

    def to_element(self) -> Element:
        return element("controller", type="usb", index=0, model="none")
