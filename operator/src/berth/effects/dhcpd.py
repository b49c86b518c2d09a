"""One thread that answers DHCP and advertises the router for every guest of the node: raw sockets in, frames out.

Called by the modules of the NIC kinds. No process and no thread per machine. What to answer is decided in answers.py.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from berth.effects import answers, namespaces, packetsocket

log = logging.getLogger(__name__)

ADVERTISE_SECONDS: Final = 300.0
_BUDGET: Final = 20
"""Packets of one guest that are answered in a second; more wait in its socket, or are lost there."""
_TICK: Final = 1.0

Key = tuple[str, str]
"""A machine's uid and the name of one of its NICs."""


@dataclass(frozen=True, slots=True)
class Service:
    """What one guest is answered with. ``place`` tells one network device from a later one of the same name."""

    place: tuple[int, int, int]
    guest: answers.Guest


@dataclass(slots=True)
class _Line:
    key: Key
    service: Service
    sockets: Sequence[socket.socket]
    advertised: float = 0.0
    left: int = _BUDGET


class DhcpService:
    """The thread, started with the first machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._lines: dict[Key, _Line] = {}
        self._by_fd: dict[int, tuple[_Line, socket.socket]] = {}
        self._muted: set[int] = set()
        self._thread: threading.Thread | None = None

    def serve(self, key: Key, netns: int, device: tuple[str, int], guest: answers.Guest) -> None:
        """Answer this guest from now on through the device (name, index) in that namespace. Twice changes nothing."""
        place = os.fstat(netns)
        service = Service((place.st_dev, place.st_ino, device[1]), guest)
        with self._lock:
            if key in self._lines and self._lines[key].service == service:
                return
        sockets = namespaces.in_network(netns, lambda: _open(device[0], guest))
        with self._lock:
            self._retract(key, service)
            self._stop(key)
            self._start(_Line(key, service, sockets))

    def keep(self, vm_uid: str, nics: Collection[str]) -> None:
        """Answer no others of this machine's NICs any more."""
        with self._lock:
            for key in [key for key in self._lines if key[0] == vm_uid and key[1] not in nics]:
                self._stop(key)

    def _start(self, line: _Line) -> None:
        self._lines[line.key] = line
        for sock in line.sockets:
            self._by_fd[sock.fileno()] = line, sock
            self._poll.register(sock, select.EPOLLIN)
        self._advertise(line, time.monotonic())
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dhcp", daemon=True)
            self._thread.start()

    def _stop(self, key: Key) -> None:
        if (line := self._lines.pop(key, None)) is None:
            return
        for sock in line.sockets:
            del self._by_fd[sock.fileno()]
            self._poll.unregister(sock)
            sock.close()

    def _retract(self, key: Key, service: Service) -> None:
        """The guest of the same device had a router until now, and has none any more."""
        line = self._lines.get(key)
        if line and line.service.place == service.place and service.guest.advertisement is None:
            _send(line, answers.retract(line.service.guest))

    def _run(self) -> None:
        ticked = 0.0
        while True:
            for fd, _ in self._poll.poll(_TICK if self._muted else ADVERTISE_SECONDS / 10):
                try:
                    self._serve(fd)
                except Exception:  # one guest's packet, and a fault of ours: the others are answered all the same
                    log.exception("dhcp: a packet could not be answered")
            if (now := time.monotonic()) - ticked >= _TICK:
                self._tick(now)
                ticked = now

    def _tick(self, now: float) -> None:
        """A new budget for everybody, and advertisements that are due."""
        with self._lock:
            while self._muted:
                if (fd := self._muted.pop()) in self._by_fd:
                    self._poll.modify(fd, select.EPOLLIN)
            for line in self._lines.values():
                line.left = _BUDGET
                if now - line.advertised >= ADVERTISE_SECONDS:
                    self._advertise(line, now)

    def _advertise(self, line: _Line, now: float) -> None:
        line.advertised = now
        _send(line, answers.advertise(line.service.guest))

    def _serve(self, fd: int) -> None:
        """One packet, then the others' turn: no guest can keep another waiting, nor this thread busy."""
        with self._lock:
            if fd not in self._by_fd:
                return
            line, sock = self._by_fd[fd]
            line.left -= 1
            if line.left <= 0:
                self._poll.modify(fd, 0)
                self._muted.add(fd)
            try:
                frame, (_, _, kind, _, _) = sock.recvfrom(2048)
            except OSError as error:  # the device went with its pod; detach comes, or attach with a new socket
                log.debug("dhcp for %s: %s", line.key, error)
                return
            if kind != socket.PACKET_OTHERHOST:  # as a tagged frame is, that lost its tag on the way here
                _send(line, answers.answer(frame, line.service.guest), sock)


def _open(device: str, guest: answers.Guest) -> list[socket.socket]:
    """In the berth's namespace: a socket for each family that there is something to say in."""
    found = [packetsocket.open_ipv4(device)] if guest.ipv4 else []
    if guest.ipv6 or guest.advertisement:
        found.append(packetsocket.open_ipv6(device))
    return found


def _send(line: _Line, frame: bytes | None, sock: socket.socket | None = None) -> None:
    if frame is None:
        return
    try:
        (sock or line.sockets[-1]).send(frame)
    except OSError as error:
        log.debug("dhcp for %s: %s", line.key, error)
