"""Agents' connections with each other: who may speak, what goes through, how fast, and how they end."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from berth.api.handover import Peer
from berth.effects import certificates, relay, tls, tunnel
from berth.effects.tunnel import Hello, Line, Tunnel
from berth.errors import BerthError, Refused, Unavailable

HELLO = Hello(migration="m", uid="u", channel="memory")
AUTHORITY = certificates.new_authority(datetime.datetime.now(datetime.UTC))
CA = AUTHORITY.certificate.decode()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def node(name: str, authority: certificates.Authority = AUTHORITY) -> tls.Identity:
    now = datetime.datetime.now(datetime.UTC)
    key, request = certificates.new_request(tls.node_name(name))
    return tls.Identity(certificates.sign_node(authority, request, node=name, addresses=["127.0.0.1"], now=now), key)


@dataclass
class End:
    """A node's agent, as far as it listens."""

    name: str
    calls: list[tuple[str, Hello]] = field(default_factory=list)
    serve: Callable[[Line], None] = lambda line: None
    refuses: BerthError | None = None

    def __post_init__(self) -> None:
        self.tunnel = Tunnel("127.0.0.1", free_port(), self.on_call)
        self.tunnel.renew(node(self.name), CA)

    def on_call(self, caller: str, hello: Hello) -> Callable[[Line], None]:
        self.calls.append((caller, hello))
        if self.refuses is not None:
            raise self.refuses
        return self.serve

    def peer(self, name: str = "") -> Peer:
        return Peer(node=name or self.name, address="127.0.0.1", port=self.tunnel.port)


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    made = End("node-a"), End("node-b")
    yield made
    for end in made:
        end.tunnel.close()


def echo(line: Line) -> None:
    with contextlib.suppress(Unavailable, OSError):
        while True:
            line.say(Hello.model_validate_json(line.hear()))


def test_each_side_knows_who_the_other_is(ends: tuple[End, End]) -> None:
    a, b = ends
    b.serve = echo
    line = a.tunnel.dial(b.peer(), HELLO)
    line.say(HELLO)
    assert Hello.model_validate_json(line.hear()) == HELLO
    assert b.calls == [("node-a", HELLO)]
    line.close()


def test_another_node_than_the_order_names_is_not_spoken_with(ends: tuple[End, End]) -> None:
    a, b = ends
    with pytest.raises(Unavailable, match="node-c") as raised:
        a.tunnel.dial(b.peer("node-c"), HELLO)
    assert raised.value.reason == "PeerDown"
    assert b.calls == []


def test_a_refusal_says_why(ends: tuple[End, End]) -> None:
    a, b = ends
    b.refuses = Refused("no such migration", reason="MigrationUnknown")
    with pytest.raises(Refused, match="no such migration") as raised:
        a.tunnel.dial(b.peer(), HELLO)
    assert raised.value.reason == "MigrationUnknown"


