"""Processes are started detached, recognised by their mark, and only they are ever ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import settings
from testbed.cluster import processes


@pytest.fixture
def where(tmp_path: Path) -> Iterator[settings.Settings]:
    made = settings.Settings(tmp_path / "state", tmp_path / "data", tmp_path / "cache")
    yield made
    for name in processes.find(made):
        processes.kill(made, name)


def start(where: settings.Settings, name: str = "sleeper", digest: str = "d1") -> int:
    processes.start(where, name, digest, ["sleep", "600"], [])
    end = time.monotonic() + 5
    while name not in processes.find(where):
        assert time.monotonic() < end, "the process did not appear"
        time.sleep(0.01)
    return processes.find(where)[name].pid


def test_a_started_process_is_found_with_its_digest(where: settings.Settings) -> None:
    pid = start(where)
    assert processes.find(where) == {"sleeper": processes.Running(pid, "d1")}


def test_it_lives_in_a_session_of_its_own(where: settings.Settings) -> None:
    pid = start(where)
    assert os.getsid(pid) == pid


def test_another_testbeds_process_is_not_ours(where: settings.Settings, tmp_path: Path) -> None:
    pid = start(where)
    other = settings.Settings(tmp_path / "other", tmp_path / "data", tmp_path / "cache")
    (other.state / "pids").mkdir(parents=True)
    (other.state / "pids" / "sleeper.pid").write_text(f"{pid}\n")
    assert processes.find(other) == {}
    processes.stop(other, "sleeper")
    assert "sleeper" in processes.find(where)


def test_a_reused_pid_is_not_mistaken_for_ours(where: settings.Settings) -> None:
    (where.state / "pids").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        (where.state / "pids" / "sleeper.pid").write_text(f"{stranger.pid}\n")
        assert processes.find(where) == {}
        processes.kill(where, "sleeper")
        assert stranger.poll() is None
        assert stranger.stdin is not None
        stranger.stdin.close()


def test_stop_ends_it_and_forgets_it(where: settings.Settings) -> None:
    pid = start(where)
    processes.stop(where, "sleeper")
    assert processes.find(where) == {}
    assert processes.wait_gone({pid}, 0)


@pytest.mark.parametrize("content", ["", "nonsense", "999999999\n"])
def test_a_broken_pid_file_means_not_running(where: settings.Settings, content: str) -> None:
    (where.state / "pids").mkdir(parents=True)
    (where.state / "pids" / "sleeper.pid").write_text(content)
    assert processes.find(where) == {}


def test_a_process_enters_the_cgroups_before_it_becomes_the_program(where: settings.Settings, tmp_path: Path) -> None:
    entries = [tmp_path / "a", tmp_path / "b"]
    processes.start(where, "sleeper", "d", ["sleep", "600"], entries)
    while "sleeper" not in processes.find(where) or not entries[1].exists():
        time.sleep(0.01)
    assert {path.read_text().strip() for path in entries} == {str(processes.find(where)["sleeper"].pid)}
