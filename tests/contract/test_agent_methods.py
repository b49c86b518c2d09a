"""Each way to send a guest's memory that an agent can choose moves a counting guest, between real agents and QEMUs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest

from berth.effects.hypervisor import Libvirt
from tests.contract import pods
from tests.contract.two_nodes import CALM, COUNT, PEER_PORT, Side, Two, two_nodes

CAP = 12 << 20
"""Bytes a second: rounds take seconds, so that it matters how they are sent."""


@pytest.fixture
async def two(tmp_path: Path, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[Two]:
    async with two_nodes(tmp_path, start_pod) as made:
        yield made


async def with_cpus(side: Side, cpus: int) -> None:
    """Its agent may compress on so many CPUs, however busy this machine is."""
    await side.agent.kill()
    await side.agent.start(BERTH_PEER_PORT=str(PEER_PORT), BERTH_MIGRATION_CPUS=str(cpus))


def told(side: Side, uid: str) -> list[dict[str, Any]]:
    """Everything that the source said of the migration, in order."""
    reports = [line["report"] for line in side.controller.lines if line["type"] == "changed"]
    return [r["migration"] for r in reports if r["uid"] == uid and r["migration"]]


@pytest.mark.timeout(330)  # on an idle machine, a guest that is slowed down changes its memory fast for long
@pytest.mark.parametrize(
    ("kind", "load", "cpus"),
    [("precopy", "", 0), ("auto-converge", "dirty 24576 30000", 0), ("multifd", "", 4)],
)
async def test_it_is_chosen_foretold_and_moves_the_guest(two: Two, kind: str, load: str, cpus: int) -> None:
    uid = await two.start(COUNT if load else CALM, load=load)  # only a busy guest is slowed down
    await with_cpus(two.a, cpus)
    source, _ = await two.listening(bytes_per_second=CAP)
    source = source.model_copy(update={"leaving": source.outgoing})
    await two.a.controller.send(source.model_copy(update={"outgoing": None, "forward": None}))
    foretold = await two.hears(two.a, uid, "Surveyed")
    print(f"foretold {foretold}")
    assert foretold["method"].startswith(f"{kind}: ")
    assert foretold["bytesPerSecond"] == CAP
    assert 0 < foretold["total"] < 256 << 20
    assert 1 < foretold["etaSeconds"] < 240
    await two.a.controller.send(source)
    arrived = await two.hears(two.b, uid, "Arrived", 240)
    await two.a.controller.hears_state(uid, "Moved")
    assert await two.one_runs(uid) == "node-b"
    await two.counts_on(two.b)
    numbers = two.counted()
    assert numbers == list(range(len(numbers))), "a number is missing, or came twice"
    sending = [said for said in told(two.a, uid) if said["state"] == "Sending"]
    print(f"pause {arrived['pauseMs']} ms; {sending[-1]}")
    assert all(said["method"].startswith(f"{kind}: ") for said in sending if said["method"])
    slowed = [said for said in sending if said["throttle"]]  # not the last of all: when all is sent QEMU says 0 again
    assert bool(slowed) is (kind == "auto-converge"), slowed
    assert all(f"slowed down by {said['throttle']} % now" in said["method"] for said in slowed), slowed


async def test_without_a_survey_it_goes_all_the_same(two: Two) -> None:
    uid = await two.start(CALM)
    source, _ = await two.listening()
    await two.a.controller.send(source)
    await two.hears(two.b, uid, "Arrived", 120)
    methods = {said["method"] for said in told(two.a, uid) if said["method"]}
    assert methods
    assert all("how fast its memory changes is not known" in said for said in methods), methods
    assert await two.one_runs(uid) == "node-b"


async def test_a_longer_pause_is_allowed_while_it_is_sent(two: Two) -> None:
    uid = await two.start(CALM)
    source, _ = await two.listening(bytes_per_second=4 << 20, downtime_ms=50)
    await two.a.controller.send(source)
    await two.a.controller.hears(lambda: (told(two.a, uid) or [{}])[-1].get("sent", 0) > 1 << 20, "some of it sent")
    uri = f"qemu+unix:///system?socket=/proc/{two.a.node.pid}/root/run/libvirt/libvirt-sock"

    def allow() -> list[int]:
        hypervisor, domain = Libvirt(uri), libvirt.open(uri).lookupByUUIDString(uid)
        before = domain.migrateGetMaxDowntime()
        hypervisor.allow_pause(uid, 250)
        hypervisor.close()
        return [before, domain.migrateGetMaxDowntime()]

    assert await asyncio.to_thread(allow) == [50, 250]
