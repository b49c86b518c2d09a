"""One node for tests of a whole agent: real libvirtd, QEMU, berth process, network, guest; only kubelet is missing."""

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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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

    def type(self, line: str) -> None:
        """Into the guest's shell, which starts when something is typed."""
        os.write(self.pod.stdin, f"{line}\r".encode())

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
