"""A real guest that is suspended and restored by a whole agent: its memory in a volume, its count without a gap."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from berth.api.kept import StateOrder
from berth.api.order import BerthRef, Order
from tests.contract import agents, pods
from tests.contract.agent_bench import VMS, Place, World, qemu

FOLDER = "/berth/saved"
COUNT = "while sleep 0.05; do n=$((n+1)); echo tick $n; done &"
CLOCK_AGENT = r"""exec 3<>$(echo /dev/vport*p1)
answer() { case "$1" in
*guest-sync*) id=${1##*:}; echo "{\"return\": ${id%%\}*}}" >&3;;
*guest-set-time*) t=${1##*\"time\":}; echo "it is ${t%%\}*}"; echo '{"return": {}}' >&3;;
*) echo '{"error": {"class": "CommandNotFound", "desc": "no"}}' >&3;; esac; }
while :; do while read -r line <&3; do answer "$line"; done; sleep 0.2; done &"""


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """What is behind the claim."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


def volume(place: Place, source: Path | None = None, size: str = "64m") -> Path:
    """Mount a folder, or a new small file system, where kubelet would mount the claim; the way to it from here."""
    target = place.pod.root / FOLDER.lstrip("/")
    target.mkdir(parents=True, exist_ok=True)
    how = ["--bind", str(source)] if source is not None else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    subprocess.run(["nsenter", "-t", str(place.pod.pid), "-m", "mount", *how, str(target)], check=True)
    return Path(f"/proc/{place.pod.pid}/root{FOLDER}")


def told(order: Order, **state: Any) -> Order:
    return order.model_copy(update={"state": StateOrder(folder=FOLDER, **state)})


def next_start(place: Place, first: Order, epoch: int, **state: Any) -> None:
    """The same machine, in another berth."""
    berth = BerthRef(pod_uid=place.pod.uid, pod_name="berth-web", node=agents.NODE)
    place.order = told(first.model_copy(update={"berth": berth, "epoch": epoch}), **state)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def ticks(place: Place) -> list[int]:
    return [int(n) for n in re.findall(r"tick (\d+)\r?\n", place.console.text)]


async def counting(world: World, place: Place) -> str:
    place.order = told(place.order)
    uid = await world.up(place)
    place.console.type("")
    await asyncio.to_thread(place.console.says, r"# ")
    place.console.type(COUNT)
    await asyncio.to_thread(place.console.says, "tick 10\r?\n")
    return uid


async def runs(world: World, kept: Path) -> tuple[Place, str]:
    """A guest whose states go into that folder; and its uid."""
    place = world.place()
    volume(place, kept)
    place.order = told(place.order)
    return place, await world.up(place)


async def suspend(world: World, place: Place, seconds: float = 60) -> None:
    status, answer = await world.controller.send(told(place.order, save=True))
    assert status == 200, answer
    assert await asyncio.to_thread(place.pod.wait, seconds) == 0
    place.console.says("berth: its state is saved", 5)


async def gone(world: World, uid: str) -> None:
    await world.controller.hears(lambda: uid not in world.controller.reports, "gone")
    assert not (VMS / uid).exists()


def fate(world: World) -> dict[str, Any]:
    fates = [m["report"]["fate"] for m in world.controller.lines if m["type"] == "changed" and m["report"].get("fate")]
    found: dict[str, Any] = fates[-1]
    return found


def condition(report: dict[str, Any], kind: str) -> dict[str, Any]:
    return next((c for c in report["conditions"] if c["type"] == kind), {})


async def test_a_guest_that_counts_goes_on_where_it_was_saved(world: World, kept: Path) -> None:
    first = world.place()
    volume(first, kept)
    uid = await counting(world, first)
    boot = first.boot_id()
    await suspend(world, first)
    assert fate(world)["reason"] == "Saved"
    await gone(world, uid)
    assert qemu(uid) == 0
    assert names(kept / uid) == ["memory-1", "state-1.json"]
    manifest = json.loads((kept / uid / "state-1.json").read_text())
    assert manifest["bytes"] == (kept / uid / "memory-1").stat().st_size < 128 << 20
    second = world.place()
    volume(second, kept)
    next_start(second, first.order, 2, restore=1)
    status, answer = await world.controller.send(second.order)
    assert status == 200, answer
    await world.controller.hears_state(uid, "Running")
    await asyncio.to_thread(second.console.says, r"tick \d+\r?\ntick \d+\r?\ntick")
    assert second.boot_id() == boot
    before, after = ticks(first), ticks(second)
    assert before == list(range(1, before[-1] + 1))
    assert after[0] in (before[-1] + 1, before[-1] + 2)  # what was on the line when it was stopped is in neither berth
    assert after == list(range(after[0], after[-1] + 1))
    await asyncio.to_thread(pods.until, lambda: names(kept / uid) == ["used-1.json"], 10, "the memory's removal")
    second.terminate()
    assert await asyncio.to_thread(second.pod.wait, 30) == 0


