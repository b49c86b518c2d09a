"""Connections between agents: TLS with the nodes' certificates on one port. Used by agent/peers.py.

The caller's first line says what the connection is for (``Hello``), the other side's first line whether it may be; then
the bytes are theirs. Each side verifies the other's certificate: that it is of the authority, of a node, of which node.
Threads, because the memory of guests goes through here.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from berth.api.handover import Peer
from berth.effects import tls
from berth.errors import BerthError, Refused, Unavailable

LINE_LIMIT: Final = 4 << 20  # a machine's XML and its connections fit
HELLO_LIMIT: Final = 4096
HANDSHAKE_SECONDS: Final = 5.0
DEAD_SECONDS: Final = 15
"""A peer that acknowledges nothing for so long is gone."""
MOST_CALLS: Final = 256  # connections at a time

_log = logging.getLogger(__name__)


class Hello(BaseModel):
    """What a connection is for."""

    model_config = ConfigDict(frozen=True)

    migration: str
    uid: str
    channel: str


class Welcome(BaseModel):
    """``reason`` is empty when it may be."""

    model_config = ConfigDict(frozen=True)

    reason: str = ""
    message: str = ""


class Line:
    """A connection of lines, before it is handed to a relay or for questions and answers."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self.connection = connection
        self._rest = b""

    def say(self, model: BaseModel) -> None:
        self.connection.sendall(model.model_dump_json(by_alias=True).encode() + b"\n")

    def hear(self, limit: int = LINE_LIMIT) -> bytes:
        """The next line; Unavailable when the other side is gone or says too much."""
        parts, length = [self._rest], len(self._rest)
        while b"\n" not in parts[-1]:
            got = self.connection.recv(65536)
            length += len(got)
            if not got or length > limit:
                raise Unavailable("the other agent ended the connection", reason="PeerGone")
            parts.append(got)
        line, _, self._rest = b"".join(parts).partition(b"\n")
        return line

    def raw(self) -> ssl.SSLSocket:
        """No lines from here on. Whoever takes it waits for the other's first line before it sends anything else."""
        if self._rest:
            raise Unavailable("the other agent sent more than was asked for", reason="PeerGone")
        return self.connection

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.close()


OnCall = Callable[[str, Hello], Callable[[Line], None]]
"""The caller's node and what it wants → who serves it, in a thread of its own; Refused when it must not be."""


class Tunnel:
    """This node's end. ``renew`` gives it its certificate, and opens the port the first time."""

    def __init__(self, host: str, port: int, on_call: OnCall) -> None:
        self._address = (host, port)
        self._on_call = on_call
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None  # as server, as client
        self._socket: socket.socket | None = None
        self._slots = threading.BoundedSemaphore(MOST_CALLS)

    @property
    def port(self) -> int:
        return self._address[1]

    def renew(self, identity: tls.Identity, authorities: str) -> None:
        """Later handshakes use it; open connections go on."""
        self._contexts = (tls.server_context(identity, authorities), tls.client_context(identity, authorities))
        if self._socket is None:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            self._socket = socket.create_server(self._address, family=family)
            threading.Thread(target=self._accept, args=(self._socket,), name="peers", daemon=True).start()

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def dial(self, peer: Peer, hello: Hello) -> Line:
        """A connection that the other side agreed to; Unavailable when it cannot be reached, Refused as it says."""
        if self._contexts is None:
            raise Unavailable("this agent has no certificate yet; it is asked for by itself", reason="NoCertificate")
        try:
            plain = socket.create_connection((peer.address, peer.port), timeout=HANDSHAKE_SECONDS)
            line = Line(self._contexts[1].wrap_socket(_tuned(plain), server_hostname=peer.node))
            line.say(hello)
            welcome = Welcome.model_validate_json(line.hear(HELLO_LIMIT))
        except (OSError, ssl.SSLError, ValidationError) as error:
            text = f"the agent of node {peer.node} at {peer.address} port {peer.port} cannot be reached: {error}"
            raise Unavailable(
                f"{text}. Next: see that nodes reach each other at that port", reason="PeerDown"
            ) from error
        if welcome.reason:
            line.close()
            raise Refused(f"the agent of node {peer.node} refuses: {welcome.message}", reason=welcome.reason)
        line.connection.settimeout(None)
        return line

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                plain, address = listening.accept()
            except OSError:
                return  # closed
            if not self._slots.acquire(blocking=False):
                plain.close()
                continue
            threading.Thread(target=self._serve, args=(plain, address), name="peer", daemon=True).start()

    def _serve(self, plain: socket.socket, address: tuple[str, int]) -> None:
        try:
            assert self._contexts is not None  # the port is opened with the first ones
            plain.settimeout(HANDSHAKE_SECONDS)
            line = Line(self._contexts[0].wrap_socket(_tuned(plain), server_side=True))
            with contextlib.closing(line):
                self._welcome(line)
        except (OSError, ssl.SSLError, BerthError) as error:
            _log.info("a peer's connection ended", extra={"peer": address[0], "error": str(error)})
        finally:
            plain.close()
            self._slots.release()

    def _welcome(self, line: Line) -> None:
        node = tls.node_of(line.connection.getpeercert())
        try:
            if not node:
                raise Refused("only nodes' agents may speak here", reason="NotANode")
            serve = self._on_call(node, Hello.model_validate_json(line.hear(HELLO_LIMIT)))
        except ValidationError:
            line.say(Welcome(reason="HelloInvalid", message="the first line is no Hello"))
            return
        except BerthError as error:
            line.say(Welcome(reason=error.reason, message=str(error)))
            return
        line.say(Welcome())
        line.connection.settimeout(None)
        serve(line)


def _tuned(plain: socket.socket) -> socket.socket:
    """Nothing waits for more, and a peer whose machine is gone is missed."""
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_SECONDS * 1000)
    return plain
