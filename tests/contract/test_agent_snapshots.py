"""Snapshots of a real guest, taken and reverted to by a whole agent: what it remembers and what its disks hold fit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from berth.api.kept import RevertOrder, SnapshotOrder
from berth.api.order import DiskKind, DiskOrder, FileOrder, Order, OrderPower
from tests.contract import pods
from tests.contract.agent_bench import Place, World
from tests.contract.test_agent_saved import condition, gone, next_start, suspend, told, volume

MIB = 1 << 20
SIZE = 24 * MIB
LARGE = 160 * MIB
CLAIM = DiskOrder(
    name="claim", kind=DiskKind.FILE, source=FileOrder(folder="/berth/claims/data", path="disk.img"), size_bytes=SIZE
)
EMPTY = DiskOrder(name="empty", kind=DiskKind.EMPTY, size_bytes=8 * MIB)
FILL = f"for d in a b; do dd if=/dev/urandom of=/dev/vd$d bs={MIB} seek=2 count=4 conv=fsync 2>/dev/null; done"
SUM = f"for d in a b; do echo sum-$d $(dd if=/dev/vd$d bs={MIB} skip=2 count=5 2>/dev/null | sha256sum); done"
COUNT = (
    "n=0; printf %08d 0 | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null; (while :; do"
    ' echo 1 > /proc/sys/vm/drop_caches; r=$(head -c 8 /dev/vda); [ "$r" = "$(printf %08d $n)" ] || echo lost $r of $n;'
    " n=$((n+1)); printf %08d $n | dd of=/dev/vda conv=fsync,notrunc 2>/dev/null; echo tick $n; done) &"
)
"""The number that a process remembers is the one on the disk, or it says so."""
FREEZING_AGENT = r"""exec 3<>$(echo /dev/vport*p1)
answer() { case "$1" in
*guest-sync*) id=${1##*:}; echo "{\"return\": ${id%%\}*}}" >&3;;
*guest-fsfreeze-freeze*) echo "it froze"; echo '{"return": 1}' >&3;;
*guest-fsfreeze-thaw*) echo "it thawed"; echo '{"return": 1}' >&3;;
*) echo '{"error": {"class": "CommandNotFound", "desc": "no"}}' >&3;; esac; }
while :; do while read -r line <&3; do answer "$line"; done; sleep 0.2; done &"""


def uid(number: int = 1) -> str:
    return f"55555555-0000-4000-8000-{number:012d}"


def taking(order: Order, number: int = 1, *, memory: bool = True) -> Order:
    return told(order, snapshot=SnapshotOrder(uid=uid(number), name=f"s{number}", memory=memory))


def back(request: str, number: int = 1, *, memory: bool = True) -> RevertOrder:
    return RevertOrder(request=request, snapshot=uid(number), name=f"s{number}", memory=memory)


def running(name: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if path.read_text().strip() == name else []
    return found


class Bench:
    """A machine with a claim, an empty disk and a volume for its states, whose berths come and go."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.claim, self.kept = world, folder / "claim", folder / "kept"
        self.claim.mkdir()
        self.kept.mkdir()
        self.place = self.berth()
        machine = self.place.order.machine.model_copy(update={"disks": (CLAIM, EMPTY)})
        self.place.order = told(self.place.order.model_copy(update={"machine": machine}))
        self.epoch = 1

    @property
    def uid(self) -> str:
        return self.place.order.uid

    def folder(self, number: int = 1) -> Path:
        return self.kept / self.uid / "snapshots" / uid(number)

    def berth(self) -> Place:
        place = self.world.place()
        volume(place, self.kept)
        target = place.pod.root / "berth/claims/data"
        target.mkdir()
        enter = ["nsenter", "-t", str(place.pod.pid), "-m", "mount", "--bind", str(self.claim), str(target)]
        subprocess.run(enter, check=True)
        return place

    async def runs(self) -> None:
        await self.world.up(self.place)
        self.place.console.type("")
        await asyncio.to_thread(self.place.console.says, r"# ")

    async def counts(self) -> None:
        await self.runs()
        self.place.console.type(FILL)
        self.place.console.type(COUNT)
        await asyncio.to_thread(self.place.console.says, "tick 5\r?\n")

    async def ends(self) -> None:
        self.place.terminate()
        assert await asyncio.to_thread(self.place.pod.wait, 30) == 0
        await gone(self.world, self.uid)

    async def again(self, power: OrderPower = OrderPower.RUNNING, **state: Any) -> None:
        """Its next start, in another berth."""
        first, self.place, self.epoch = self.place, self.berth(), self.epoch + 1
        next_start(self.place, first.order, self.epoch, **state)
        self.place.order = self.place.order.model_copy(update={"power": power})
        status, answer = await self.world.controller.send(self.place.order)
        assert status == 200, answer

    async def sums(self) -> dict[str, str]:
        return dict(re.findall(r"sum-(\w) ([0-9a-f]{64})", await self.says(SUM, r"sum-b [0-9a-f]{64}")))

    async def says(self, line: str, what: str) -> str:
        """What it says from then on."""
        before = len(self.place.console.text)
        self.place.console.type(line)
        found = lambda: re.search(what, self.place.console.text[before:])  # noqa: E731
        await asyncio.to_thread(pods.until, found, 60, what)
        return self.place.console.text[before:]

    def ticks(self) -> list[int]:
        return [int(n) for n in re.findall(r"tick (\d+)\r?\n", self.place.console.text)]

    def lost(self) -> list[str]:
        return re.findall(r"lost \d+ of \d+", self.place.console.text)

    async def ticks_on(self, more: int = 3) -> None:
        count = len(self.ticks())
        await asyncio.to_thread(pods.until, lambda: len(self.ticks()) >= count + more, 60, "ticks")

    async def take(self, number: int = 1, *, memory: bool = True, order: Order | None = None) -> dict[str, Any]:
        given = taking(order or self.place.order, number, memory=memory)
        status, answer = await self.world.controller.send(given)
        assert status == 200, answer
        return await self.hears("Ready", number)

    async def gives_up(self, number: int) -> None:
        """A snapshot of which nothing is left. A copy may be quicker than the word: then it is another one's turn."""
        folder = self.folder(number)
        over = lambda: not folder.exists() or (folder / "snapshot.json").exists()  # noqa: E731
        for _ in range(10):
            await self.world.controller.send(taking(self.place.order, number))
            await self.hears("Copying", number)
            await self.world.controller.send(self.place.order)
            await asyncio.to_thread(pods.until, over, 20, "an end of it")
            if not folder.exists():
                return
            await self.forgets(number)
        raise AssertionError("each was whole before it could be given up")

    async def forgets(self, *numbers: int) -> None:
        gone = tuple(uid(number) for number in numbers)
        await self.world.controller.send(told(self.place.order, forget=gone))
        await self.world.controller.hears(lambda: set(gone) <= set(self.report["forgotten"]), "forgotten")

    async def hears(self, state: str, number: int = 1, seconds: float = 60) -> dict[str, Any]:
        def seen() -> bool:
            said = self.report.get("snapshot") or {}
            return (said.get("uid"), said.get("state")) == (uid(number), state)

        await self.world.controller.hears(seen, f"snapshot {state}", seconds)
        found: dict[str, Any] = self.report["snapshot"]
        return found

    async def state(self, wanted: str) -> dict[str, Any]:
        return await self.world.controller.hears_state(self.uid, wanted, 60)

    async def killed_while_written(self, number: int, name: str) -> None:
        """The agent, while that file of a snapshot grows."""
        file = self.folder(number) / name

        def grows() -> bool:
            return file.exists() and file.stat().st_size > MIB

        await asyncio.to_thread(pods.until, grows, 20, f"{name} being written")
        await self.world.agent.kill()
        assert not (self.folder(number) / "snapshot.json").exists()

    async def without_libvirtd(self, number: int) -> None:
        """It is killed while disks are copied: the snapshot may be lost, and nothing else."""
        await self.world.controller.send(taking(self.place.order, number))
        file = self.folder(number) / "disk-claim.qcow2"
        await asyncio.to_thread(pods.until, lambda: file.exists() and file.stat().st_size > MIB, 20, "copies")
        await asyncio.to_thread(self.world.libvirtd.kill)
        await asyncio.to_thread(self.world.libvirtd.start)

        def over() -> bool:
            said = self.report.get("snapshot") or {}
            return said.get("uid") == uid(number) and said.get("state") in ("Ready", "Failed")

        await self.world.controller.hears(over, "its end", 60)
        print(f"without libvirtd: {self.report['snapshot']}")
        whole = (self.folder(number) / "snapshot.json").exists()
        assert whole is (self.report["snapshot"]["state"] == "Ready")
        there = self.folder(number).exists
        await asyncio.to_thread(pods.until, lambda: there() is whole, 20, "nothing left of one that has failed")
        await self.state("Running")
        await self.ticks_on()
        assert not self.lost()

    @property
    def report(self) -> dict[str, Any]:
        return self.world.controller.reports.get(self.uid, {})