async def test_a_state_that_is_corrupt_is_refused_and_left_as_it_is(world: World, kept: Path) -> None:
    first, uid = await runs(world, kept)
    await suspend(world, first)
    await gone(world, uid)
    memory = kept / uid / "memory-1"
    whole = memory.read_bytes()
    memory.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    second = world.place()
    volume(second, kept)
    next_start(second, first.order, 2, restore=1)
    await world.controller.send(second.order)
    report = await world.controller.hears_state(uid, "Failed")
    assert condition(report, "GuestRunning")["reason"] == "StateCorrupt"
    assert names(kept / uid) == ["memory-1", "state-1.json"]
    assert qemu(uid) == 0
    memory.write_bytes(whole)
    await world.controller.hears_state(uid, "Running", 60)
    assert "boot_id" in second.http()


async def test_a_full_volume_leaves_the_guest_running(world: World) -> None:
    place = world.place()
    where = volume(place, size="256k")
    place.order = told(place.order)
    uid = await world.up(place)
    boot = place.boot_id()
    await world.controller.send(told(place.order, save=True))
    await world.controller.hears(
        lambda: (
            condition(world.controller.reports[uid], "Suspendable")
            and world.controller.reports[uid]["state"] == "Running"
        ),
        "the failure",
    )
    said = condition(world.controller.reports[uid], "Suspendable")
    assert said["status"] == "False"
    assert said["reason"] == "VolumeFull", said
    assert "guest runs on" in said["message"]
    assert place.boot_id() == boot
    assert list((where / uid).iterdir()) == []
    place.terminate()
    assert await asyncio.to_thread(place.pod.wait, 30) == 0


@pytest.mark.parametrize("after", [0.0, 0.3, 0.6, 1.0])
async def test_an_agent_that_is_killed_in_the_middle_of_a_save(world: World, kept: Path, after: float) -> None:
    place, uid = await runs(world, kept)
    await world.controller.send(told(place.order, save=True))
    await asyncio.sleep(after)
    await world.agent.kill()
    whole = (kept / uid / "state-1.json").exists()
    await world.agent.start()
    if not whole:  # else the next agent ends it by itself, and no controller orders anything for a berth that has ended
        await world.controller.send(told(place.order, save=True))
    assert await asyncio.to_thread(place.pod.wait, 60) == 0
    await gone(world, uid)
    assert names(kept / uid) == ["memory-1", "state-1.json"]


async def test_a_libvirtd_that_is_killed_in_the_middle_of_a_save(world: World, kept: Path) -> None:
    place, uid = await runs(world, kept)
    boot = place.boot_id()
    await world.controller.send(told(place.order, save=True))
    await asyncio.to_thread(world.libvirtd.kill)
    await asyncio.to_thread(world.libvirtd.start)
    await world.controller.send(told(place.order))  # it is not to be suspended after all
    await world.controller.hears_state(uid, "Running", 60)
    assert place.boot_id() == boot
    place.terminate()
    assert await asyncio.to_thread(place.pod.wait, 30) == 0


async def test_the_clock_of_a_restored_guest_is_set_by_its_agent(world: World, kept: Path) -> None:
    first, uid = await runs(world, kept)
    first.console.type("")
    await asyncio.to_thread(first.console.says, r"# ")
    for line in CLOCK_AGENT.splitlines():
        first.console.type(line)
    first.console.type("echo answers$((1 + 1))")
    await asyncio.to_thread(first.console.says, "answers2")
    await suspend(world, first)
    await gone(world, uid)
    second = world.place()
    volume(second, kept)
    next_start(second, first.order, 2, restore=1)
    await world.controller.send(second.order)
    await world.controller.hears_state(uid, "Running")
    said = await asyncio.to_thread(second.console.says, r"it is [0-9]{18,}", 60)
    there = int(said.split()[2]) / 1e9
    assert abs(datetime.datetime.now(datetime.UTC).timestamp() - there) < 60
