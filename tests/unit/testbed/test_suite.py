"""The runner of the stages: silence is never success, and what runs side by side is counted apart."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from testbed import suite
from testbed.suite import Stage

CASES = '<testcase classname="a" name="good"/><testcase classname="a" name="bad"><failure/></testcase>'
REPORT = f"<testsuite>{CASES}</testsuite>"


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "RESULTS", tmp_path)


def shell(name: str, script: str, *, reports: bool = True, beside: bool = False) -> Stage:
    return Stage(name, f"about {name}", ("sh", "-c", script), reports=reports, beside=beside)


def run(*stages: Stage) -> list[suite.Result]:
    return suite.run(stages, Console(file=io.StringIO()))


def test_a_stage_without_a_report_has_failed() -> None:
    [result] = run(shell("quiet", "true"))
    assert not result.good
    assert result.failures == ["quiet: no report was written (exit code 0)"]


def test_stages_side_by_side_are_counted_apart(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = run(
        shell("slow", "sleep 0.6", reports=False),
        shell("quick", f"echo from the second; echo '{REPORT}' > {{report}}; exit 1", beside=True),
    )
    assert first.good
    assert (second.passed, second.failed, second.failures) == (1, 1, ["a::bad"])
    assert not second.good
    assert second.seconds < first.seconds
    assert "from the second" in capfd.readouterr().out


def test_only_stages_that_test_have_others_beside_them() -> None:
    build = shell("build", "", reports=False)
    tests, more = shell("tests", ""), shell("more", "", beside=True)
    assert suite.groups([build, tests, more]) == [[build], [tests, more]]
    assert suite.groups([build, more]) == [[build], [more]]


def test_an_interrupt_reaches_what_runs(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from rich.console import Console
from testbed import suite
suite.RESULTS = Path({str(tmp_path)!r})
def stage(name, **more):
    wait = "trap 'echo over >> {tmp_path}/over; exit' INT; touch {tmp_path}/$0; while :; do sleep 0.05; done"
    return suite.Stage(name, "", ("sh", "-c", wait, name), **more)
suite.run([stage("a"), stage("b", beside=True)], Console())
"""
    running = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    assert running.wait(20) != 0
    assert (tmp_path / "over").read_text() == "over\nover\n"
