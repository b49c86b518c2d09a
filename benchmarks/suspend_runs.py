"""The same guest written to the same volume and read back: by a whole agent of Berth's, and by `virsh save` and
`virsh restore` alone.

Runs in the agent image's root file system (suspend.py starts it) and prints each as a line of JSON. Both guests are
there all the time; the one that is not measured rests. Where a phase ends is seen from outside, by libvirt's events and
the files in the volume. What was written is forgotten by the page cache before it is restored, as by then it may be
another day or another node.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import libvirt

from benchmarks import inside
from benchmarks.baredomain import BRIDGE, LINK_LOCAL, on_bridge
from benchmarks.migration_lab import Clock, Guest, Street, dial, furnish
from berth.api.order import BerthRef, Order, StateOrder
from berth.effects.states import MAGIC
from tests.contract import agents, pods
from tests.contract.agent_bench import VMS, Console, Libvirtd, destroy, tiny

MEMORY: Final = 512 << 20
FOLDER: Final = "/berth/saved"
ARGS: Final = "init_on_free=1"
"""What a filling leaves behind is zeroes again."""
NODE: Final = "here"
LOOK: Final = 0.002
SECONDS: Final = 120.0
Sides = tuple[dict[str, float], dict[str, float]]
"""Seconds of each phase: of the suspend, and of the resume."""


@dataclass
class Marks:
    """When each of some things became true, seen by a thread, one after the other."""

    wanted: dict[str, Callable[[], object]]
    seen: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Until all of them are."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        yield
        thread.join(SECONDS)
        assert len(self.seen) == len(self.wanted), f"seen within {SECONDS:.0f} s: {[*self.seen]} of {[*self.wanted]}"

    def _look(self) -> None:
        for name, true in self.wanted.items():
            while not true():
                time.sleep(LOOK)
            self.seen[name] = time.monotonic()


def phases(begun: float, marks: dict[str, float]) -> dict[str, float]:
    """What lay between one and the next."""
    times = [begun, *marks.values()]
    return {name: after - before for name, before, after in zip(marks, times, times[1:], strict=False)}


def whole(file: Path) -> bool:
    """Whether libvirt has written it to its end."""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC
    return False


def forget(file: Path) -> None:
    """Nothing of it in the page cache."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def hashed(file: Path) -> float:
    """How long it takes to read it from the disk and hash it, with what everyone has for it."""
    forget(file)
    begun = time.monotonic()
    subprocess.run(["sha256sum", file], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


@dataclass
class Berths:
    """The guest of Berth's agent."""

    controller: agents.Controller
    start_pod: Callable[[], pods.FakePod]
    clock: Clock
    volume: Path
    street: Street = field(default_factory=Street)
    address: str = ""
    order: Order | None = None
    pod: pods.FakePod | None = None

    def guest(self) -> Guest:
        return Guest(lambda port: self.street.enter(lambda: dial(self.address, port)))

    def place(self) -> BerthRef:
        """A new berth with the volume, as the scheduler and kubelet would make it."""
        pod = self.pod = self.start_pod()
        furnish(pod)
        (pod.root / FOLDER.lstrip("/")).mkdir()
        mount = ["mount", "--bind", str(self.volume), str(pod.root / FOLDER.lstrip("/"))]
        subprocess.run(["nsenter", "-t", str(pod.pid), "-m", *mount], check=True)
        self.address = self.street.house(pod)
        Console(pod).begin()
        return BerthRef(pod_uid=pod.uid, pod_name="berth-web", node=agents.NODE)

    async def start(self) -> str:
        """Its uid, once it is up."""
        berth = self.place()
        assert self.pod is not None
        order = tiny(self.pod, args=ARGS)
        machine = order.machine.model_copy(update={"memory_bytes": MEMORY})
        await self._ordered(order.model_copy(update={"machine": machine, "berth": berth}))
        await asyncio.to_thread(self.guest().up)
        return order.uid

    async def go(self) -> tuple[Sides, int, float]:
        """Suspend and resume it; the phases, the state's bytes, and how long anybody needs to read and hash them."""
        assert self.order is not None
        uid, epoch = self.order.uid, self.order.epoch
        memory, manifest = (self.volume / uid / name for name in (f"memory-{epoch}", f"state-{epoch}.json"))
        suspended = await self._suspend(memory, manifest)
        size = json.loads(manifest.read_text())["bytes"]
        floor = hashed(memory)
        forget(memory)
        resumed = await self._resume(uid, epoch)
        await asyncio.to_thread(pods.until, lambda: not memory.exists(), 30, "the state's removal")
        await asyncio.to_thread(self.guest().up)
        return (suspended, resumed), size, floor

    async def _suspend(self, memory: Path, manifest: Path) -> dict[str, float]:
        assert self.order is not None
        assert self.pod is not None
        begun, here = time.monotonic(), self.clock.at
        at = functools.partial(here, NODE, self.order.uid, begun)
        marks = Marks(
            {
                "stop": lambda: at(libvirt.VIR_DOMAIN_EVENT_SUSPENDED),
                "write": lambda: whole(memory),
                "verify": manifest.exists,
                "end": lambda: at(libvirt.VIR_DOMAIN_EVENT_STOPPED),
            }
        )
        with marks.watched():
            await self._ordered(self.order, save=True)
            await asyncio.to_thread(self.pod.wait, SECONDS)
        uid = self.order.uid
        await self.controller.hears(lambda: uid not in self.controller.reports, "gone")
        self.pod.stop()
        return phases(begun, marks.seen)

    async def _resume(self, uid: str, epoch: int) -> dict[str, float]:
        assert self.order is not None
        order = self.order.model_copy(update={"berth": self.place(), "epoch": epoch + 1})
        begun, shown = time.monotonic(), VMS / uid / "memory"
        at = functools.partial(self.clock.at, NODE, uid, begun)
        marks = Marks(
            {
                "verify": lambda: shown.exists() and shown.stat().st_size,
                "restore": lambda: at(libvirt.VIR_DOMAIN_EVENT_STARTED),
                "run": lambda: at(libvirt.VIR_DOMAIN_EVENT_RESUMED),
            }
        )
        with marks.watched():
            await self._ordered(order, restore=epoch)
            await self.controller.hears_state(uid, "Running", SECONDS)
        return phases(begun, marks.seen)

    async def _ordered(self, order: Order, **state: Any) -> None:
        self.order = order.model_copy(update={"state": StateOrder(folder=FOLDER, **state)})
        status, answer = await self.controller.send(self.order)
        assert status == 200, answer


@dataclass
class Bare:
    """The same guest, of the same libvirt alone, on a bridge."""

    clock: Clock
    volume: Path
    folder: Path
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def guest(self) -> Guest:
        return Guest(functools.partial(dial, f"{LINK_LOCAL}%{BRIDGE}"))

    def start(self, live: str) -> None:
        words = f"ip link add {BRIDGE} type bridge forward_delay 0; ip link set {BRIDGE} up"
        subprocess.run(["sh", "-euc", words], check=True)
        self._connection.createXML(on_bridge(live, self.uid, self.folder), 0)
        self.guest().up()

    @property
    def _connection(self) -> Any:
        return self.clock.connections[NODE]

    def go(self) -> tuple[Sides, int]:
        file = self.volume / "bare"
        domain = self._connection.lookupByUUIDString(self.uid)
        begun = time.monotonic()
        at = functools.partial(self.clock.at, NODE, self.uid, begun)
        stopped = {
            "stop": lambda: at(libvirt.VIR_DOMAIN_EVENT_SUSPENDED),
            "write": lambda: whole(file),
            "end": lambda: at(libvirt.VIR_DOMAIN_EVENT_STOPPED),
        }
        suspended = self._timed(begun, stopped, lambda: domain.save(str(file)))
        size = file.stat().st_size
        forget(file)
        begun = time.monotonic()
        at = functools.partial(self.clock.at, NODE, self.uid, begun)
        ran = {
            "restore": lambda: at(libvirt.VIR_DOMAIN_EVENT_STARTED),
            "run": lambda: at(libvirt.VIR_DOMAIN_EVENT_RESUMED),
        }
        resumed = self._timed(begun, ran, lambda: self._connection.restore(str(file)))
        file.unlink()
        self.guest().up()
        return (suspended, resumed), size

    def _timed(
        self, begun: float, wanted: dict[str, Callable[[], object]], work: Callable[[], Any]
    ) -> dict[str, float]:
        marks = Marks(wanted)
        with marks.watched():
            work()
        return phases(begun, marks.seen)


def begin(libvirtd: Libvirtd) -> None:
    """`virsh save` compresses as Berth has libvirt do it."""
    with Path("/etc/libvirt/qemu.conf").open("a") as file:
        file.write('save_image_format = "lzop"\n')
    libvirtd.start()


@contextlib.asynccontextmanager
async def both(folder: Path, volume: Path) -> AsyncIterator[tuple[Berths, Bare]]:
    program, started, node = pods.binary("berth", folder), list[pods.FakePod](), f"bench-{uuid.uuid4().hex[:6]}"

    def start_pod() -> pods.FakePod:
        pod = pods.FakePod(folder / f"pod{len(started)}", node=node)  # where the agent looks already, as on a real node
        started.append(pod)
        return pod.start(program)

    VMS.mkdir(parents=True, exist_ok=True)
    libvirtd = Libvirtd(folder / "libvirtd.log")
    await asyncio.to_thread(begin, libvirtd)
    try:
        async with agents.agent_and_controller(folder, VMS) as (_, controller):
            clock = Clock({NODE: os.getpid()})
            berths, bare = Berths(controller, start_pod, clock, volume), Bare(clock, volume, folder)
            uid = await berths.start()
            await asyncio.to_thread(bare.start, clock.connections[NODE].lookupByUUIDString(uid).XMLDesc())
            try:
                yield berths, bare
            finally:
                for one in (uid, bare.uid):
                    await asyncio.to_thread(destroy, one)
    finally:
        libvirtd.kill()
        for pod in started:
            pod.stop()


async def run(fillings: list[int], rounds: int) -> None:
    cache = Path(os.environ["BERTH_CACHE"])  # on a disk, as volumes are
    with tempfile.TemporaryDirectory(prefix="bench-") as name, tempfile.TemporaryDirectory(dir=cache) as volume:
        async with both(Path(name), Path(volume)) as (berths, bare):
            for filling in fillings:
                kib = MEMORY // 1024 * filling // 100
                with berths.guest().dirtied(kib and 1, kib), bare.guest().dirtied(kib and 1, kib):
                    for turn in range(rounds):
                        await measured(berths, bare, {"filling": filling, "round": turn})


async def measured(berths: Berths, bare: Bare, what: dict[str, int]) -> None:
    """One after the other, and the next time the other way round: the disk may still be busy with the first."""
    sides = [_bare, _berth]
    for side in sides if what["round"] % 2 else reversed(sides):
        inside.tell(what | await side(berths, bare))


async def _bare(_berths: Berths, bare: Bare) -> dict[str, Any]:
    (suspended, resumed), size = await asyncio.to_thread(bare.go)
    return {"who": "bare", "suspend": suspended, "resume": resumed, "bytes": size}


async def _berth(berths: Berths, _bare: Bare) -> dict[str, Any]:
    (suspended, resumed), size, floor = await berths.go()
    return {"who": "berth", "suspend": suspended, "resume": resumed, "bytes": size, "hashed": floor}


def main(words: list[str]) -> int:
    asyncio.run(run([int(filling) for filling in words[0].split(",")], int(words[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
