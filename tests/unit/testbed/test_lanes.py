"""Stages in lanes: silence is never success, and what runs side by side is counted apart."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from testbed import lanes
from testbed.lanes import Result, Stage

CASES = '<testcase classname="a" name="good"/><testcase classname="a" name="bad"><failure/></testcase>'
REPORT = f"<testsuite>{CASES}</testsuite>"


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "RESULTS", tmp_path)


def shell(name: str, script: str, *, reports: bool = True, lane: str = "") -> Stage:
    return Stage(name, f"about {name}", ("sh", "-c", script), reports=reports, lane=lane)


def run(*sides: list[Stage]) -> list[Result]:
    return lanes.run(sides, Console(file=io.StringIO()))


def test_a_stage_without_a_report_has_failed() -> None:
    [result] = run([shell("quiet", "true")])
    assert not result.good
    assert result.failures == ["quiet: no report was written (exit code 0)"]


def test_stages_side_by_side_are_counted_apart(capfd: pytest.CaptureFixture[str]) -> None:
    script = f"echo from the second; echo '{REPORT}' > {{report}}; exit 1"
    second, first = run([shell("slow", "sleep 0.6", reports=False)], [shell("quick", script)])
    assert first.good
    assert (second.passed, second.failed, second.failures) == (1, 1, ["a::bad"])
    assert not second.good
    assert second.seconds < first.seconds
    assert "from the second" in capfd.readouterr().out


def test_stages_of_one_lane_run_in_order(tmp_path: Path) -> None:
    file = tmp_path / "order"
    run(
        [
            shell(name, f"echo begin {name} >> {file}; sleep 0.2; echo end {name} >> {file}", reports=False)
            for name in "ab"
        ],
        [shell("c", "true", reports=False)],
    )
    assert file.read_text().split("\n")[:-1] == ["begin a", "end a", "begin b", "end b"]


def test_stages_of_no_lane_run_alone() -> None:
    build, a1, b, a2, after = (
        shell(n, "", lane=lane) for n, lane in zip("12345", ("", "a", "b", "a", ""), strict=True)
    )
    assert lanes.groups([build, a1, b, a2, after]) == [[[build]], [[a1, a2], [b]], [[after]]]


def test_an_interrupt_reaches_what_runs(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from rich.console import Console
from testbed import lanes
lanes.RESULTS = Path({str(tmp_path)!r})
def stage(name):
    wait = "trap 'echo over >> {tmp_path}/over; exit' INT; touch {tmp_path}/$0; while :; do sleep 0.05; done"
    return lanes.Stage(name, "", ("sh", "-c", wait, name))
lanes.run([[stage("a")], [stage("b")]], Console())
"""
    running = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    assert running.wait(20) != 0
    assert (tmp_path / "over").read_text() == "over\nover\n"
