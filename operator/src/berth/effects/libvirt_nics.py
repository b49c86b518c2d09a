"""NICs of running domains through libvirt: plugged in, asked to go, their cables in and out. Used by hypervisor.py.

Each function takes libvirt's domain object and is idempotent: what is so already is left alone.
"""

from __future__ import annotations

from typing import Any, Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import libvirt

_LIVE: Final = libvirt.VIR_DOMAIN_AFFECT_LIVE


def plug(domain: Any, alias: str, xml: str) -> None:
    if _find(domain, alias) is None:
        domain.attachDeviceFlags(xml, _LIVE)


def unplug(domain: Any, alias: str) -> None:
    """By its alias libvirt only asks; by its XML it would wait for the guest."""
    if _find(domain, alias) is None:
        return
    try:
        domain.detachDeviceAlias(alias, _LIVE)
    except libvirt.libvirtError as error:
        if "already in the process of unplug" not in str(error) and _find(domain, alias) is not None:
            raise


def set_link(domain: Any, alias: str, *, up: bool) -> None:
    interface = _find(domain, alias)
    if interface is None:
        return
    link, wanted = interface.find("link"), "up" if up else "down"
    if (link.get("state") if link is not None else "up") == wanted:
        return
    if link is None:
        link = ElementTree.SubElement(interface, "link")
    link.set("state", wanted)
    domain.updateDeviceFlags(ElementTree.tostring(interface, encoding="unicode"), _LIVE)


def _find(domain: Any, alias: str) -> Element | None:
    interfaces = ElementTree.fromstring(domain.XMLDesc()).iterfind("devices/interface")
    return next((i for i in interfaces if (named := i.find("alias")) is not None and named.get("name") == alias), None)
