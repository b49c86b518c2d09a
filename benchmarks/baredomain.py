"""The domain that libvirt runs for Berth → the same one with nothing of Berth's around it: the floor to measure by."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Final

from testbed import guests

BRIDGE: Final = "lan"
MAC, LINK_LOCAL = "52:54:00:12:34:57", "fe80::5054:ff:fe12:3457"


def bare_xml(live: str, log: str) -> str:
    """The domain libvirt runs for Berth, as one of its own: no berth to enter, its own tap, its console in a file."""
    domain = ElementTree.fromstring(live)
    for tag in ("uuid", "metadata", "seclabel"):
        for element in domain.findall(tag):
            domain.remove(element)
    domain.attrib.pop("id", None)
    name, devices = domain.find("name"), domain.find("devices")
    assert name is not None
    assert devices is not None
    name.text = "bare"
    for kind in ("serial", "console", "channel"):
        for element in devices.findall(kind):
            devices.remove(element)
    for target in devices.findall("interface/target"):
        target.attrib.clear()
        target.set("dev", "bare0")
    serial = ElementTree.SubElement(devices, "serial", type="file")
    ElementTree.SubElement(serial, "source", path=log)
    emulator = devices.find("emulator")
    assert emulator is not None
    emulator.text = "/usr/bin/qemu-system-x86_64"
    return re.sub(r"\bbt[0-9a-f]+\b", "bare0", ElementTree.tostring(domain, encoding="unicode"))


def on_bridge(live: str, uid: str, folder: Path) -> str:
    """The same, of the tiny guest, with a card on ``BRIDGE`` and its kernel in that folder: nothing of Berth's."""
    domain = ElementTree.fromstring(bare_xml(live, "/var/log/libvirt/bare.console"))
    ElementTree.SubElement(domain, "uuid").text = uid
    for name, file in zip(("kernel", "initrd"), guests.tiny_files(), strict=True):
        found = domain.find(f"os/{name}")
        assert found is not None
        found.text = shutil.copy(file, folder)
    for card in domain.findall("devices/interface"):
        card.set("type", "bridge")
        for tag in ("target", "script", "mac", "source"):
            for element in card.findall(tag):
                card.remove(element)
        ElementTree.SubElement(card, "source", bridge=BRIDGE)
        ElementTree.SubElement(card, "mac", address=MAC)
    for element in domain.findall("{http://libvirt.org/schemas/domain/qemu/1.0}commandline"):
        domain.remove(element)
    return ElementTree.tostring(domain, encoding="unicode")
