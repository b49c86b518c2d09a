"""Starts, finds and ends the cluster's processes. Called by apply.py and teardown.py; knows no Kubernetes.

A process writes its own pid file before it becomes the program, so no kill of this tool can lose one. It is recognised
by a mark in its environment, so a reused pid is never mistaken for it, and only marked processes are ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import errors, files
from testbed.settings import Settings

MARK = "BERTH_TESTBED_UNIT"
# $1 is the pid file, $2 the number of cgroup files that follow, then comes the program.
LAUNCH = (
    'pid=$1; n=$2; shift 2; echo $$ >"$pid"; while [ "$n" -gt 0 ]; do echo $$ >"$1"; shift; n=$((n-1)); done; exec "$@"'
)


@dataclass(frozen=True, slots=True)
class Running:
    """A live process of ours and the digest of the unit it was started from."""

    pid: int
    digest: str


def start(
    settings: Settings,
    name: str,
    digest: str,
    argv: Sequence[str],
    cgroup_files: Iterable[Path],
    environment: Iterable[tuple[str, str]] = (),
) -> None:
    """Start a process in a session of its own; it outlives this tool and the terminal."""
    entries = [str(path) for path in cgroup_files]
    pid_file, log = _pid_file(settings, name), settings.logs / f"{name}.log"
    pid_file.unlink(missing_ok=True)
    for path in (pid_file, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    command = ["sh", "-ec", LAUNCH, "sh", str(pid_file), str(len(entries)), *entries, *argv]
    base = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    with log.open("ab") as output:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={**base, **dict(environment), MARK: _mark(settings, name, digest)},
        )


def find(settings: Settings) -> dict[str, Running]:
    """Every unit that runs, by name."""
    found = {}
    for pid_file in sorted((settings.state / "pids").glob("*.pid")):
        running = _running(settings, pid_file)
        if running:
            found[pid_file.stem] = running
    return found


def ended(settings: Settings, name: str) -> bool:
    """True when a process that got as far as writing its pid file lives no more."""
    text = files.read(_pid_file(settings, name)) or ""
    return text.endswith("\n") and not _alive(int(text))


def stop(settings: Settings, name: str, deadline: float = 5.0) -> None:
    """Ask a unit to end, then insist. One that is not running is fine."""
    pid_file = _pid_file(settings, name)
    running = _running(settings, pid_file)
    if running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGTERM)
            if not wait_gone({running.pid}, deadline):
                os.kill(running.pid, signal.SIGKILL)
                wait_gone({running.pid}, deadline)
    pid_file.unlink(missing_ok=True)


def kill(settings: Settings, name: str) -> None:
    """End a unit as a crash would."""
    running = _running(settings, _pid_file(settings, name))
    if running:
        kill_all({running.pid})
    _pid_file(settings, name).unlink(missing_ok=True)


def kill_all(pids: Iterable[int], deadline: float = 5.0) -> None:
    """Kill processes that were found in the testbed's own cgroups."""
    mine = {pid for pid in pids if pid != os.getpid()}
    for pid in mine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if not wait_gone(mine, deadline):
        raise errors.NotReady(f"processes {sorted(mine)} did not end within {deadline:.0f} s of SIGKILL")


def wait_gone(pids: set[int], deadline: float) -> bool:
    """Wait until no process of the set lives (a zombie does not count)."""
    end = time.monotonic() + deadline
    while any(_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _running(settings: Settings, pid_file: Path) -> Running | None:
    text = (files.read(pid_file) or "").strip()
    if not text.isdigit() or not _alive(int(text)):
        return None
    environment = _environment(text).split("\0")
    prefix = f"{MARK}={settings.state}|{pid_file.stem}|"
    for entry in environment:
        if entry.startswith(prefix):
            return Running(int(text), entry.removeprefix(prefix))
    return None


def _environment(pid: str) -> str:
    """A process that just becomes another program has an empty environment for a moment."""
    for _ in range(20):
        text = files.read(Path("/proc") / pid / "environ")
        if text or not _alive(int(pid)):
            break
        time.sleep(0.005)
    return text or ""


def _alive(pid: int) -> bool:
    stat = files.read(Path("/proc") / str(pid) / "stat")
    return stat is not None and not stat.rpartition(")")[2].startswith((" Z", " X"))


def _mark(settings: Settings, name: str, digest: str) -> str:
    return f"{settings.state}|{name}|{digest}"


def _pid_file(settings: Settings, name: str) -> Path:
    return settings.state / "pids" / f"{name}.pid"
