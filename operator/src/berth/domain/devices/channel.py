"""The guest agent's channel ↔ <controller type='virtio-serial'> and <channel>; libvirt makes and owns its socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from berth.domain.devices.address import PciAddress
from berth.domain.element import element

GUEST_AGENT: Final = "org.qemu.guest_agent.0"


@dataclass(frozen=True, slots=True)
class VirtioSerial:
    """The controller that channels are on."""

    place: PciAddress

    def to_element(self) -> Element:
        return element(
            "controller", self.place.to_element(), type="virtio-serial", index=0, model="virtio-non-transitional"
        )


@dataclass(frozen=True, slots=True)
class GuestAgent:
    """The channel itself."""

    def to_element(self) -> Element:
        return element(
            "channel",
            element("source", mode="bind"),
            element("target", type="virtio", name=GUEST_AGENT),
            type="unix",
        )
