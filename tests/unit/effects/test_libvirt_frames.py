"""What passes between two libvirts, in pieces of any size, and what does not."""

from __future__ import annotations

import socket
import struct

import pytest

from berth.effects import libvirt_frames
from berth.effects.libvirt_frames import FINISH, KEEPALIVE, PREPARE, REMOTE, Asked, Gate, Guard, NotAllowed

CALL, REPLY, EVENT, OK, ERROR = 0, 1, 2, 0, 1


def frame(procedure: int, kind: int = CALL, status: int = OK, body: bytes = b"", program: int = REMOTE) -> bytes:
    return struct.pack(">IIIIiII", 28 + len(body), program, 1, procedure, kind, 7, status) + body


def fed(passage: object, data: bytes, size: int) -> bytes:
    pieces = (data[at : at + size] for at in range(0, len(data), size))
    return b"".join(bytes(passage(memoryview(piece))) for piece in pieces)  # type: ignore[operator]


NOT_CANCELLED, CANCELLED = b"\0\0\0\0", b"\0\0\0\1"


@pytest.mark.parametrize("size", [1, 3, 28, 1000])
def test_the_answer_that_all_has_arrived_is_held(size: int) -> None:
    held: list[bool] = []
    gate = Gate(lambda: held.append(True))
    calls = frame(PREPARE, body=b"x" * 99) + frame(FINISH, body=b"cookie12" + NOT_CANCELLED)
    assert fed(gate.forth, calls, size) == calls
    before = frame(PREPARE, REPLY, body=b"y" * 50) + frame(1, program=KEEPALIVE)
    after = frame(FINISH, REPLY, body=b"domain") + frame(2, program=KEEPALIVE)
    assert fed(gate.back, before + after, size) == before
    assert held == [True]


@pytest.mark.parametrize(("cancelled", "status"), [(NOT_CANCELLED, ERROR), (CANCELLED, OK), (CANCELLED, ERROR)])
def test_the_answer_that_it_failed_is_not(cancelled: bytes, status: int) -> None:
    gate = Gate(lambda: pytest.fail("held"))
    fed(gate.forth, frame(FINISH, body=b"cookie12" + cancelled), 1000)
    answer = frame(FINISH, REPLY, status, b"no domain")
    assert fed(gate.back, answer, 10) == answer


def test_it_holds_only_while_libvirt_waits() -> None:
    libvirt, plain = socket.socketpair()
    gate = Gate(lambda: None)
    assert not gate.holds(plain)
    fed(gate.forth, frame(FINISH, body=NOT_CANCELLED), 1000)
    fed(gate.back, frame(FINISH, REPLY), 1000)
    assert gate.holds(plain)
    libvirt.send(b"keepalive")
    assert gate.holds(plain)
    plain.recv(100)
    libvirt.close()
    assert not gate.holds(plain)
    plain.close()
    assert not gate.holds(plain)


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


COPY_ALL, COPY_MORE = 1 << 6, 1 << 7


def prepare(*names: str, flags: int = 3, **more: str) -> bytes:
    """As libvirt asks to make ready for a guest; the names of more parameters may end in a number."""
    given = [*((name, "<domain/>") for name in names), *((name.rstrip("0123456789"), v) for name, v in more.items())]
    ours = b"".join(string(name) + struct.pack(">I", 7) + string(value) for name, value in given)
    other = string("bandwidth") + struct.pack(">IQ", 4, 8)
    cookie = string("<qemu-migration/>")
    return frame(PREPARE, body=struct.pack(">I", len(given) + 1) + other + ours + cookie + struct.pack(">I", flags))


@pytest.mark.parametrize("size", [1, 28, 1000])
def test_another_node_may_migrate_and_nothing_else(size: int) -> None:
    calls = frame(66) + frame(1, body=b"qemu:///system") + frame(60) + prepare("destination_xml") + frame(FINISH)
    calls += frame(1, EVENT, program=KEEPALIVE) + frame(2)
    seen: list[Asked] = []
    assert fed(Guard(seen.append).back, calls, size) == calls
    assert seen == [Asked("<domain/>")]
    for bad in (frame(10), frame(135), frame(PREPARE, program=REMOTE + 1), frame(PREPARE, EVENT), b"\0\0\0\1" * 7):
        with pytest.raises(NotAllowed):
            fed(Guard(seen.append).back, bad, size)
    with pytest.raises(NotAllowed):
        fed(Guard(seen.append).back, struct.pack(">I", libvirt_frames._LIMIT + 1) * 7, size)


def refuse(asked: Asked) -> None:
    raise ValueError(asked.xml)


@pytest.mark.parametrize(("flags", "copies"), [(3, False), (3 | COPY_ALL, True), (3 | COPY_MORE, True)])
def test_which_disks_it_would_write_and_how_is_told(flags: int, copies: bool) -> None:
    seen: list[Asked] = []
    given = {"migrate_disks1": "vda", "migrate_disks2": "vdc", "migrate_disks_detect_zeroes": "vda"}
    call = prepare("destination_xml", flags=flags, disks_uri="unix:///x", **given)
    assert fed(Guard(seen.append).back, call, 1000) == call
    assert seen == [Asked("<domain/>", ("vda", "vdc"), "unix:///x", copies)]


@pytest.mark.parametrize("name", ["disks_port", "listen_address", "disks_anything"])
def test_no_other_way_to_write_disks_is_opened(name: str) -> None:
    with pytest.raises(NotAllowed, match=name):
        fed(Guard(lambda _asked: None).back, prepare("destination_xml", **{name: "0.0.0.0"}), 1000)


def test_another_copy_than_the_one_awaited_is_refused() -> None:
    with pytest.raises(NotAllowed, match="<domain/>"):
        fed(Guard(refuse).back, prepare("destination_xml"), 1000)
    twice, none = prepare("destination_xml", "destination_xml"), prepare("another")
    uris = prepare("destination_xml", disks_uri1="unix:///x", disks_uri2="unix:///y")
    for bad in (twice, none, uris, frame(PREPARE), frame(PREPARE, body=b"\xff" * 99)):
        with pytest.raises(NotAllowed):
            fed(Guard(lambda _asked: None).back, bad, 1000)
