"""Text for people, with colours where a terminal shows them. The only place that writes to the screen."""

from __future__ import annotations

import sys
from typing import Final, NoReturn

import typer
from rich.console import Console
from rich.text import Text

_PIPE_WIDTH: Final = 2_000  # into a file or pipe nothing is cut or folded

out: Final = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err: Final = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

COLOURS: Final = {
    "Running": "green",
    "Paused": "yellow",
    "Suspended": "yellow",
    "Stopped": "bright_black",
    "Failed": "red",
    "Unknown": "red",
    "Succeeded": "green",
    "Ready": "green",
    "Cancelled": "yellow",
}
"""Phases that come and go by themselves are cyan."""


def coloured(phase: str) -> Text:
    return Text(phase or "New", style=COLOURS.get(phase, "cyan"))


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what is wrong and what to do, and end."""
    err.print(Text("error: ", style="red"), Text(message), sep="", end="\n")
    raise typer.Exit(code)
