"""What agents ask each other about a migration, and what they answer: lines of JSON through effects/tunnel.py."""

from __future__ import annotations

import enum
from typing import Final

from berth.api.base import Lenient
from berth.api.handover import Flow

PREPARE: Final = "prepare"
"""Channel, source to target: one ``Prepared`` is the answer."""
PREPARE_DISKS: Final = "prepare-disks"
"""The same for a guest with disks that are copied: an ``Offer`` first. An older agent refuses it, as it should."""
LET_GO: Final = "let-go"
"""Channel, target to source: each ``Ask`` is answered by a ``Released``."""


class Prepared(Lenient):
    xml: str = ""  # of the copy, as libvirt at the target is to make it
    reason: str = ""  # why there will be none
    message: str = ""


class Offer(Lenient):
    """The disks that are to be copied, and how large the guest sees them."""

    disks: dict[str, int]


class Ask(Lenient):
    pass


class Word(enum.StrEnum):
    YES = "Yes"
    NO = "No"
    LATER = "Later"


class Released(Lenient):
    word: Word
    stopped_ms: int = 0  # for how long the guest has stood still
    flows: tuple[Flow, ...] = ()
    reason: str = ""
    message: str = ""
