"""What tests of the commands share: a command line in this process, against the stand-in of the test's own `server`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from berth.cli.app import app
from tests.unit.cli.server import Server


@pytest.fixture
def run(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The exit code of a command."""

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["berth", *words, "--kubeconfig", str(server.kubeconfig)])
        with pytest.raises(SystemExit) as ended:
            app()
        return int(ended.value.code or 0)

    return call
