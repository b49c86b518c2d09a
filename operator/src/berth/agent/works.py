"""What agents do to machines beside their reconciles, for minutes: a task for each machine at most, and what became of
it. Used by saving.py and snapshots.py.

All of it may be lost with the agent: the marks in the machines' folders and the files in their volumes are what counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from berth.errors import BerthError
from berth.plan.report import SaveFailure

AT_ONCE: Final = 2
"""So many guests of a node are worked on at a time, by either: more would only share its disks, and take longer each.
Disks may be copied for hours, and a guest that is to be restored does not wait for that."""

_log = logging.getLogger(__name__)


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True, eq=False)
class Work:
    """One attempt at something. ``done`` and ``failed`` are words for the log."""

    uid: str
    done: str
    failed: str
    do: Callable[[], Awaitable[dict[str, object]]]
    waits: bool = True  # for its turn
    aborted: bool = False
    failure: SaveFailure | None = None
    failed_at: float = 0.0
    began_at: float = field(default_factory=now)
    task: asyncio.Task[None] | None = None

    @property
    def finished(self) -> bool:
        return self.task is not None and self.task.done()


W = TypeVar("W", bound=Work)


class Works(Generic[W]):
    def __init__(self, ring: Callable[[str], None]) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._ring = ring
        self._all: dict[str, W] = {}

    def get(self, uid: str) -> W | None:
        return self._all.get(uid)

    def drop(self, uid: str) -> None:
        self._all.pop(uid, None)

    def busy(self) -> list[str]:
        return [uid for uid, work in self._all.items() if not work.finished]

    def begin(self, work: W) -> None:
        known = self._all.get(work.uid)
        if known is not None and not known.finished:
            return
        self._all[work.uid] = work
        work.task = asyncio.create_task(self._run(work), name=f"{work.done} {work.uid}")
        work.task.add_done_callback(lambda _: self._ring(work.uid))

    def abort(self, uid: str) -> W | None:
        """The work, unless it has ended, or is ended so: whoever does it has to look for that."""
        work = self._all.get(uid)
        if work is None or work.finished:
            return None
        work.aborted = True
        if work.waits and work.task is not None:
            work.task.cancel()
            return None
        return work

    def close(self) -> None:
        """The agent ends; what libvirt has begun it may end, and the next agent throws that away and begins anew."""
        for work in self._all.values():
            if work.task is not None:
                work.task.cancel()

    async def _run(self, work: W) -> None:
        try:
            async with self._turns:
                work.waits = False
                told = await work.do()
            _log.info(work.done, extra={"uid": work.uid, **told, "seconds": round(now() - work.began_at, 3)})
        except BerthError as error:
            _failed(work, error.reason, str(error))
        except Exception as error:
            _log.exception("a work on a machine failed", extra={"uid": work.uid})
            _failed(work, "InternalError", f"{type(error).__name__}: {error}")


def _failed(work: Work, reason: str, message: str) -> None:
    _log.warning(work.failed, extra={"uid": work.uid, "reason": reason, "error": message})
    if not work.aborted:
        work.failure, work.failed_at = SaveFailure(reason, message), now()
