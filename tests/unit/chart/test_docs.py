"""The documentation agrees with the code: generated parts are fresh, every reason is explained, every path exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from berth.plan import diagnose

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "operator" / "src" / "berth"
PAGES = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])
NOT_ON_A_MACHINE = {
    # of the API between controller, agents and API server: in logs only
    *("AgentError", "AlreadyExists", "AnswerInvalid", "ApiRefused", "BadUid", "Conflict", "NotAnAgent", "NotEnrolled"),
    *("NoKey", "NotFound", "PodChanged", "RequestInvalid", "TokenMissing", "TokenUnbound"),
    # of base classes, whose subclasses say more
    *("Error", "HostFault", "Refused", "Unavailable"),
}


def reasons() -> set[str]:
    """Every reason that the code can put on a machine, by the ways in which it does."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        found |= set(re.findall(r'reason(?:: str)? ?= ?"([A-Z]\w+)"', text))
        found |= set(
            re.findall(r'(?:Cause\([\w.]+|_problem\([\w.]+|CannotRun\(|RefuseOrder\(|Wait\()(?:, )?"([A-Z]\w+)"', text)
        )
        found |= set(re.findall(r'(?:_failed\(|Trouble\(|Answer\((?:True|False), |Word\([\w.]+, )"([A-Z]\w+)"', text))
    for rows in (diagnose.REFUSALS, diagnose.SCHEDULING, diagnose._VOLUMES):
        found |= {reason for _, reason, _ in rows}
    return found - NOT_ON_A_MACHINE


@pytest.mark.parametrize("reason", sorted(reasons()))
def test_every_reason_is_explained(reason: str) -> None:
    assert f"`{reason}`" in (ROOT / "docs" / "troubleshooting.md").read_text()


def test_generated_parts_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_local_link_and_named_path_exists(page: Path) -> None:
    text = page.read_text()
    prose = re.sub(r"`[^`\n]*`|```.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:operator|testbed|images|charts|examples|tests|docs|scripts|guests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
