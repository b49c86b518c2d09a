"""Waits until something is ready, by asking it. Called by apply.py after each start; never sleeps past a deadline."""

from __future__ import annotations

import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from testbed import errors
from testbed.cluster.units import Http, Probe, Socket

PAUSE = 0.05


def probe(what: Probe) -> bool:
    """One question to a process."""
    match what:
        case Http(url):
            return _answers(url)
        case Socket(path):
            return _accepts(path)
        case _:
            assert_never(what)


def until(condition: Callable[[], bool], seconds: float, message: Callable[[], str]) -> None:
    """Ask again and again until the condition holds; the message is made only when it is needed."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise errors.NotReady(message())
        time.sleep(PAUSE)


def _answers(url: str) -> bool:
    # Health endpoints only: who answers does not matter, that it answers does.
    context = ssl._create_unverified_context() if url.startswith("https") else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True
