"""One thread that answers DHCP for every guest of the node: sockets in berths' namespaces in, replies out.

Called by network.py. No process and no thread per machine. What to answer is decided in dhcp.py.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Collection
from dataclasses import dataclass

from berth.effects import dhcp
from berth.errors import HostFault

log = logging.getLogger(__name__)

SERVER_PORT, CLIENT_PORT = 67, 68
_SO_NO_CHECK = 11


def open_socket(device: str) -> socket.socket:
    """A socket on that device of the calling thread's network namespace; it stays there wherever it is used."""
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        # Checksums are left to the (virtual) hardware; clients that read raw frames would find them wrong: send none.
        line.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
        line.bind(("", SERVER_PORT))
    except OSError as error:
        line.close()
        raise HostFault(f"DHCP cannot be served on {device}: {error.strerror}", reason="DhcpFailed") from error
    return line


@dataclass(frozen=True, slots=True)
class Service:
    """What one guest is answered with. ``place`` tells one network device from a later one of the same name."""

    place: tuple[int, int, int]
    lease: dhcp.Lease


Key = tuple[str, str]
"""A machine's uid and the name of one of its NICs."""


class DhcpService:
    """The thread, started with the first machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._selector = selectors.EpollSelector()
        self._sockets: dict[Key, tuple[socket.socket, Service]] = {}
        self._thread: threading.Thread | None = None

    def serves(self, vm_uid: str, nic: str, service: Service) -> bool:
        with self._lock:
            known = self._sockets.get((vm_uid, nic))
            return known is not None and known[1] == service

    def start(self, vm_uid: str, nic: str, line: socket.socket, service: Service) -> None:
        """Answer on this socket from now on; it belongs to the service."""
        key = (vm_uid, nic)
        with self._lock:
            self._stop(key)
            self._sockets[key] = (line, service)
            self._selector.register(line, selectors.EVENT_READ, key)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dhcp", daemon=True)
                self._thread.start()

    def keep(self, vm_uid: str, nics: Collection[str]) -> None:
        """Answer no others of this machine's NICs any more."""
        with self._lock:
            for key in [key for key in self._sockets if key[0] == vm_uid and key[1] not in nics]:
                self._stop(key)

    def _stop(self, key: Key) -> None:
        line, _ = self._sockets.pop(key, (None, None))
        if line is not None:
            self._selector.unregister(line)
            line.close()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():  # epoll: sockets come and go while it waits
                self._serve(key.data)

    def _serve(self, key: Key) -> None:
        """One packet, then the others' turn: no guest can keep another waiting."""
        with self._lock:
            if key not in self._sockets:
                return
            line, service = self._sockets[key]
            try:
                reply = dhcp.answer(line.recv(2048), service.lease)
                if reply is not None:
                    line.sendto(reply.data, (reply.destination, CLIENT_PORT))
            except BlockingIOError:
                return
            except OSError as error:  # the device went with its pod; detach comes, or attach with a new socket
                log.debug("dhcp for %s: %s", key, error)
