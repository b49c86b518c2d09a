"""The agent's open line to one berth process: lines of the control protocol in, callbacks out. Called by the agent.

The socket lies in the berth's own folder: it is opened beneath the berth's root without following links, and believed
only when the process that listens there is the berth itself. A lost line is taken up again for as long as the berth
lives; the berth then says anew whether its pod is to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from berth.effects import berths, paths
from berth.effects.ports import Berth
from berth.errors import HostFault, Unavailable

log = logging.getLogger(__name__)

CONTROL_SOCKET = "run/berth/control.sock"
_RETRY_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LINE_LIMIT = 1024


class LineDown(Unavailable):
    """The berth process lives but does not take the agent's connection."""

    reason = "BerthUnreachable"


def open_socket(berth: Berth) -> socket.socket:
    """A connected socket whose other end is proven to be the berth process."""
    with paths.closing(berths.open_root(berth)) as root:
        place = paths.open_kind(root, CONTROL_SOCKET, stat.S_IFSOCK)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with paths.closing(place):
            line.settimeout(1)
            line.connect(f"/proc/self/fd/{place}")
        _verify_peer(line, berth)
        line.setblocking(False)
    except BaseException:
        line.close()
        raise
    return line


def _verify_peer(line: socket.socket, berth: Berth) -> None:
    pid, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid != berth.pid or not berths.is_alive(berth):
        raise HostFault(
            f"the control socket of pod {berth.pod_uid} is served by pid {pid}, not by its berth process {berth.pid}",
            reason="BerthImpostor",
        )


@dataclass(slots=True)
class ControlLink:
    """One berth's line; ``connect`` makes it, a task of its own keeps it."""

    berth: Berth
    on_shutdown: Callable[[], None]
    on_lost: Callable[[], None]
    _writer: asyncio.StreamWriter | None = None
    _keeper: asyncio.Task[None] | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)  # the line is up, or is up no more for ever
    _ended: bool = False

    async def open(self) -> None:
        reader = await self._connect()
        self._keeper = asyncio.create_task(self._keep(reader), name=f"berth-link-{self.berth.pod_uid}")

    async def exit(self, code: int, note: str) -> None:
        """Print the note on the guest's console, then end the berth with this code."""
        text = " ".join(note.split())[:400]
        await self._send(f"note {text}\nexit {code}\n" if text else f"exit {code}\n")

    async def note(self, text: str) -> None:
        """One line on the guest's console."""
        await self._send(f"note {' '.join(text.split())[:400]}\n")

    def close(self) -> None:
        self._ended = True
        if self._keeper is not None:
            self._keeper.cancel()
        self._drop()

    def _drop(self) -> None:
        self._changed.clear()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _send(self, text: str) -> None:
        """Said once more on the next line when this one breaks; a berth that is gone needs to be told nothing."""
        for _ in range(2):
            await self._changed.wait()
            if self._ended or self._writer is None:
                return
            try:
                self._writer.write(text.encode("ascii", "replace"))
                await self._writer.drain()
                return
            except OSError:
                self._drop()

    async def _connect(self) -> asyncio.StreamReader:
        """The socket appears a moment after its process: asked again for about two seconds."""
        for pause in _RETRY_SECONDS:
            try:
                line = await asyncio.to_thread(open_socket, self.berth)
                reader, self._writer = await asyncio.open_unix_connection(sock=line, limit=_LINE_LIMIT)
                self._changed.set()
                return reader
            except (OSError, paths.PathMissing):
                await asyncio.sleep(pause)
        if not await asyncio.to_thread(berths.is_alive, self.berth):
            raise berths.BerthGone(f"the berth process of pod {self.berth.pod_uid} is gone")
        raise LineDown(
            f"the berth process of pod {self.berth.pod_uid} does not answer at {CONTROL_SOCKET}; asked again"
        )

    async def _keep(self, reader: asyncio.StreamReader) -> None:
        while not self._ended:
            await self._listen(reader)
            self._drop()
            try:
                reader = await self._connect()
            except LineDown as error:
                log.warning("%s", error)
            except HostFault as error:
                log.info("line to the berth ended: %s", error)
                self._ended = True
        self._changed.set()
        self.on_lost()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: a line beyond the limit, so hang up
            while raw := await reader.readline():
                line = raw.decode("ascii", "replace").rstrip("\n")
                if line == "shutdown":
                    self.on_shutdown()
                elif line.startswith("error "):
                    log.warning("berth of pod %s: %s", self.berth.pod_uid, line)


class ControlLinks:
    """BerthLinks over the berths' control sockets."""

    async def connect(self, berth: Berth, on_shutdown: Callable[[], None], on_lost: Callable[[], None]) -> ControlLink:
        link = ControlLink(berth, on_shutdown, on_lost)
        await link.open()
        return link
