"""NICs in the XML of a domain in memory, as libvirt would change them: XML in, XML out. Used by memory.py; pure."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element


def has(domain: str, alias: str) -> bool:
    return _find(_devices(ElementTree.fromstring(domain)), alias) is not None


def plugged(domain: str, interface: str) -> str:
    root = ElementTree.fromstring(domain)
    _devices(root).append(ElementTree.fromstring(interface))
    return ElementTree.tostring(root, encoding="unicode")


def unplugged(domain: str, alias: str) -> str:
    root = ElementTree.fromstring(domain)
    devices = _devices(root)
    interface = _find(devices, alias)
    if interface is not None:
        devices.remove(interface)
    return ElementTree.tostring(root, encoding="unicode")


def linked(domain: str, alias: str, *, up: bool) -> str:
    root = ElementTree.fromstring(domain)
    interface = _find(_devices(root), alias)
    if interface is not None:
        link = interface.find("link")
        link = ElementTree.SubElement(interface, "link") if link is None else link
        link.set("state", "up" if up else "down")
    return ElementTree.tostring(root, encoding="unicode")


def _devices(root: Element) -> Element:
    devices = root.find("devices")
    assert devices is not None  # domain/xml.py writes them
    return devices


def _find(devices: Element, alias: str) -> Element | None:
    named = ((interface, interface.find("alias")) for interface in devices.findall("interface"))
    return next((interface for interface, found in named if found is not None and found.get("name") == alias), None)
