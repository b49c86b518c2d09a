"""One call per XML element: the words of libvirt's domain format stay readable in devices/. Pure."""

from __future__ import annotations

import re
from typing import Final
from xml.etree.ElementTree import Element

from berth.errors import InvalidSpec

_FORBIDDEN: Final = re.compile("[^\t\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot hold, and line ends: no value in a domain has a use for them."""


def element(tag: str, *children: Element | None, text: str | None = None, **attributes: str | int | None) -> Element:
    """``<tag attribute='…'>children</tag>``; attributes and children that are None are left out."""
    made = Element(tag, {name: str(value) for name, value in attributes.items() if value is not None})
    made.text = text
    made.extend(child for child in children if child is not None)
    return made


def checked(path: str, value: str) -> str:
    """``value``, if it can be written into a domain; InvalidSpec names ``path`` if not."""
    if bad := _FORBIDDEN.search(value):
        problem = f"character {bad.start() + 1} is a control character, which a machine cannot be given; remove it"
        raise InvalidSpec(path, problem, given=value[max(0, bad.start() - 10) : bad.start() + 10])
    return value
