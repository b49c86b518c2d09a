"""--wait: each new phase and each new trouble on a line of its own, until it is done, cannot be, or takes too long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from berth.cli import screen

LOOK_EVERY: Final = 0.3
NOT_IN_TIME: Final = 2
"""The exit code."""


@dataclass(frozen=True, slots=True)
class Look:
    """How it is. ``hopeless``: why it cannot be done any more."""

    phase: str
    words: str = ""
    done: bool = False
    hopeless: str = ""


def follow(look: Callable[[], Look], timeout: float, late: str) -> None:
    began, shown = time.monotonic(), ("", "")
    while True:
        now = look()
        if (now.phase, now.words) != shown:
            line = Text(f"{time.monotonic() - began:6.1f} s  ") + screen.coloured(now.phase)
            screen.out.print(line + Text(f"  {now.words}" if now.words else ""))
            shown = now.phase, now.words
        if now.done:
            return
        if now.hopeless:
            screen.fail(now.hopeless)
        if time.monotonic() - began > timeout:
            screen.fail(late, NOT_IN_TIME)
        time.sleep(LOOK_EVERY)