def call(end: End, identity: tls.Identity | None, said: bytes = b"") -> bytes:
    """What somebody with that certificate gets to hear."""
    context = tls.client_context(identity, CA)
    with (
        socket.create_connection(("127.0.0.1", end.tunnel.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=end.name) as secure,
    ):
        secure.sendall((said or HELLO.model_dump_json().encode()) + b"\n")
        return secure.recv(4096)


def test_the_controller_is_no_node(ends: tuple[End, End]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    controller = certificates.new_identity(AUTHORITY, tls.CONTROLLER_NAME, now=now)
    assert b"NotANode" in call(ends[1], controller)
    named = certificates.new_identity(AUTHORITY, tls.node_name("node-a"), now=now)
    assert b"NotANode" in call(ends[1], named)
    assert ends[1].calls == []


def test_strangers_get_nothing(ends: tuple[End, End]) -> None:
    other = certificates.new_authority(datetime.datetime.now(datetime.UTC))
    for identity in (None, node("node-a", other)):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            call(ends[1], identity)
    assert ends[1].calls == []


def test_a_first_line_that_is_none(ends: tuple[End, End]) -> None:
    assert b"HelloInvalid" in call(ends[1], node("node-a"), b"GET / HTTP/1.1")
    assert b"PeerGone" in call(ends[1], node("node-a"), b"x" * 2 * tunnel.HELLO_LIMIT)
    assert ends[1].calls == []


def test_one_without_certificate_says_so() -> None:
    with pytest.raises(Unavailable) as raised:
        Tunnel("127.0.0.1", 1, lambda _node, _hello: lambda _line: None).dial(
            Peer(node="b", address="127.0.0.1", port=1), HELLO
        )
    assert raised.value.reason == "NoCertificate"


def test_a_new_certificate_serves_later_connections(ends: tuple[End, End]) -> None:
    a, b = ends
    b.serve = echo
    old = a.tunnel.dial(b.peer(), HELLO)
    b.tunnel.renew(node("node-b"), CA)
    a.tunnel.dial(b.peer(), HELLO).close()
    old.say(HELLO)
    assert old.hear()


@dataclass
class Pipe:
    """Two programs that speak through both agents."""

    near: socket.socket
    far: socket.socket
    threads: list[threading.Thread]


def pipe(a: End, b: End, forth: relay.Passage = relay.straight) -> Pipe:
    near, near_end = socket.socketpair()
    far_end, far = socket.socketpair()
    served = threading.Event()

    def serve(line: Line) -> None:
        served.set()
        relay.relay(far_end, line.raw())

    b.serve = serve
    line = a.tunnel.dial(b.peer(), HELLO)
    thread = threading.Thread(target=relay.relay, args=(near_end, line.raw(), forth), daemon=True)
    thread.start()
    assert served.wait(5)
    return Pipe(near, far, [thread])


def receive(source: socket.socket) -> tuple[int, str]:
    """Until the end: how much, and what its digest is."""
    digest, count, buffer = hashlib.blake2b(), 0, bytearray(1 << 20)
    while got := source.recv_into(buffer):
        digest.update(memoryview(buffer)[:got])
        count += got
    return count, digest.hexdigest()


@pytest.mark.parametrize("back", [False, True])
def test_all_arrives_both_ways_and_the_end_too(ends: tuple[End, End], back: bool) -> None:
    made = pipe(*ends)
    sender, receiver = (made.far, made.near) if back else (made.near, made.far)
    data = os.urandom(5_000_001)

    def send() -> None:
        receiver.sendall(b"x")
        sender.sendall(data)
        sender.close()

    threading.Thread(target=send, daemon=True).start()
    assert receive(receiver) == (len(data), hashlib.blake2b(data).hexdigest())
    made.near.close()
    made.far.close()
    made.threads[0].join(5)
    assert not made.threads[0].is_alive()


def test_both_ways_at_once(ends: tuple[End, End]) -> None:
    made = pipe(*ends)
    data = os.urandom(3_000_000)
    for one in (made.near, made.far):
        threading.Thread(target=one.sendall, args=(data,), daemon=True).start()
    for one in (made.near, made.far):
        got = b""
        while len(got) < len(data):
            got += one.recv(1 << 20)
        assert got == data


def test_a_passage_that_says_no_ends_it(ends: tuple[End, End]) -> None:
    def refuse(data: memoryview) -> memoryview:
        raise ConnectionError("no")

    made = pipe(*ends, forth=refuse)
    made.near.sendall(b"hello")
    assert made.far.recv(10) == b""
    made.near.close()
    made.far.close()
    made.threads[0].join(5)
    assert not made.threads[0].is_alive()


def test_an_end_that_is_shut_ends_the_other(ends: tuple[End, End]) -> None:
    made = pipe(*ends)
    made.far.close()
    assert made.near.recv(10) == b""


def test_it_is_not_much_slower_than_the_cipher(ends: tuple[End, End]) -> None:
    """Printed (``pytest -s``): bytes a second through both agents, against one copy between two unix sockets."""
    made = pipe(*ends)
    tunnelled = speed(made.near, made.far)
    plain = speed(*socket.socketpair())
    print(f"through the tunnel {tunnelled / 1e6:.0f} MB/s, one unix socket {plain / 1e6:.0f} MB/s")
    assert tunnelled > 20e6


def speed(sender: socket.socket, receiver: socket.socket, size: int = 256 << 20) -> float:
    chunk = bytes(1 << 20)

    def send() -> None:
        for _ in range(size // len(chunk)):
            sender.sendall(chunk)
        sender.close()

    begin = time.perf_counter()
    threading.Thread(target=send, daemon=True).start()
    buffer, count = bytearray(1 << 20), 0
    while got := receiver.recv_into(buffer):
        count += got
    assert count == size
    return count / (time.perf_counter() - begin)
