"""The connections to libvirtd: kept open by a thread of its own, opened anew when they go. Used by hypervisor.py.

Two connections: events have one to themselves, so that no long call holds them up. libvirt's default event loop runs in
a thread of its own for the life of the process; it serves both connections' keepalive, so nothing may block it.
libvirtd being down is a state: calls raise HypervisorDown at once, and the thread tries again with back-off and jitter.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any, Final

import libvirt

from berth.errors import HypervisorDown

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 3.0
FIRST_TRY_PATIENCE: Final = 3.0
"""Seconds that a caller waits for the very first attempt: an agent that starts beside libvirtd is not told "down"."""
KEEPALIVE_INTERVAL: Final = 1
"""Seconds; with the count below a libvirtd that hangs is given up after four: the machine says so within ten."""
KEEPALIVE_COUNT: Final = 3
_CLOSED: Final = ("an error", "end of file", "keepalive timeout", "our own request")

_loop_lock = threading.Lock()
_loop: threading.Thread | None = None


def _run_loop() -> None:
    while True:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRunDefaultImpl()


def _ensure_loop() -> None:
    """Once per process, and before the first connection is opened: libvirt asks for both."""
    global _loop
    with _loop_lock:
        if _loop is None:
            libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised; stderr stays clean
            libvirt.virEventRegisterDefaultImpl()
            _loop = threading.Thread(target=_run_loop, name="libvirt-events", daemon=True)
            _loop.start()


class Link:
    """``subscribe`` registers what is wanted on a new events connection; ``notify`` hears of comings and goings;
    ``warm_up`` may take its time on a connection that is already in use."""

    def __init__(
        self,
        uri: str,
        subscribe: Callable[[Any], None],
        notify: Callable[[bool, str], None],
        warm_up: Callable[[Any], None],
    ) -> None:
        self._uri = uri
        self._warm_up = warm_up
        self._subscribe = subscribe
        self._notify = notify
        self._work: Any = None
        self._message = "libvirtd has not answered yet"
        self._tried = threading.Event()
        self._wake = threading.Event()
        self._closing = False
        _ensure_loop()
        self._thread = threading.Thread(target=self._keep, name="libvirt-link", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        return self._work is not None

    @property
    def message(self) -> str:
        return self._message

    def work(self) -> Any:
        """The connection for calls; HypervisorDown at once when there is none."""
        self._tried.wait(FIRST_TRY_PATIENCE)
        connection = self._work
        if connection is None:
            raise HypervisorDown(f"{self._message}; see that libvirtd runs on this node, it is tried again by itself")
        return connection

    def lost(self, message: str) -> None:
        """A call or a callback found the connection broken."""
        self._message = message
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=5)

    def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing:
            self._wake.clear()
            opened = self._open()
            self._tried.set()
            if opened is None:
                self._wake.wait(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            self._notify(True, "")
            with contextlib.suppress(libvirt.libvirtError):
                self._warm_up(opened[0])
            self._wake.wait()
            self._work = None
            if not self._closing:
                self._notify(False, self._message)
            self._drop(opened)

    def _open(self) -> list[Any] | None:
        opened: list[Any] = []
        try:
            opened += [self._connect()]
            opened += [self._connect()]
            self._subscribe(opened[1])
        except libvirt.libvirtError as error:
            self._message = f"libvirtd cannot be reached at {self._uri}: {error.get_error_message()}"
            self._drop(opened)
            return None
        self._work = opened[0]
        return opened

    def _connect(self) -> Any:
        connection = libvirt.open(self._uri)
        with contextlib.suppress(libvirt.libvirtError):  # test:/// is in this process: it has neither
            connection.setKeepAlive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
            connection.registerCloseCallback(self._on_close, None)
        return connection

    def _on_close(self, _connection: Any, reason: int, _opaque: object) -> None:
        word = _CLOSED[reason] if 0 <= reason < len(_CLOSED) else str(reason)
        self.lost(f"libvirtd closed the connection ({word})")

    def _drop(self, opened: list[Any]) -> None:
        """Other threads may still be in a call on the first: it closes with its last reference."""
        for connection in opened:
            with contextlib.suppress(libvirt.libvirtError):
                connection.unregisterCloseCallback()
        for connection in opened[1:]:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()