@pytest.fixture
def bench(world: World, tmp_path: Path) -> Bench:
    return Bench(world, tmp_path)


async def test_a_suspended_guest_has_the_disk_with_it_that_only_its_node_had(bench: Bench) -> None:
    await bench.counts()
    before, boot = await bench.sums(), bench.place.boot_id()
    await suspend(bench.world, bench.place)
    await gone(bench.world, bench.uid)
    folder = bench.kept / bench.uid
    assert sorted(os.listdir(folder)) == ["disk-1-empty.qcow2", "memory-1", "state-1.json"]
    assert {(s.st_mode & 0o777, s.st_uid) for n in os.listdir(folder) for s in [(folder / n).stat()]} == {(0o600, 0)}
    ran = bench.ticks()
    await bench.again(restore=1)
    await bench.state("Running")
    await bench.ticks_on()
    assert bench.place.boot_id() == boot
    assert bench.ticks()[0] in (ran[-1] + 1, ran[-1] + 2)
    assert await bench.sums() == before
    assert not bench.lost()
    await asyncio.to_thread(pods.until, lambda: os.listdir(folder) == ["used-1.json"], 10, "the state's removal")


async def test_memory_and_disks_are_of_one_moment_and_come_back_together(bench: Bench) -> None:
    await bench.counts()
    before, boot = await bench.sums(), bench.place.boot_id()
    ready = await bench.take()
    print(f"pause {ready['pauseMs']} ms, {ready}")
    assert (ready["consistency"], ready["uid"]) == ("Memory", uid())
    assert [(d["name"], d["sizeBytes"]) for d in ready["disks"]] == [("claim", SIZE), ("empty", 8 * MIB)]
    assert 4 * MIB < ready["disks"][0]["storedBytes"] < 8 * MIB
    names = ["disk-claim.qcow2", "disk-empty.qcow2", "memory", "snapshot.json"]
    assert sorted(os.listdir(bench.folder())) == names
    assert {(s.st_mode & 0o777, s.st_uid) for n in names for s in [(bench.folder() / n).stat()]} == {(0o600, 0)}
    await bench.ticks_on()
    await bench.says(FILL + "; echo refilled", r"refilled\r?\n")
    assert await bench.sums() != before
    assert not bench.lost()
    ran = bench.ticks()
    await bench.ends()

    await bench.again(revert=back("r1"))
    await bench.state("Running")
    await bench.ticks_on()
    assert bench.ticks()[0] in ran[:-1]
    assert bench.place.boot_id() == boot
    assert await bench.sums() == before
    assert bench.report["reverted"] == "r1"
    await bench.says(FILL + "; echo refilled", r"refilled\r?\n")
    assert not bench.lost()
    first = bench.ticks()[0]
    await bench.ends()

    await bench.again(revert=back("r2"))
    await bench.state("Running")
    await bench.ticks_on()
    assert bench.ticks()[0] == first
    assert await bench.sums() == before
    assert not bench.lost()
    await bench.ends()

    await bench.again(revert=back("r2"))
    await bench.state("Running")
    assert bench.place.boot_id() != boot
    assert sorted(os.listdir(bench.folder())) == names
    assert condition(await bench.state("Running"), "GuestRunning")["status"] == "True"


