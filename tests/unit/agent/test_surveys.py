"""What an agent finds out of a guest that is about to leave, and that nothing of it holds the guest up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from berth.agent import surveys
from berth.agent.machines import Machine
from berth.agent.surveys import Surveys
from berth.agent.world import Moving, in_threads
from berth.api.handover import Outgoing, Peer
from berth.domain.host import Accelerator
from berth.domain.observed import DomainState, Guest, Pace, QemuProcess, Survey
from berth.effects import memory
from berth.effects.folders import MachineFolders
from berth.effects.memory_moving import MemoryQemus
from tests.unit.agent.orders import order, uid
from tests.unit.agent.worlds import world_of

LEAVING = Outgoing(migration="m1", target=Peer(node="node-b", address="127.0.0.1", port=9), epoch=2)
PACE = Pace(70, 5, 0.5)


class Bench:
    def __init__(self, folder: Path, cpus: int | None = 3) -> None:
        self.node = memory.MemoryNode()
        self.node.moving.processes[uid()] = QemuProcess(7, 70)
        self.node.moving.paces[7] = PACE
        node = self.node
        moving = Moving(MemoryQemus(node.moving), MachineFolders(folder), "127.0.0.1", 1)
        world = world_of(node, run=in_threads(ThreadPoolExecutor(4)), moving=moving)
        self.rung: list[str] = []
        self.surveys = Surveys(world, None, self.rung.append, cpus)
        guest = Guest(uid(), DomainState.RUNNING, order(), 1_900_000_000, Accelerator.TCG)
        self.machine = Machine(uid(), order=order().model_copy(update={"leaving": LEAVING}), guest=guest)

    async def over(self) -> Survey | None:
        while self.machine.surveying:
            await asyncio.wait(set(self.surveys._running), timeout=10)
            await asyncio.sleep(0)  # what is done at its end
        return self.machine.survey


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_it_is_found_out_once_for_each_migration(bench: Bench) -> None:
    bench.surveys.look(bench.machine)
    assert bench.machine.surveying
    bench.surveys.look(bench.machine)
    assert await bench.over() == Survey("m1", PACE, link=None, free_cpus=3)
    assert bench.rung == [uid()]
    bench.surveys.look(bench.machine)
    assert not bench.machine.surveying
    again = order().model_copy(update={"leaving": LEAVING.model_copy(update={"migration": "m2"})})
    bench.machine.order = again
    bench.surveys.look(bench.machine)
    assert await bench.over() == Survey("m2", PACE, link=None, free_cpus=3)
    assert bench.rung == [uid(), uid()]


NOT_YET: list[Callable[[Machine], Any]] = [
    lambda m: setattr(m, "order", order()),
    lambda m: setattr(m, "order", None),
    lambda m: setattr(m, "guest", None),
    lambda m: setattr(m, "guest", replace(m.guest, state=DomainState.PAUSED)),  # type: ignore[type-var]
]


@pytest.mark.parametrize("change", NOT_YET)
async def test_only_a_running_guest_that_is_to_leave_is_looked_at(
    bench: Bench, change: Callable[[Machine], Any]
) -> None:
    change(bench.machine)
    bench.surveys.look(bench.machine)
    assert not bench.machine.surveying


async def test_what_cannot_be_found_out_holds_nothing_up(bench: Bench) -> None:
    bench.node.moving.processes.clear()
    bench.surveys.look(bench.machine)
    assert await bench.over() == Survey("m1", free_cpus=3)


async def test_the_idle_cpus_are_those_that_the_load_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveys.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(surveys.os, "getloadavg", lambda: (4.5, 0.0, 0.0))
    bench = Bench(tmp_path, cpus=None)
    bench.surveys.look(bench.machine)
    found = await bench.over()
    assert found is not None
    assert found.free_cpus == 11
    monkeypatch.setattr(surveys.os, "getloadavg", lambda: (40.0, 0.0, 0.0))
    assert surveys.idle_cpus() == 0
