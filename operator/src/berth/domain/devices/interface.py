"""A network interface ↔ <interface>, on a tap device that the agent made and that libvirt only opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from berth.api.devices import NicModel
from berth.domain.devices.address import PciAddress
from berth.domain.element import element

ALIAS: Final = "ua-nic-"
"""libvirt keeps aliases that begin with ua- as they are given: by them the NICs of a running machine are known."""


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    tap: str
    mac: str
    model: NicModel
    place: PciAddress
    mtu: int | None = None
    queues: int = 1
    vhost: bool = False
    """Whether the host's kernel moves the packets, not QEMU."""
    boot_order: int | None = None
    link_up: bool = True

    @property
    def alias(self) -> str:
        return ALIAS + self.name

    def to_element(self) -> Element:
        virtio = self.model is NicModel.VIRTIO
        return element(
            "interface",
            element("mac", address=self.mac),
            element("target", dev=self.tap, managed="no"),
            element("model", type="virtio-non-transitional" if virtio else self.model.value),
            self._driver() if virtio else None,
            element("mtu", size=self.mtu) if self.mtu is not None else None,
            None if self.link_up else element("link", state="down"),
            *tail(self.name, self.boot_order, self.place),
            type="ethernet",
        )

    def _driver(self) -> Element:
        name = "vhost" if self.vhost else "qemu"
        return element("driver", name=name, queues=self.queues if self.queues > 1 else None)


def tail(name: str, boot_order: int | None, place: PciAddress) -> tuple[Element | None, ...]:
    """What the elements of all NICs end with. A boot ROM only costs time where nothing is booted from the network."""
    return (
        element("alias", name=ALIAS + name),
        element("boot", order=boot_order) if boot_order is not None else element("rom", enabled="no"),
        place.to_element(),
    )
