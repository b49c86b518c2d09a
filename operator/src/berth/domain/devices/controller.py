"""Controllers: the bridge for what is plugged in later, and those that no machine of Berth needs ↔ <controller>."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from berth.domain.devices import address
from berth.domain.element import element

PLUG_BRIDGE: Final = "pcie-to-pci-bridge"


@dataclass(frozen=True, slots=True)
class NoUsb:
    """Without this libvirt gives every machine a USB controller, which costs memory and wakes the host up."""

    def to_element(self) -> Element:
        return element("controller", type="usb", index=0, model="none")


@dataclass(frozen=True, slots=True)
class RootPort:
    """The way to the bridge below."""

    def to_element(self) -> Element:
        return element(
            "controller",
            element("target", chassis=1, port="0x0"),
            address.PciAddress(address.ROOT_PORT_SLOT).to_element(),
            type="pci", index=address.ROOT_PORT_BUS, model="pcie-root-port",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlugBridge:
    """31 slots in which NICs can be plugged while the machine runs."""

    def to_element(self) -> Element:
        return element(
            "controller",
            address.PciAddress(0, bus=address.ROOT_PORT_BUS).to_element(),
            type="pci", index=address.PLUG_BUS, model=PLUG_BRIDGE,
        )  # fmt: skip
