"""The same guest sent to and fro over the same narrow link: by Berth's agents, and by `virsh migrate` alone.

Runs in the agent image's root file system (migration.py starts it) and prints each move as a line of JSON. Both guests
are there all the time; the one that is not measured rests.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import libvirt

from benchmarks import inside
from benchmarks.baredomain import LINK_LOCAL, on_bridge
from benchmarks.migration_lab import Clock, Guest, Street, Watch, dial, furnish, shape
from berth.api.handover import DoorOrder, Forward
from berth.api.order import BerthRef, Order
from tests.contract import pods
from tests.contract.agent_bench import Console, tiny
from tests.contract.two_nodes import Two, shell, two_nodes

SET_KIB: Final = 64 * 1024
"""So much memory is changed over and over."""
LIMIT: Final = 120.0
"""Seconds after which `virsh migrate` is stopped: it may go on for ever."""
PAYLOAD: Final = 0.94
"""Of what the link carries, without the headers of its packets."""


@dataclass
class Berths:
    """The guest of Berth's agents."""

    two: Two
    street: Street
    clock: Clock
    addresses: dict[str, str] = field(default_factory=dict)  # by pod
    number: int = 0

    def guest(self) -> Guest:
        two = self.two
        assert two.order is not None
        address = self.addresses[two.order.berth.pod_uid]
        return Guest(lambda port: self.street.enter(lambda: dial(address, port)))

    def place(self, side: Any) -> pods.FakePod:
        pod: pods.FakePod = self.two.start_pod()
        furnish(pod)
        self.addresses[pod.uid] = self.street.house(pod)
        side.pod, side.console = pod, Console(pod)
        side.console.begin()
        return pod

    async def start(self) -> None:
        a = self.two.a
        order = tiny(self.place(a))
        assert a.pod is not None
        berth = BerthRef(pod_uid=a.pod.uid, pod_name="berth-web", node=a.node.name)
        self.two.order = order.model_copy(update={"berth": berth})
        await _ordered(a, self.two.order)
        await asyncio.to_thread(self.guest().up)

    async def move(self, kib: int) -> dict[str, Any]:
        """There; what was measured of it. The berth that was left is given back."""
        two, guest = self.two, self.guest()
        assert two.order is not None
        self.place(two.b)
        source, target = self._orders(two.order)
        line = await asyncio.to_thread(guest.dial, 7001)
        with guest.dirtied(kib, SET_KIB), Watch(line) as watch:
            await _ordered(two.b, target)
            await _ordered(two.a, source.model_copy(update={"outgoing": None, "forward": None}))
            await two.hears(two.b, target.uid, "Listening")
            foretold = await two.hears(two.a, target.uid, "Surveyed")
            begun = time.monotonic()
            await two.a.controller.send(source)
            names = two.a.node.name, two.b.node.name
            seconds, pause = await asyncio.to_thread(self.clock.arrived, target.uid, *names, begun)
            await two.hears(two.b, target.uid, "Arrived")
            said = two.a.report(target.uid)["migration"]
            two.order = target.model_copy(update={"incoming": None})
            await asyncio.sleep(1)
        await two.a.controller.hears_state(target.uid, "Moved")
        assert two.a.pod is not None
        two.a.pod.stop()
        await two.a.controller.hears(lambda: target.uid not in two.a.controller.reports, "gone", 60)
        two.a, two.b = two.b, two.a
        return {"seconds": seconds, "pause": pause, "gap": watch.gap, "foretold": foretold, "said": said}

    def _orders(self, order: Order) -> tuple[Order, Order]:
        two, self.number = self.two, self.number + 1
        two.order = order
        source, target = two.orders()
        own, there = order.berth, target.berth
        door = DoorOrder(
            number=self.number % 255 + 1,
            node=own.node,
            pod_uid=own.pod_uid,
            addresses=(self.addresses[own.pod_uid],),
        )
        forward = Forward(door=door, node=there.node, addresses=(self.addresses[there.pod_uid],))
        source = source.model_copy(update={"leaving": source.outgoing, "forward": forward})
        return source, target.model_copy(update={"doors": (door,)})


async def _ordered(side: Any, order: Order) -> None:
    status, answer = await side.controller.send(order)
    assert status == 200, answer


