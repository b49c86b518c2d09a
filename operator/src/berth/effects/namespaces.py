"""Work done inside another process's namespaces: a function in, its result out. Called by mounts.py and network.py.

A thread that enters a namespace cannot be trusted with anything else afterwards, so each piece of work gets a thread of
its own that ends with it. Processes started by the work are in the namespace too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from berth.effects import syscalls

T = TypeVar("T")


class _Visit(threading.Thread, Generic[T]):
    def __init__(self, enter: Callable[[], None], work: Callable[[], T]) -> None:
        super().__init__(name="namespace-visit", daemon=True)
        self._enter, self._work = enter, work
        self.result: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._enter()
            self.result.append(self._work())
        except BaseException as error:  # handed to the caller's thread
            self.error = error


def _visit(enter: Callable[[], None], work: Callable[[], T]) -> T:
    visit = _Visit(enter, work)
    visit.start()
    visit.join()
    if visit.error is not None:
        raise visit.error
    return visit.result[0]


def in_network(netns_fd: int, work: Callable[[], T]) -> T:
    """Run ``work`` in the network namespace that ``netns_fd`` refers to."""
    return _visit(lambda: syscalls.setns(netns_fd, syscalls.CLONE_NEWNET), work)


def in_fresh_network(work: Callable[[], T]) -> T:
    """Run ``work`` in a network namespace of its own; it ends with the last descriptor that ``work`` opened of it."""
    return _visit(lambda: syscalls.unshare(syscalls.CLONE_NEWNET), work)


def in_mounts(mntns_fd: int, work: Callable[[], T]) -> T:
    """Run ``work`` in a mount namespace. It sees that namespace's files: it must import and open nothing of ours."""

    def enter() -> None:
        syscalls.unshare(syscalls.CLONE_FS)  # the kernel asks for it: root and working directory are about to change
        syscalls.setns(mntns_fd, syscalls.CLONE_NEWNS)

    return _visit(enter, work)
