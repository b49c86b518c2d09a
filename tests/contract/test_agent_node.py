"""The whole agent on one node: real libvirtd, QEMU, berth process, network and guest; only kubelet is missing."""

from __future__ import annotations

import asyncio
import os
import signal

from berth.api.order import OrderPower
from tests.contract.agent_bench import VMS, World, qemu


async def test_a_guest_is_started_reached_and_shut_down(world: World) -> None:
    place = world.place()
    uid = await world.up(place)
    report = world.controller.reports[uid]
    assert (report["accelerator"], report["podUid"], report["epoch"]) == ("tcg", place.pod.uid, 1)
    assert {c["type"]: c["status"] for c in report["conditions"]} == {
        "DisksReady": "True",
        "NetworkReady": "True",
        "GuestRunning": "True",
    }
    assert "boot_id" in place.http()
    place.terminate()
    assert await asyncio.to_thread(place.pod.wait, 30) == 0
    place.console.says("berth: shut down as asked", 1)
    await world.controller.hears(lambda: uid not in world.controller.reports, "gone")
    fates = [m["report"]["fate"] for m in world.controller.lines if m["type"] == "changed" and m["report"].get("fate")]
    assert fates[-1]["reason"] == "ShutDown"
    assert not (VMS / uid).exists()


async def test_the_guest_outlives_agent_and_libvirtd(world: World) -> None:
    place = world.place()
    uid = await world.up(place)
    boot = place.boot_id()
    for _ in range(2):
        await world.agent.kill()
        assert place.boot_id() == boot
        await asyncio.to_thread(world.libvirtd.kill)
        assert place.boot_id() == boot
        await world.agent.start()
        await asyncio.to_thread(world.libvirtd.start)
        world.controller.reports.clear()
        await world.controller.hears_state(uid, "Running")
    await world.agent.stop()
    assert place.boot_id() == boot
    await world.agent.start()
    await world.controller.hears_state(uid, "Running")
    assert (await world.controller.send(place.order))[1]["state"] == "Running"
    assert place.boot_id() == boot
    place.terminate()
    assert await asyncio.to_thread(place.pod.wait, 30) == 0


async def test_a_guest_that_powers_itself_off_ends_its_berth_with_0(world: World) -> None:
    place = world.place(args="berth.poweroff=1")
    await world.up(place)
    assert await asyncio.to_thread(place.pod.wait, 30) == 0
    place.console.says("the guest powered itself off", 1)


async def test_a_killed_qemu_ends_the_berth_with_1(world: World) -> None:
    place = world.place()
    uid = await world.up(place)
    os.kill(qemu(uid), signal.SIGKILL)
    assert await asyncio.to_thread(place.pod.wait, 15) == 1
    fates = [m["report"]["fate"] for m in world.controller.lines if m["type"] == "changed" and m["report"].get("fate")]
    assert fates[-1]["reason"] == "Killed", fates[-1]


async def test_a_guest_that_ends_while_the_agent_is_away_is_not_started_again(world: World) -> None:
    place = world.place()
    uid = await world.up(place)
    await world.agent.kill()
    os.kill(qemu(uid), signal.SIGKILL)
    await world.agent.start()
    assert await asyncio.to_thread(place.pod.wait, 15) in (1, 70)
    assert place.console.text.count("berth-guest: up") == 1


async def test_a_panic_is_told(world: World) -> None:
    place = world.place(args="berth.panic=1")
    await world.up(place)
    assert await asyncio.to_thread(place.pod.wait, 30) == 1
    fates = [m["report"]["fate"] for m in world.controller.lines if m["type"] == "changed" and m["report"].get("fate")]
    assert fates[-1]["reason"] == "GuestPanicked"


async def test_a_missing_kernel_is_named_and_starts_when_it_comes(world: World) -> None:
    place = world.place(path="boot/nothing")
    await world.controller.send(place.order)
    report = await world.controller.hears_state(place.order.uid, "Failed")
    disks = next(c for c in report["conditions"] if c["type"] == "DisksReady")
    assert (disks["status"], disks["reason"]) == ("False", "KernelMissing")
    assert "boot/nothing" in disks["message"]


async def test_pause_and_resume(world: World) -> None:
    place = world.place()
    uid = await world.up(place)
    await world.controller.send(place.order.model_copy(update={"power": OrderPower.PAUSED}))
    await world.controller.hears_state(uid, "Paused")
    await world.controller.send(place.order)
    await world.controller.hears_state(uid, "Running")
    assert "uptime" in place.http()


async def test_a_lost_berth_takes_its_guest_with_it(world: World) -> None:
    place = world.place()
    uid = await world.up(place)
    os.kill(place.pod.pid, signal.SIGKILL)
    await world.controller.hears(lambda: uid not in world.controller.reports, "gone")
    assert qemu(uid) == 0


async def test_probes_and_metrics(world: World) -> None:
    place = world.place()
    uid = await world.up(place)
    assert (await world.agent.get("/healthz"))[0] == 200
    assert (await world.agent.get("/readyz"))[0] == 200
    assert world.agent.rss_kib() < 80 * 1024
    text = (await world.agent.get("/metrics"))[1]
    assert 'berth_agent_machines{state="Running"} 1.0' in text
    assert 'berth_agent_start_seconds_count{step="Total"} 1.0' in text
    await asyncio.to_thread(world.libvirtd.kill)
    await world.controller.hears(
        lambda: any(
            m["type"] == "hello" and not m["facts"]["hypervisorConnected"] for m in world.controller.lines[-5:]
        ),
        "libvirtd is down",
    )
    assert world.controller.reports[uid]["state"] == "Running"
    assert [(await world.agent.get(path))[0] for path in ("/healthz", "/readyz")] == [200, 200]
    await asyncio.to_thread(world.libvirtd.start)
    await world.controller.hears(
        lambda: world.controller.lines[-1].get("facts", {}).get("hypervisorConnected"), "is back"
    )
