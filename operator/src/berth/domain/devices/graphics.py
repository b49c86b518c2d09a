"""Graphics ↔ <graphics>, <video>, <input>: VNC on a unix socket in the berth, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from berth.domain.devices.address import PciAddress
from berth.domain.element import element


@dataclass(frozen=True, slots=True)
class Vnc:
    socket: str

    def to_element(self) -> Element:
        return element("graphics", element("listen", type="socket", socket=self.socket), type="vnc")


@dataclass(frozen=True, slots=True)
class Video:
    """The plain VGA card: firmware, boot loaders and every guest draw on it. No place: no card."""

    place: PciAddress | None

    def to_element(self) -> Element:
        if self.place is None:
            return element("video", element("model", type="none"))
        return element("video", element("model", type="vga", vram=16384, primary="yes"), self.place.to_element())


@dataclass(frozen=True, slots=True)
class Tablet:
    """An absolute pointer, so that the viewer's pointer and the guest's are one."""

    place: PciAddress

    def to_element(self) -> Element:
        return element("input", self.place.to_element(), type="tablet", bus="virtio")  # there is but one model of it