@dataclass
class Bare:
    """The same guest, of the same two libvirts alone, on a bridge."""

    two: Two
    clock: Clock
    folder: Path
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        shell("ip link add lan type bridge forward_delay 0; ip link set lan up")
        for side in (self.two.a, self.two.b):
            name, pid = side.node.name, side.node.pid
            shell(f"ip link add l{name} type veth peer name eth1 netns {pid}; ip link set l{name} master lan up")
            side.node.run("ip", "link", "add", "lan", "type", "bridge", "forward_delay", "0")
            for device in ("eth1", "lan"):
                side.node.run("ip", "link", "set", device, "up")
            side.node.run("ip", "link", "set", "eth1", "master", "lan")
        self.at, self.other = self.two.a.node, self.two.b.node

    def guest(self) -> Guest:
        return Guest(functools.partial(dial, f"{LINK_LOCAL}%lan"))

    def start(self, live: str) -> None:
        self.clock.connections[self.at.name].createXML(on_bridge(live, self.uid, self.folder), 0)
        self.guest().up()

    def move(self, kib: int) -> dict[str, Any]:
        guest = self.guest()
        line = guest.dial(7001)
        with guest.dirtied(kib, SET_KIB), Watch(line) as watch:
            time.sleep(3)  # until the rate is that
            domain = self.clock.connections[self.at.name].lookupByUUIDString(self.uid)
            begun = time.monotonic()
            flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
            uri = f"tcp://{self.other.address}"
            limit = threading.Timer(LIMIT, domain.abortJob)
            limit.start()
            try:
                domain.migrateToURI3(f"qemu+{uri}/system", {libvirt.VIR_MIGRATE_PARAM_URI: uri}, flags)
            except libvirt.libvirtError:
                if time.monotonic() - begun < LIMIT:
                    raise
                return {"seconds": None}
            finally:
                limit.cancel()
            seconds, pause = self.clock.arrived(self.uid, self.at.name, self.other.name, begun)
            time.sleep(1)
        self.at, self.other = self.other, self.at
        return {"seconds": seconds, "pause": pause, "gap": watch.gap}


def listen(two: Two) -> None:
    """libvirtd serves `virsh migrate --p2p` over the link, too."""
    for side in (two.a, two.b):
        side.node.kill_libvirtd()
        words = 'listen_tls = 0\\nlisten_tcp = 1\\nauth_tcp = "none"\\n'
        side.node.run("sh", "-c", f"printf '{words}' >>/etc/libvirt/libvirtd.conf")
        with (side.node.folder / "libvirtd.log").open("ab") as log:
            command = [*side.node.prefix, "/usr/sbin/libvirtd", "--listen"]
            side.node.libvirtd = subprocess.Popen(command, stdout=log, stderr=log)
        pods.until(lambda node=side.node: node.virsh("version"), 40, "libvirtd")  # type: ignore[misc]


@contextlib.asynccontextmanager
async def both(folder: Path) -> AsyncIterator[tuple[Berths, Bare]]:
    program, started = pods.binary("berth", folder), []

    def start_pod() -> pods.FakePod:
        pod = pods.FakePod(folder / f"pod{len(started)}", node=f"bench-{uuid.uuid4().hex[:6]}")
        started.append(pod)
        return pod.start(program)

    try:
        async with two_nodes(folder, start_pod) as two:
            await asyncio.to_thread(listen, two)
            clock = Clock({side.node.name: side.node.pid for side in (two.a, two.b)})
            berths, bare = Berths(two, Street(), clock), Bare(two, clock, folder)
            await berths.start()
            assert two.order is not None
            await asyncio.to_thread(bare.start, two.a.node.virsh("dumpxml", two.order.uid))
            try:
                yield berths, bare
            finally:
                for side in (two.a, two.b):
                    side.node.virsh("destroy", bare.uid)
    finally:
        for pod in started:
            pod.stop()


async def run(megabits: int, shares: list[int], rounds: int, tell: Callable[[dict[str, Any]], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        async with both(Path(name)) as (berths, bare):
            for side in (berths.two.a, berths.two.b):
                shape(side.node, megabits)
            for turn in range(rounds):
                for share in shares:
                    kib = int(PAYLOAD * megabits * 1_000_000 / 8 / 1024 * share / 100)
                    tell({"who": "bare", "share": share, "round": turn, **await asyncio.to_thread(bare.move, kib)})
                    tell({"who": "berth", "share": share, "round": turn, **await berths.move(kib)})


def main(words: list[str]) -> int:
    megabits, shares, rounds = int(words[0]), [int(share) for share in words[1].split(",")], int(words[2])
    asyncio.run(run(megabits, shares, rounds, inside.tell))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
