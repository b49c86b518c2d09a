"""What two libvirts say to each other about a migration, message by message: what may be said, and what is held back.

libvirt's protocol on its sockets is messages with a length and a header in front. ``Gate`` is at the source: it keeps
the answer that says that all has arrived from its own libvirt, which then can neither end the guest nor let it run on.
``Guard`` is at the target: another node may use its libvirt for a migration and for nothing else. Used as passages of a
relay by the agent.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

_HEADER: Final = struct.Struct(">IIIIiII")  # length, program, version, procedure, type, serial, status
REMOTE: Final = 0x20008086
KEEPALIVE: Final = 0x6B656570
_LIMIT: Final = 34 << 20  # a little more than libvirt's own
_CALL, _REPLY, _OK = 0, 1, 0
PREPARE: Final = 303  # domainMigratePrepare3Params
FINISH: Final = 306  # domainMigrateFinish3Params
_ALLOWED: Final = frozenset({1, 2, 60, 66, 360, 361, PREPARE, FINISH})
"""Open and close the connection, ask for features and authentication, hear of its end; and the two above."""


class NotAllowed(ConnectionError):
    """The other side said what it must not: the connection ends."""


@dataclass(frozen=True, slots=True)
class Frame:
    program: int
    procedure: int
    kind: int
    status: int
    raw: bytes


class Frames:
    """Bytes as they come → whole messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: memoryview) -> Iterator[Frame]:
        self._rest += bytes(data)
        while len(self._rest) >= _HEADER.size:
            length, program, _, procedure, kind, _, status = _HEADER.unpack_from(self._rest)
            if not _HEADER.size <= length <= _LIMIT:
                raise NotAllowed(f"a message of {length} bytes")
            if len(self._rest) < length:
                return
            raw, self._rest = self._rest[:length], self._rest[length:]
            yield Frame(program, procedure, kind, status, raw)


class Gate:
    """At the source, on the connection of its own libvirt; ``on_held`` is called from the relay's thread."""

    def __init__(self, on_held: Callable[[], None]) -> None:
        self._calls, self._answers = Frames(), Frames()
        self._on_held = on_held
        self._cancelled = False
        self._held = threading.Event()

    def forth(self, data: memoryview) -> memoryview:
        for frame in self._calls.feed(data):
            if (frame.program, frame.procedure, frame.kind) == (REMOTE, FINISH, _CALL):
                self._cancelled = frame.raw[-4:] != b"\0\0\0\0"  # its last argument: it failed already
        return data

    def back(self, data: memoryview) -> memoryview:
        passed = b""
        for frame in self._answers.feed(data):
            if self._held.is_set():
                break
            about = (frame.program, frame.procedure, frame.kind, frame.status)
            if about == (REMOTE, FINISH, _REPLY, _OK) and not self._cancelled:
                self._held.set()
                self._on_held()
                break
            passed += frame.raw
        return memoryview(passed)

    def holds(self, plain: socket.socket) -> bool:
        """Whether libvirt still waits for the answer, at this very moment: it has not ended its connection either."""
        if not self._held.is_set():
            return False
        try:
            return plain.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Asked:
    """The copy that another node's libvirt asks this one to make, and which of its disks it would write how."""

    xml: str
    disks: tuple[str, ...] = ()
    disks_uri: str = ""
    copies: bool = False


class Guard:
    """At the target: what the other node's libvirt may ask this one. ``check`` raises ValueError for another copy."""

    def __init__(self, check: Callable[[Asked], None]) -> None:
        self._calls = Frames()
        self._check = check

    def back(self, data: memoryview) -> memoryview:
        passed = b""
        for frame in self._calls.feed(data):
            wanted = frame.program == REMOTE and frame.kind == _CALL and frame.procedure in _ALLOWED
            if not wanted and frame.program != KEEPALIVE:
                raise NotAllowed(f"procedure {frame.procedure} of program {frame.program:#x} is not for migrations")
            if wanted and frame.procedure == PREPARE:
                self._prepare(frame)
            passed += frame.raw
        return memoryview(passed)

    def _prepare(self, frame: Frame) -> None:
        try:
            self._check(asked(frame.raw[_HEADER.size :]))
        except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
            raise NotAllowed(f"the copy that is asked for is not the one that is awaited: {error}") from error


_INT, _UINT, _LONG, _ULONG, _DOUBLE, _BOOLEAN, _STRING = range(1, 8)
_DISKS, _DISKS_URI = "migrate_disks", "disks_uri"
_LISTS: Final = frozenset({_DISKS, "migrate_disks_detect_zeroes"})
_COPIES: Final = (1 << 6) | (1 << 7)  # VIR_MIGRATE_NON_SHARED_DISK and _INC
_SIZES: Final = {_INT: 4, _UINT: 4, _LONG: 8, _ULONG: 8, _DOUBLE: 8, _BOOLEAN: 4}


def asked(body: bytes) -> Asked:
    """The call's parameters, a cookie and its flags; a parameter that is given twice is nobody's, but for lists."""
    given, at = parameters(body)
    _, at = _blob(body, at)
    (flags,) = struct.unpack_from(">I", body, at)
    if twice := [name for name, values in given.items() if len(values) > 1 and name not in _LISTS]:
        raise ValueError(f"{twice[0]} is given twice")
    strange = [name for name in given if name.startswith(("disks_", "listen_")) and name != _DISKS_URI]
    if strange:
        raise ValueError(f"{strange[0]} is given")
    uri = given.get(_DISKS_URI, [""])[0]
    disks = tuple(str(each) for each in given.get(_DISKS, ()))
    return Asked(str(given["destination_xml"][0]), disks, str(uri), bool(flags & _COPIES))


def parameters(body: bytes) -> tuple[dict[str, list[str | bytes]], int]:
    """The typed parameters that a call begins with, and where they end."""
    (count,), at = struct.unpack_from(">I", body), 4
    found: dict[str, list[str | bytes]] = {}
    for _ in range(count):
        name, at = _string(body, at)
        (kind,), at = struct.unpack_from(">I", body, at), at + 4
        value: str | bytes
        if kind == _STRING:
            value, at = _string(body, at)
        else:
            value, at = body[at : at + _SIZES[kind]], at + _SIZES[kind]
        found.setdefault(name, []).append(value)
    return found, at


def _string(body: bytes, at: int) -> tuple[str, int]:
    data, at = _blob(body, at)
    return data.decode(), at


def _blob(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">I", body, at)
    end = at + 4 + length
    if end > len(body):
        raise ValueError("it is cut off")
    return body[at + 4 : end], end + -length % 4
