"""Bytes from one connection to another and back, until both end: a plain one and a TLS one. For tunnel.py's threads.

One thread serves both ways, because a TLS connection must not be read and written at the same time. It never holds more
than one buffer for each way: whoever reads slowly slows the other side down.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import Final

CHUNK: Final = 1 << 20
Passage = Callable[[memoryview], memoryview]
"""What came in → what may go on now."""


def straight(data: memoryview) -> memoryview:
    return data


class _Way:
    """From one socket to the other."""

    def __init__(self, source: socket.socket, sink: socket.socket, passage: Passage) -> None:
        self.source, self.sink, self._passage = source, sink, passage
        self._buffer = memoryview(bytearray(CHUNK))
        self.waiting = self._buffer[:0]
        self.ended = self.over = self._reset = False

    def fill(self) -> bool:
        """Read as much as there is; whether anything came, be it the end."""
        if self.waiting or self.ended:
            return False
        count = 0
        try:
            while count < CHUNK:
                got = self.source.recv_into(self._buffer[count:])
                if got == 0:
                    self.ended = True
                    break
                count += got
                if not isinstance(self.source, ssl.SSLSocket):
                    break  # a plain one gives all it has at once
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except ConnectionResetError:
            # A unix socket says so once, of what the other side did not read; what that wrote before can still be read.
            self.ended, self._reset = self._reset, True
            return True
        except (OSError, ssl.SSLError):
            self.ended = True
        self.waiting = self._passage(self._buffer[:count]) if count else self.waiting
        return count > 0 or self.ended

    def drain(self) -> bool:
        """Write as much as can be; whether anything went."""
        went = False
        try:
            while self.waiting:
                self.waiting = self.waiting[self.sink.send(self.waiting) :]
                went = True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (OSError, ssl.SSLError):  # nobody reads there any more; what comes back may still be on its way
            self.ended, self.waiting, went = True, self._buffer[:0], True
        return went

    def finish(self) -> bool:
        """Pass the end on, once all that came before it is out; whether this way is over.

        The connection is closed for writing only: were it closed whole with something unread in it, the kernel would
        throw away what is still on its way. TLS's own good-bye is left out: what is cut off, QEMU and libvirt notice.
        """
        if self.ended and not self.waiting and not self.over:
            self.over = True
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.sink, socket.SHUT_WR)
        return self.over


def relay(plain: socket.socket, secure: ssl.SSLSocket, forth: Passage = straight, back: Passage = straight) -> None:
    """Until both sides have ended; then both are closed. ``forth`` is plain to secure; one that raises ends it all."""
    ways = (_Way(plain, secure, forth), _Way(secure, plain, back))
    with contextlib.closing(plain), contextlib.closing(secure):
        plain.setblocking(False)
        secure.setblocking(False)
        with contextlib.suppress(OSError, ssl.SSLError):
            while [way.finish() for way in ways] != [True, True]:
                moved = [way.fill() | way.drain() for way in ways]
                if not any(moved):
                    _wait(plain, secure, ways)


def _wait(plain: socket.socket, secure: ssl.SSLSocket, ways: tuple[_Way, _Way]) -> None:
    """For the next thing that either way can do."""
    forth, back = ways
    wanted = {plain.fileno(): 0, secure.fileno(): 0}
    wanted[plain.fileno()] |= 0 if forth.waiting or forth.ended else select.POLLIN
    wanted[plain.fileno()] |= select.POLLOUT if back.waiting else 0
    wanted[secure.fileno()] |= 0 if back.waiting or back.ended else select.POLLIN
    wanted[secure.fileno()] |= select.POLLOUT if forth.waiting else 0
    poller = select.poll()
    for fd, events in wanted.items():
        if events:  # one that has hung up would wake this again and again, though nothing is wanted of it
            poller.register(fd, events)
    poller.poll()