async def test_disks_alone_are_put_back_and_the_machine_boots_from_them(bench: Bench) -> None:
    """Also: what is given up leaves nothing, and what is deleted goes."""
    await bench.runs()
    await bench.says(FILL + "; echo filled", r"filled\r?\n")
    before, boot = await bench.sums(), bench.place.boot_id()
    ready = await bench.take(memory=False)
    assert (ready["consistency"], ready.get("pauseMs"), ready["memoryBytes"]) == ("Crash", None, 0)
    for line in FREEZING_AGENT.splitlines():
        bench.place.console.type(line)
    await bench.says("echo answers$((1 + 1))", "answers2")
    assert (await bench.take(4, memory=False))["consistency"] == "Filesystem"
    bench.place.console.says(r"it froze\r?\n(?s:.*)it thawed")
    await bench.says(FILL + "; echo filled again", r"filled again\r?\n")
    await bench.gives_up(2)
    await bench.state("Running")
    assert "snapshot" not in {key for key, said in bench.report.items() if said}
    await bench.take(3)
    await bench.forgets(2, 3)
    assert sorted(os.listdir(bench.folder().parent)) == [uid(), uid(4)]
    paused = bench.place.order.model_copy(update={"power": OrderPower.PAUSED})
    await bench.world.controller.send(paused)
    await bench.state("Paused")
    for number in (5, 6):  # QEMU does not write its memory twice without running in between
        ready = await bench.take(number, order=paused)
        assert (ready["consistency"], ready.get("pauseMs")) == ("Memory", None)
        assert bench.report["state"] == "Paused"
    await bench.world.controller.send(bench.place.order)
    await bench.sums()
    await bench.ends()

    await bench.again(revert=back("r1", memory=False))
    await bench.world.controller.hears(lambda: bench.report.get("reverted") == "r1", "reverted", 60)
    await asyncio.to_thread(bench.place.console.says, "berth-guest: up")
    bench.place.console.type("")
    await asyncio.to_thread(bench.place.console.says, r"# ")
    assert await bench.sums() == before
    assert bench.place.boot_id() != boot


