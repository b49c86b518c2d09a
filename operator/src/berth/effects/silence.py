"""Whether the other side of a connection still answers what it is asked. Used as passages of a relay, by the agent.

It knows nothing of what is said: something went there, nothing has come back since, and that for how long.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Talk:
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._asked_at: float | None = None

    def forth(self, data: memoryview) -> memoryview:
        self._asked_at = self._now()
        return data

    def back(self, data: memoryview) -> memoryview:
        self._asked_at = None
        return data

    def silent_for(self) -> float:
        """Seconds since something went there that nothing has answered; 0 when nothing is waited for."""
        asked = self._asked_at
        return 0.0 if asked is None else self._now() - asked
