"""A guest's memory and devices into a file, and back, with libvirt. Used by hypervisor.py.

A save is libvirt's external memory snapshot without any disk: the same file as virDomainSave writes, but QEMU lives on,
paused, until its state is known to be whole. Each call has a connection of its own, because it is long.
"""

from __future__ import annotations

from typing import Any, Final
from xml.etree import ElementTree

import libvirt

from berth.domain.element import element

_FLAGS: Final = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA

_SAVED_BEFORE: Final = "paused due to previous migration"
"""QEMU sends no guest away twice that has not run in between: an agent that died after the first time left it so."""


def save(uri: str, uid: str, path: str) -> None:
    """Blocks until it is written."""
    connection = libvirt.open(uri)
    try:
        domain = connection.lookupByUUIDString(uid)
        try:
            domain.snapshotCreateXML(_request(domain.XMLDesc(), path), _FLAGS)
        except libvirt.libvirtError as error:
            if _SAVED_BEFORE not in str(error):
                raise
            domain.resume()
            domain.suspend()
            domain.snapshotCreateXML(_request(domain.XMLDesc(), path), _FLAGS)
    finally:
        connection.close()


def restore(uri: str, path: str, xml: str) -> None:
    """Make the domain of the file, with this XML, paused."""
    connection = libvirt.open(uri)
    try:
        connection.restoreFlags(path, xml, libvirt.VIR_DOMAIN_SAVE_PAUSED)
    finally:
        connection.close()


def set_clock(domain: Any, seconds: float) -> None:
    """Through qemu-guest-agent."""
    whole = int(seconds)
    domain.setTime({"seconds": whole, "nseconds": int((seconds - whole) * 1e9)})


def _request(xml: str, path: str) -> str:
    """Memory, and of each disk that it is to be left alone."""
    targets = [t.get("dev", "") for t in ElementTree.fromstring(xml).iterfind("devices/disk/target")]
    disks = [element("disk", name=target, snapshot="no") for target in targets]
    root = element("domainsnapshot", element("memory", snapshot="external", file=path), element("disks", *disks))
    return ElementTree.tostring(root, encoding="unicode")
