"""How much the way to another node's agent carries: bytes for a moment through the tunnel, counted where they arrive.

Called by surveys.py at the source and by receiving.py at the target, before a guest is sent the same way.
"""

from __future__ import annotations

import socket
import time
from typing import Final

from berth.agent.questions import Counted
from berth.effects.tunnel import Line

SECONDS: Final = 0.3
PATIENCE: Final = 5.0
"""Seconds for all of it: a way on which nothing moves is given up."""
MOST_BYTES: Final = 256 << 20
_CHUNK: Final = 64 << 10
_BUFFER: Final = 512 << 10
"""What a slow way leaves in buffers must be short: it is waited for."""
_MORE, _LAST = b"\1" + bytes(_CHUNK - 1), bytes(_CHUNK)


def give(line: Line) -> int | None:
    """Bytes a second; None for a way that was too slow to tell."""
    line.connection.settimeout(PATIENCE)
    line.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    until, sent = time.monotonic() + SECONDS, 0
    while time.monotonic() < until and sent < MOST_BYTES:
        line.connection.sendall(_MORE)
        sent += _CHUNK
    line.connection.sendall(_LAST)
    said = Counted.model_validate_json(line.hear())
    return int(said.bytes / said.seconds) if said.bytes and said.seconds > 0 else None


def take(line: Line) -> None:
    """Count from the end of the first chunk on: what came before was not only the way's doing."""
    connection, chunk = line.raw(), memoryview(bytearray(_CHUNK))
    began, count = 0.0, -_CHUNK
    while True:
        _fill(connection, chunk)
        began = began or time.monotonic()
        count += _CHUNK
        if chunk[0] == 0:
            break
    line.say(Counted(bytes=count, seconds=time.monotonic() - began))


def _fill(connection: socket.socket, chunk: memoryview) -> None:
    got = 0
    while got < len(chunk):
        more = connection.recv_into(chunk[got:])
        if not more:
            raise ConnectionError("the other agent ended the connection")
        got += more
