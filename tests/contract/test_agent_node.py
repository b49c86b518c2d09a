"""The whole agent on one node: real libvirtd, QEMU, berth process, network and guest; only kubelet is missing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from berth.api.order import (
    BerthRef,
    Emulation,
    FileOrder,
    KernelOrder,
    MachineOrder,
    NicOrder,
    Order,
    OrderPower,
)
from testbed import guests
from tests.contract import agents, lan, pods

VMS = Path("/run/berth/vms")
LIBVIRTD, URI = "/usr/sbin/libvirtd", "qemu:///system"


@dataclass
class Libvirtd:
    """The daemon, restarted at will; the guests are not its children in any sense that matters."""

    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([LIBVIRTD], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        pods.until(
            lambda: subprocess.run(["virsh", "-q", "-c", URI, "version"], capture_output=True).returncode == 0,
            20,
            "libvirtd",
        )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@dataclass
class Console:
    """Everything the berth prints, as it comes."""

    pod: pods.FakePod
    text: str = ""
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.pod._process
        assert self.pod._process.stdout
        while chunk := os.read(self.pod._process.stdout.fileno(), 4096):
            self.text += chunk.decode("utf-8", "replace")

    def says(self, what: str, seconds: float = 60) -> str:
        with contextlib.suppress(AssertionError):
            pods.until(lambda: re.search(what, self.text), seconds, what)
        found = re.search(what, self.text)
        assert found, f"not on the console within {seconds} s: {what!r}; it says: {self.text[-2000:]!r}"
        return found.group()


@dataclass
class Place:
    """One pod with its network, ready for a guest."""

    pod: pods.FakePod
    net: lan.Lan
    console: Console
    order: Order

    def http(self, port: int = 80) -> str:
        """What the guest answers, asked as a neighbour would ask the pod's IP; its DHCP may still be under way."""
        script = (
            f"import urllib.request as u; print(u.urlopen('http://{lan.POD_IP}:{port}/', timeout=5).read().decode())"
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                return in_node(self.net, ["python3", "-c", script])
            except subprocess.CalledProcessError:
                assert time.monotonic() < deadline, f"no answer at {lan.POD_IP}:{port}; {self.console.text[-500:]!r}"

    def terminate(self) -> None:
        """What kubelet does first when the pod is deleted."""
        os.kill(self.pod.pid, signal.SIGTERM)

    def boot_id(self) -> str:
        return re.search(r"boot_id (\S+)", self.http()).group(1)  # type: ignore[union-attr]


def in_node(net: lan.Lan, command: list[str]) -> str:
    enter = ["nsenter", f"--net=/proc/self/fd/{net.node}", *command]
    return subprocess.run(enter, pass_fds=[net.node], check=True, capture_output=True, text=True, timeout=20).stdout


@dataclass
class World:
    agent: agents.Agent
    controller: agents.Controller
    libvirtd: Libvirtd
    start_pod: Callable[..., pods.FakePod]
    places: list[Place] = field(default_factory=list)

    def place(self, **more: object) -> Place:
        """A pod with the tiny guest's files in it, and the order for it."""
        pod = self.start_pod()
        boot = pod.root / "berth/images/kernel/boot"
        boot.mkdir(parents=True)
        for file in guests.tiny_files():
            shutil.copy(file, boot / file.name)
        net = lan.Lan(pod)
        net.up()
        console = Console(pod)
        console.begin()
        place = Place(pod, net, console, tiny(pod, **more))
        self.places.append(place)
        return place

    async def up(self, place: Place) -> str:
        """Order it, wait until its guest is up; its uid."""
        status, answer = await self.controller.send(place.order)
        assert status == 200, answer
        await self.controller.hears_state(place.order.uid, "Running")
        await asyncio.to_thread(place.console.says, "berth-guest: up")
        return place.order.uid


def tiny(
    pod: pods.FakePod, *, args: str = "", power: OrderPower = OrderPower.RUNNING, path: str = "boot/vmlinuz"
) -> Order:
    uid, folder = str(uuid.uuid4()), "/berth/images/kernel"
    return Order(
        uid=uid,
        namespace="team",
        name="web",
        epoch=1,
        berth=BerthRef(pod_uid=pod.uid, pod_name="berth-web", node=agents.NODE),
        power=power,
        emulation=Emulation.ALWAYS,
        machine=MachineOrder(
            cpus=1,
            memory_bytes=256 << 20,
            kernel=KernelOrder(
                kernel=FileOrder(folder=folder, path=path),
                initrd=FileOrder(folder=folder, path="boot/initrd"),
                args=f"{guests.TINY_ARGS} {args}".strip(),
            ),
            nics=(NicOrder(name="default", mac="52:54:00:12:34:56"),),
        ),
    )


@pytest.fixture(scope="module")
def libvirtd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirtd]:
    daemon = Libvirtd(tmp_path_factory.mktemp("libvirt") / "libvirtd.log")
    daemon.start()
    yield daemon
    daemon.kill()


@pytest.fixture
async def world(tmp_path: Path, libvirtd: Libvirtd, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[World]:
    os.makedirs(VMS, exist_ok=True)
    async with agents.agent_and_controller(tmp_path, VMS) as (agent, controller):
        world = World(agent, controller, libvirtd, start_pod)
        yield world
    for place in world.places:
        await asyncio.to_thread(destroy, place.order.uid)


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


def destroy(uid: str) -> None:
    """What a failed test left behind."""
    subprocess.run(["virsh", "-q", "-c", URI, "destroy", uid], capture_output=True)


def qemu(uid: str) -> int:
    """The pid of the machine's QEMU, or 0."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if b"qemu-system" in command and uid.encode() in command:
                    return int(entry.name)
    return 0
