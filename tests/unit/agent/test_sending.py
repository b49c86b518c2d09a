"""When a guest that is being sent is given up by the node that sends it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from berth.agent.sending import SILENCE_SECONDS, Sending
from berth.api.handover import Outgoing, Peer
from berth.effects import memory
from berth.effects.silence import Talk
from berth.effects.tunnel import Tunnel
from berth.plan.handover import Gate
from berth.plan.method import Kind, Method
from tests.unit.agent.orders import order, uid

OUTGOING = Outgoing(migration="m1", target=Peer(node="node-b", address="10.0.0.2", port=8555), epoch=2)


@pytest.fixture
def sending(tmp_path: Path) -> Sending:
    hypervisor = memory.MemoryHypervisor(memory.MemoryNode())
    tunnel, method = cast(Tunnel, None), Method(Kind.PRECOPY, "it is calm", 100)
    return Sending(uid(), OUTGOING, tmp_path, tunnel, hypervisor, lambda: None, order().machine, method, 7, dict)


def test_it_knows_which_disks_it_copies(sending: Sending) -> None:
    assert [(disk.name, disk.target) for disk in sending.disks] == [("data", "vda")]


def test_its_bandwidth_holds_until_the_guest_has_been_stopped(tmp_path: Path, sending: Sending) -> None:
    data = memoryview(b"x" * 100_000)
    assert sending._forth(data) is data
    sending.hurry()
    limited = replace(sending, outgoing=OUTGOING.model_copy(update={"bytes_per_second": 1}))
    limited._forth(data)
    over = threading.Event()
    threading.Thread(target=lambda: (limited._forth(data), over.set()), daemon=True).start()
    assert not over.wait(0.1)
    limited.hurry()
    assert over.wait(10)


def test_a_node_that_answers_is_waited_for_and_one_that_does_not_is_given_up(sending: Sending) -> None:
    now = [100.0]
    talks = [Talk(lambda: now[0]), Talk(lambda: now[0])]
    sending._talks.extend(talks)
    now[0] += 60
    sending.watch()  # nothing was asked
    for talk in talks:
        talk.forth(memoryview(b"write"))
    now[0] += SILENCE_SECONDS - 1
    sending.watch()
    talks[0].back(memoryview(b"written"))
    assert (sending.gate, sending.error) == (Gate.OPEN, None)
    now[0] += 2
    sending.watch()
    assert sending.gate is Gate.ENDED
    assert sending.error is not None
    assert sending.error.reason == "DisksStalled"
    assert "node-b" in str(sending.error)
