"""Runs other programs: the only place in the testbed that calls subprocess, apart from long-lived processes.

Every call either returns what was printed or raises CommandFailed with the end of it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from testbed import errors

Argument = str | Path


def run(
    argv: Sequence[Argument],
    *,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    timeout: float = 300,
) -> str:
    """Run to the end and return standard output; standard error is part of the error message only."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env=None if environment is None else {**os.environ, **environment},
            cwd=folder,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise errors.Unavailable(f"{words[0]}: not installed; run `python -m testbed prerequisites`") from error
    except subprocess.TimeoutExpired as error:
        raise errors.NotReady(f"`{' '.join(words)}` did not end within {timeout:.0f} s") from error
    if done.returncode:
        raise errors.CommandFailed(words, done.returncode, done.stdout + done.stderr)
    return done.stdout


def quiet(argv: Sequence[Argument], **options: object) -> bool:
    """Run for the exit code alone."""
    try:
        run(argv, **options)  # type: ignore[arg-type]
    except errors.TestbedError:
        return False
    return True


def stream(
    argv: Sequence[Argument],
    on_line: Callable[[str], None],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Run a long program and hand over each line it prints, for progress."""
    words = [str(word) for word in argv]
    lines: list[str] = []
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=None if environment is None else {**os.environ, **environment},
        cwd=folder,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            on_line(line.rstrip("\n"))
    if process.returncode:
        raise errors.CommandFailed(words, process.returncode, "".join(lines[-40:]))


def feed(argv: Sequence[Argument], stdin: BinaryIO, *, timeout: float = 600) -> str:
    """Run with a file as standard input."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, stdin=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise errors.CommandFailed(words, done.returncode, done.stdout + done.stderr)
    return done.stdout
