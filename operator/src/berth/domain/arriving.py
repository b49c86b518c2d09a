"""The XML of a copy, as another node's libvirt sends it → whether it is the machine that this node asked for.

That node may have been stolen: what it sends becomes a QEMU here. libvirt there completes the XML that it was given, so
the two are never alike; what must be the same is all that reaches out of the guest. Pure; called by the tunnel's guard.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from berth.domain import metadata

_ADDED: Final = frozenset({"currentMemory", "id"})
"""What libvirt adds beside devices."""
_INSIDE: Final = frozenset({"controller", "input", "audio", "watchdog", "video", "memballoon", "panic", "hub"})
"""Devices that are part of the virtual hardware and touch nothing of the host."""
_DEVICE: Final = ("target", "dev")
_WORDS: Final = ("host", "service", "port", "bridge", "network", "dev", "socket", "listen", "mode", "startupPolicy")
"""Attributes of what reaches out, beside all that look like a path."""


class NotOurs(ValueError):
    """What is in it that was not asked for."""


def check(received: str, asked: str) -> None:
    """NotOurs when the received XML would reach for anything that the asked one does not."""
    try:
        theirs, ours = ElementTree.fromstring(received), ElementTree.fromstring(asked)
    except ElementTree.ParseError as error:
        raise NotOurs(f"it is no XML: {error}") from error
    if theirs.tag != "domain" or theirs.get("type") != ours.get("type"):
        raise NotOurs(f"a {theirs.tag} of type {theirs.get('type')}")
    for path in ("uuid", "name", "memory", "vcpu", "on_crash"):
        _same(theirs, ours, path)
    _order(theirs, ours)
    known = {child.tag for child in ours} | _ADDED
    strange = [child.tag for child in theirs if child.tag not in known]
    if strange:
        raise NotOurs(f"<{strange[0]}>")
    _texts(theirs, ours, "os")
    _machine(theirs, ours)
    for path in ("seclabel", "devices/emulator"):
        if _whole(theirs, path) != _whole(ours, path):
            raise NotOurs(f"another <{path}>: {_whole(theirs, path)}")
    _devices(theirs, ours)


def _same(theirs: Element, ours: Element, path: str) -> None:
    if path in ("memory",):
        return _memory(theirs, ours)
    if (theirs.findtext(path) or "").strip() != (ours.findtext(path) or "").strip():
        raise NotOurs(f"another <{path}>: {theirs.findtext(path)}")
    return None


def _memory(theirs: Element, ours: Element) -> None:
    """libvirt writes KiB, and only whole ones."""
    units = {"b": 1, "KiB": 1024, None: 1024}
    sizes = [
        units[m.get("unit")] * int(m.text or 0) for m in (theirs.find("memory"), ours.find("memory")) if m is not None
    ]
    if len(sizes) != 2 or abs(sizes[0] - sizes[1]) >= 1024:
        raise NotOurs("another size of memory")


def _order(theirs: Element, ours: Element) -> None:
    texts = [[child.text for child in root.iterfind("metadata/*")] for root in (theirs, ours)]
    tags = [[child.tag for child in root.iterfind("metadata/*")] for root in (theirs, ours)]
    if texts[0] != texts[1] or tags[0] != tags[1] or tags[0] != [metadata.TAG]:
        raise NotOurs("another order in its metadata")


def _texts(theirs: Element, ours: Element, path: str) -> None:
    """Kernel, initrd, arguments, firmware: word for word, and nothing beside them."""
    said = [_words(root.findall(path)) for root in (theirs, ours)]
    if said[0] - said[1]:
        raise NotOurs(f"in <{path}>: {sorted(said[0] - said[1])[0]}")


def _machine(theirs: Element, ours: Element) -> None:
    """The virtual hardware is the one that was ordered, whatever this QEMU would know besides."""
    said = [{kind.get("machine") for kind in root.iterfind("os/type")} for root in (theirs, ours)]
    if said[0] != said[1]:
        raise NotOurs(f"another machine type: {said[0]}")


def _whole(root: Element, path: str) -> list[tuple[str, dict[str, str], list[tuple[str, str]]]]:
    """Attributes and texts; what a label became at the source means nothing."""
    return [
        (each.tag, dict(each.attrib), sorted(_words([each])))
        for each in sorted(root.findall(path), key=lambda each: sorted(each.attrib.items()))
    ]


def _words(elements: list[Element]) -> set[tuple[str, str]]:
    """Texts, and attributes that are paths, by tag."""
    every = [each for top in elements for each in top.iter()]
    found = {(each.tag, (each.text or "").strip()) for each in every}
    found |= {(each.tag, value) for each in every for value in each.attrib.values() if "/" in value}
    return {(tag, text) for tag, text in found if text and tag not in ("boot", "imagelabel")}


def _devices(theirs: Element, ours: Element) -> None:
    outside = [{*_outside(root)} for root in (theirs, ours)]
    if strange := outside[0] - outside[1]:
        raise NotOurs(f"a device that reaches for {sorted(strange)[0]}")


def _outside(root: Element) -> Iterator[tuple[str, str, str]]:
    """Kind of device, where in it, and what it reaches for."""
    for device in root.iterfind("devices/*"):
        kind = "serial" if device.tag == "console" else device.tag  # libvirt tells a serial port as a console, too
        if kind == "emulator":
            continue
        if kind not in _INSIDE:
            yield kind, "type", device.get("type", "")
        for each in device.iter():
            if each.tag in ("address", "alias", "model", "driver", "backend") and kind in _INSIDE:
                continue
            if "}" in each.tag:
                yield kind, each.tag, ""
            yield from ((kind, name, value) for name, value in each.attrib.items() if _reaches(kind, each, name, value))
            if each.text and "/" in each.text:
                yield kind, each.tag, each.text.strip()


def _reaches(kind: str, element: Element, name: str, value: str) -> bool:
    if "/" in value:
        return True
    if kind in _INSIDE:
        return False
    return (element.tag in ("source", "listen", "graphics") and name in _WORDS) or (element.tag, name) == _DEVICE
