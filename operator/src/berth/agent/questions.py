"""What agents ask each other about a migration, and what they answer: lines of JSON through effects/tunnel.py."""

from __future__ import annotations

import enum
from typing import Final

from pydantic import Field

from berth.api.base import Lenient
from berth.api.handover import Flow

PREPARE: Final = "prepare"
"""Channel, source to target: one ``Prepared`` is the answer."""
PREPARE_DISKS: Final = "prepare-disks"
"""The same for a guest that writes to disks: an ``Offer`` first, and ``Seen`` last. An older agent refuses it."""
SPEED: Final = "speed"
"""Channel, source to target: bytes for a moment, then a ``Counted`` is the answer."""
LET_GO: Final = "let-go"
"""Channel, target to source: each ``Ask`` is answered by a ``Released``."""


class Prepared(Lenient):
    xml: str = ""  # of the copy, as libvirt at the target is to make it
    marks: dict[str, str] = Field(default_factory=dict)  # disk → a file on its claim, until ``Seen`` is said
    reason: str = ""  # why there will be none
    message: str = ""


class Offer(Lenient):
    """The disks that are to be copied, and how large the guest sees them."""

    disks: dict[str, int]


class Seen(Lenient):
    """The source has looked for the marks."""


class Counted(Lenient):
    bytes: int
    seconds: float


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
