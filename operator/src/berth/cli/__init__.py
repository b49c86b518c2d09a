"""The command line: `berth`, also `kubectl vm`. It holds no rules of its own: models and planner say what is so."""

from __future__ import annotations


def main() -> None:
    """The entry point of both names."""
    from berth.cli.app import app

    app()
