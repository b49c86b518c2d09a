"""The panic notifier ↔ <panic>: a guest that panics says so, and is not taken for one that is busy."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from berth.domain.element import element


@dataclass(frozen=True, slots=True)
class Panic:
    def to_element(self) -> Element:
        return element("panic", model="isa")
