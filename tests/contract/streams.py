"""Numbered data between two sockets, both ways, for as long as a test takes: what was lost, doubled or late is told."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

_NUMBER = struct.Struct("!Q")


@dataclass(slots=True)
class Way:
    """What one end received. ``numbers`` in the order of their coming."""

    numbers: list[int] = field(default_factory=list)
    gap: float = 0.0
    broken: str = ""

    @property
    def lost(self) -> int:
        return (max(self.numbers) + 1 - len(set(self.numbers))) if self.numbers else 0

    @property
    def doubled(self) -> int:
        return len(self.numbers) - len(set(self.numbers))


@dataclass(slots=True)
class Stream:
    """Over two connected sockets, TCP or UDP. ``size`` of each numbered piece."""

    ends: tuple[socket.socket, socket.socket]
    size: int = 64
    pause: float = 0.02
    sent: list[int] = field(default_factory=lambda: [0, 0])
    ways: tuple[Way, Way] = field(default_factory=lambda: (Way(), Way()))
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> Stream:
        for at in (0, 1):
            self.ends[at].settimeout(0.2)
            for work in (self._send, self._receive):
                self._threads.append(threading.Thread(target=work, args=(at,), daemon=True))
                self._threads[-1].start()
        return self

    def received(self) -> tuple[int, int]:
        return len(self.ways[0].numbers), len(self.ways[1].numbers)

    def finish(self, seconds: float = 10) -> tuple[Way, Way]:
        """No more is sent; what was, may come until all is there."""
        self._stop.set()
        for thread in self._threads[::2]:
            thread.join()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and [len(set(way.numbers)) for way in self.ways] != self.sent[::-1]:
            time.sleep(0.01)
        for end in self.ends:
            end.close()
        return self.ways

    def _send(self, at: int) -> None:
        filler = bytes(self.size - _NUMBER.size)
        while not self._stop.is_set():
            data = _NUMBER.pack(self.sent[at]) + filler
            try:
                while data:
                    data = data[self.ends[at].send(data) :]
            except TimeoutError:
                continue_with = data  # a full buffer: the rest must follow
                with contextlib.suppress(OSError):
                    self.ends[at].settimeout(10)
                    self.ends[at].sendall(continue_with)
            except OSError as error:
                self.ways[1 - at].broken = str(error)
                return
            self.sent[at] += 1
            time.sleep(self.pause)

    def _receive(self, at: int) -> None:
        way, line, rest, last = self.ways[at], self.ends[at], b"", time.monotonic()
        stream = line.type == socket.SOCK_STREAM
        while True:
            try:
                data = line.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stop.is_set():
                    way.broken = str(error)
                return
            if not data and stream:
                if not self._stop.is_set():
                    way.broken = "closed"
                return
            now = time.monotonic()
            way.gap, last = max(way.gap, now - last), now
            rest += data
            while len(rest) >= self.size:
                way.numbers.append(_NUMBER.unpack_from(rest)[0])
                rest = rest[self.size :]
