"""Options that all tests share."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no property of the code: how long an example takes is not judged.
settings.register_profile("berth", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if not os.environ.get("CI"):  # there hypothesis has one of its own, with the same examples every time
    settings.load_profile("berth")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen", action="store_true", help="write the golden files anew instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare text with a golden file, or write it with --regen: read the difference before it is committed."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--regen"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"{path} is missing: write it with `pytest {request.node.path} --regen`"
        wanted = path.read_text(encoding="utf-8")
        difference = difflib.unified_diff(wanted.splitlines(), text.splitlines(), str(path), "now", lineterm="")
        assert text == wanted, "\n".join(difference)

    return check
