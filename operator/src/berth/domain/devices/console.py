"""The serial console ↔ <serial>: QEMU connects to the berth's socket, and again when the berth was away."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from berth.domain.element import element


@dataclass(frozen=True, slots=True)
class Console:
    socket: str

    def to_element(self) -> Element:
        return element(
            "serial",
            element("source", element("reconnect", enabled="yes", timeout=1), mode="connect", path=self.socket),
            element("target", element("model", name="isa-serial"), type="isa-serial", port=0),
            type="unix",
        )
