"""What a node's agent grants the node that a guest comes from, and what it refuses to a stolen one."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from berth.agent import receiving
from berth.agent.machines import Arrival, Machine
from berth.agent.questions import Offer, Prepared, Seen
from berth.agent.world import Moving, World
from berth.domain import build, copied, files, xml
from berth.domain.host import Accelerator, Host
from berth.domain.observed import QemuProcess
from berth.effects import memory
from berth.effects.folders import MachineFolders
from berth.effects.libvirt_frames import Asked
from berth.effects.memory_moving import MemoryQemus
from berth.effects.ports import Berth
from berth.effects.tunnel import Hello, Line
from berth.errors import Refused
from tests.unit.agent.orders import order, pod, uid

SIZE = 1 << 20
ORDER = order()
XML = xml.render(
    build.build(ORDER, files.expected(uid(), ORDER.machine), {"default": "bt0"}, Host(Accelerator.TCG, guest_uid=7))
)
BERTH = Berth(pod(), 5, 50)
DISKS = Path("/run/berth/vms/x/move/disks")
URI = f"unix://{DISKS}"


def arrival(size: int | None = SIZE) -> Arrival:
    disk = copied.Copied("data", "vda", size)
    [file] = files.expected(uid(), ORDER.machine).disks
    return Arrival("m1", "node-0", XML, 7, ORDER, BERTH, ((disk, file),))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.node = memory.MemoryNode()
        self.machine = Machine(uid())
        self.machine.arrival = arrival()
        self.world = cast(World, SimpleNamespace(media=memory.MemoryMedia(self.node)))
        self.moving = Moving(MemoryQemus(self.node.moving), MachineFolders(folder), "127.0.0.1", 1)

    def serve(self, channel: str, node: str = "node-0", migration: str = "m1") -> Callable[[Line], None]:
        hello = Hello(migration=migration, uid=uid(), channel=channel)
        return receiving.server(self.world, self.moving, self.machine, node, hello)

    def prepared(self, **disks: int) -> Prepared:
        """The answer to a source that offers these."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for said in (Offer(disks=disks), Seen()):
                ours.sendall(said.model_dump_json(by_alias=True).encode() + b"\n")
            self.serve("prepare-disks")(Line(cast(Any, theirs)))
            return Prepared.model_validate(json.loads(ours.recv(1 << 20)))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("channel", ["prepare", "prepare-disks", "libvirt", "memory", "disks"])
def test_only_the_source_of_this_migration_is_served(bench: Bench, channel: str) -> None:
    assert bench.serve(channel)
    for node, migration in (("node-c", "m1"), ("node-0", "m2")):
        with pytest.raises(Refused):
            bench.serve(channel, node, migration)
    bench.machine.arrival = None
    with pytest.raises(Refused):
        bench.serve(channel)


def test_disks_as_large_as_ordered_are_taken_as_they_are(bench: Bench) -> None:
    assert bench.prepared(data=SIZE).xml == XML
    assert bench.node.log == []


def test_a_disk_over_another_image_becomes_as_large_as_the_guest_knows_it(bench: Bench) -> None:
    bench.machine.arrival = arrival(None)
    assert bench.prepared(data=5 * SIZE).xml == XML
    assert bench.node.log == [f"fit data {5 * SIZE}"]


@pytest.mark.parametrize("disks", [{}, {"data": 2 * SIZE}, {"data": SIZE, "root": 1}, {"root": SIZE}, {"data": 0}])
def test_other_disks_than_ordered_are_refused(bench: Bench, disks: dict[str, int]) -> None:
    said = bench.prepared(**disks)
    assert (said.reason, said.xml) == ("DisksDiffer", "")
    assert said.message


@pytest.mark.parametrize("size", [0, -1, (1 << 56) + 1])
def test_no_size_that_cannot_be_is_made(bench: Bench, size: int) -> None:
    bench.machine.arrival = arrival(None)
    assert bench.prepared(data=size).reason == "DisksDiffer"
    assert bench.node.log == []


def test_disks_that_a_qemu_has_open_stay_as_they_are(bench: Bench) -> None:
    bench.machine.arrival = arrival(None)
    bench.node.moving.processes[uid()] = QemuProcess(7, 70)
    assert bench.prepared(data=5 * SIZE).reason == "DisksInUse"
    assert bench.node.log == []


def test_sizes_count_in_whole_sectors(bench: Bench) -> None:
    bench.machine.arrival = arrival(1000)
    assert bench.prepared(data=1024).xml == XML


def test_the_copy_is_written_through_this_tunnel_only() -> None:
    receiving._check(Asked(XML, ("vda",), URI, True), arrival(), DISKS)
    for bad in (
        Asked(XML),
        Asked(XML, ("vda",), URI, False),
        Asked(XML, ("vda",), "", True),
        Asked(XML, ("vda",), "tcp://0.0.0.0:1", True),
        Asked(XML, ("vda", "vdb"), URI, True),
        Asked(XML, (), URI, True),
        Asked("<domain/>", ("vda",), URI, True),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            receiving._check(bad, arrival(), DISKS)


def test_a_guest_without_such_disks_brings_none() -> None:
    nothing = Arrival("m1", "node-0", XML, 7, ORDER, BERTH)
    receiving._check(Asked(XML), nothing, DISKS)
    for bad in (Asked(XML, ("vda",), URI, True), Asked(XML, copies=True), Asked(XML, disks_uri=URI)):
        with pytest.raises(ValueError, match="disks"):
            receiving._check(bad, nothing, DISKS)
