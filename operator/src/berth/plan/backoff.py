"""How long a machine waits before it is started again. Pure; used by history.py and for retries by the controller."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

FIRST: Final = timedelta(seconds=10)
LONGEST: Final = timedelta(minutes=5)
QUIET: Final = timedelta(minutes=10)
"""A guest that ran this long starts counting anew."""


def restart_delay(before: int, orderly: bool) -> timedelta:
    """The wait before the next start, when ``before`` starts in a row were made already.

    A crash waits 10 s, 20 s … 5 min. A guest that ended in order is started again at once the first time.
    """
    steps = before - 1 if orderly else before
    if steps < 0:
        return timedelta(0)
    return min(FIRST * float(2 ** min(steps, 10)), LONGEST)


def retry_seconds(failures: int, first: float = 1.0, longest: float = 60.0) -> float:
    """The wait before a failed call is tried again: 1 s, 2 s, 4 s … 60 s."""
    return min(first * 2.0 ** min(max(failures - 1, 0), 16), longest)
