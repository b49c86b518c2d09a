"""Virtual devices: a file each, from what the machine needs to libvirt's element. No connection, clock, disk."""

from __future__ import annotations

from typing import Protocol
from xml.etree.ElementTree import Element


class Device(Protocol):
    """A virtual device, as libvirt's domain format writes it."""

    def to_element(self) -> Element: ...
