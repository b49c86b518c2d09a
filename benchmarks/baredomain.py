"""The domain that libvirt runs for Berth → the same one with nothing of Berth's around it: the floor to measure by."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree


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
