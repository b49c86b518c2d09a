"""The table of commands. Each is a function of its own module; errors of Berth's become one line and an exit code."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer

from berth import errors
from berth.cli import screen

COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("list", "listing", "Look"),
    ("why", "why", "Look"),
    ("net", "net", "Look"),
    ("console", "console", "Use"),
    ("vnc", "vnc", "Use"),
    ("start", "power", "Power"),
    ("stop", "power", "Power"),
    ("restart", "power", "Power"),
    ("pause", "power", "Power"),
    ("suspend", "power", "Power"),
    ("resume", "power", "Power"),
    ("migrate", "migrate", "Power"),
    ("evacuate", "evacuate", "Power"),
    ("snapshot", "snapshot", "Snapshots"),
    ("snapshots", "snapshot", "Snapshots"),
    ("revert", "snapshot", "Snapshots"),
    ("validate", "files", "Without a cluster"),
    ("render", "files", "Without a cluster"),
    ("plan", "files", "Without a cluster"),
    ("crds", "files", "Without a cluster"),
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        screen.out.print(f"berth {version('berth')}")
        raise typer.Exit


def build() -> typer.Typer:
    """All commands; each module is imported only once its command is known, so that every one starts fast."""
    table = typer.Typer(
        name="berth", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )

    @table.callback()
    def about(
        version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    ) -> None:
        """Virtual machines on Kubernetes. Also installed as `kubectl vm`."""

    chosen = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    wanted = [c for c in COMMANDS if c[0] == chosen] or COMMANDS
    for name, module, panel in wanted:
        function: Any = getattr(importlib.import_module(f"berth.cli.{module}"), f"{name}_command")
        table.command(name, rich_help_panel=panel)(function)
    return table


def app() -> None:
    try:
        build()()
    except errors.BerthError as error:
        screen.err.print(f"error: {error}", markup=False, style="red")
        sys.exit(1)