async def test_an_agent_that_is_killed_at_every_stage(bench: Bench) -> None:
    """While memory is saved, while disks are copied, while they are put back, and before the guest runs."""
    agent, controller = bench.world.agent, bench.world.controller
    (bench.claim / "disk.img").write_bytes(os.urandom(LARGE))
    await bench.counts()
    boot = bench.place.boot_id()
    for number, name in enumerate(("memory", "disk-claim.qcow2"), 1):
        await controller.send(taking(bench.place.order, number))
        await bench.killed_while_written(number, name)
        await agent.start()
        await bench.take(number)
        await bench.ticks_on()
        assert not bench.lost()
    await controller.send(taking(bench.place.order, 3))
    await bench.killed_while_written(3, "memory")
    await agent.start()  # and no controller tells it anything
    await bench.ticks_on()
    await asyncio.to_thread(pods.until, lambda: not bench.folder(3).exists(), 20, "nothing left of it")
    await bench.without_libvirtd(4)
    before, ran = await bench.sums(), bench.ticks()
    await controller.send(bench.place.order)
    await bench.ends()

    await bench.again(power=OrderPower.PAUSED, revert=back("r1", 2))
    reverting = bench.kept / bench.uid / "reverting.json"
    await asyncio.to_thread(pods.until, reverting.exists, 20, "disks being put back")
    await agent.kill()
    await asyncio.to_thread(pods.until, lambda: not running("qemu-img"), 5, "the end of whatever it had begun")
    await agent.start()
    assert not bench.ticks()
    await controller.send(bench.place.order)
    await bench.state("Paused")
    await agent.kill()
    await agent.start()
    await controller.send(bench.place.order.model_copy(update={"power": OrderPower.RUNNING}))
    await bench.state("Running")
    await bench.ticks_on()
    assert bench.ticks()[0] in ran[:-1]
    assert not bench.lost()
    assert await bench.sums() == before
    assert bench.place.boot_id() == boot
    assert not reverting.exists()
    assert bench.report["reverted"] == "r1"


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "disks"])
async def test_a_full_volume_costs_the_snapshot_alone(bench: Bench, memory: bool) -> None:
    where = volume(bench.place, size="1m")
    await bench.counts()
    await bench.world.controller.send(taking(bench.place.order, memory=memory))
    failed = await bench.hears("Failed")
    assert failed["reason"] == "VolumeFull", failed
    await bench.state("Running")
    await bench.ticks_on()
    assert not bench.lost()
    assert os.listdir(where / bench.uid / "snapshots") == []
