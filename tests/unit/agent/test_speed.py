"""How much a way carries: counted where it arrives."""

from __future__ import annotations

import socket
import threading
from typing import Any, cast

import pytest

from berth.agent import receiving, speed
from berth.agent.machines import Machine
from berth.agent.questions import SPEED
from berth.agent.world import Moving, World
from berth.api.handover import Incoming, Peer
from berth.effects.tunnel import Hello, Line
from berth.errors import Refused, Unavailable
from tests.unit.agent.orders import order, uid


def pair() -> tuple[Line, Line]:
    ends: list[Any] = list(socket.socketpair())  # in the place of TLS: a Line asks no more of it
    return Line(ends[0]), Line(ends[1])


def test_what_arrives_is_counted_and_answered() -> None:
    here, there = pair()
    taking = threading.Thread(target=speed.take, args=(there,))
    taking.start()
    rate = speed.give(here)
    taking.join(10)
    assert not taking.is_alive()
    assert rate is not None
    assert rate > 1 << 20


def test_a_way_on_which_only_one_chunk_came_in_time_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 1e-9)  # the time for the first is over before it is sent
    monkeypatch.setattr(speed, "PATIENCE", 10.0)
    here, there = pair()
    taking = threading.Thread(target=speed.take, args=(there,))
    taking.start()
    assert speed.give(here) is None
    taking.join(10)
    assert not taking.is_alive()


def test_only_the_source_of_this_very_migration_may_ask() -> None:
    incoming = Incoming(migration="m1", source=Peer(node="node-0", address="10.0.0.1", port=8555), epoch=1)
    machine = Machine(uid(), order=order(epoch=2).model_copy(update={"incoming": incoming}))
    world, moving, hello = cast(World, None), cast(Moving, None), Hello(migration="m1", uid=uid(), channel=SPEED)
    assert receiving.server(world, moving, machine, "node-0", hello) is speed.take
    other = hello.model_copy(update={"migration": "m0"})
    for asked, node, about in (
        (machine, "node-9", hello),
        (machine, "node-0", other),
        (None, "node-0", hello),
        (Machine(uid(), order=order()), "node-0", hello),
        (Machine(uid()), "node-0", hello),
    ):
        with pytest.raises(Refused):
            receiving.server(world, moving, asked, node, about)


def test_an_end_in_the_middle_is_no_count() -> None:
    here, there = pair()
    here.connection.sendall(b"\1" * 100)
    here.close()
    with pytest.raises(ConnectionError):
        speed.take(there)
    with pytest.raises((OSError, Unavailable)):
        here.hear()
