"""Two nodes on one machine, for guests that move: each with its own libvirtd, agent, mounts, network and host name.

They share the process namespace, as pods' processes must be found from an agent; they reach each other, and the
controller of the test, over a bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berth.api.handover import DoorOrder, Forward, Incoming, Outgoing, Peer
from berth.api.order import BerthRef, Order
from berth.effects import certificates
from testbed import guests
from tests.contract import agents, lan, pods
from tests.contract.agent_bench import VMS, Console, tiny

HERE = "10.99.0.1"
PEER_PORT = 8555
CACHE = Path("/var/cache/libvirt")
_MAKE = r"""
hostname $1
cp -r /var/cache/libvirt $2/cache
for folder in /run /var/lib/libvirt /var/log/libvirt; do
    mkdir -p $folder; mount -t tmpfs -o mode=755 tmpfs $folder
done
mount --bind $2/cache /var/cache/libvirt
cp -r /etc/libvirt/. $2/etc; mount --bind $2/etc /etc/libvirt
printf '127.0.0.1 localhost %s\n' $1 > $2/hosts; mount --bind $2/hosts /etc/hosts
echo "host_uuid = \"$3\"" >> /etc/libvirt/libvirtd.conf
mkdir -p /run/berth/vms
ip link set lo up
touch $2/ready
exec sleep 100000
"""

COUNT = "i=0; while :; do echo n$i; i=$((i+1)); done"
"""As fast as it can: thousands of lines a second."""
CALM = (
    "mkfifo /tmp/never; exec 3<>/tmp/never; i=0; while :; do echo n$i; i=$((i+1));"
    " case $i in *0) read -t 0.01 x <&3;; esac; done"
)
"""The same with a rest after every ten lines, for long ways: an emulated guest that never rests takes a core, and half
of another goes to those who read its console."""
CUT = "table inet cut {{ chain cut {{ type filter hook prerouting priority -400; ip saddr {} drop; }}; }}"
"""nft's words for a node that hears nothing of another one."""
_OLDER = r"""
rm -rf /var/cache/libvirt/*
mkdir -p /older; mount --bind $1 /older; mount --bind /older/qemu /usr/bin/qemu-system-x86_64
"""
_PIDS = "for file in /run/libvirt/qemu/*.pid; do cat $file; echo; done"


def shell(command: str) -> None:
    subprocess.run(["sh", "-euc", command], check=True)


@dataclass
class Node:
    """``run`` is a command on it."""

    name: str
    address: str
    folder: Path
    held: subprocess.Popen[bytes] | None = None
    libvirtd: subprocess.Popen[bytes] | None = None
    older_qemu: Path | None = None

    def up(self) -> None:
        (self.folder / "etc").mkdir(parents=True)
        unshare = ["unshare", "--mount", "--net", "--uts", "--propagation=private", "sh", "-euc", _MAKE, "node"]
        self.held = subprocess.Popen([*unshare, self.name, str(self.folder), str(uuid.uuid4())])
        pods.until((self.folder / "ready").exists, 10, f"node {self.name}")
        link = f"v{self.name}"
        shell(f"ip link del {link} 2>/dev/null || true")  # a namespace may outlive its processes for a moment
        shell(f"ip link add {link} type veth peer name eth0 netns {self.held.pid}; ip link set {link} master nodes up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        if self.older_qemu is not None:
            self.run("sh", "-euc", _OLDER, "node", str(self.older_qemu))
        self.start_libvirtd()

    @property
    def pid(self) -> int:
        assert self.held is not None
        return self.held.pid

    @property
    def prefix(self) -> tuple[str, ...]:
        assert self.held is not None
        return ("nsenter", "-t", str(self.held.pid), "--mount", "--net", "--uts")

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, (command, done.stderr)
        return done.stdout

    def start_libvirtd(self) -> None:
        with (self.folder / "libvirtd.log").open("ab") as log:
            self.libvirtd = subprocess.Popen([*self.prefix, "/usr/sbin/libvirtd"], stdout=log, stderr=log)
        pods.until(lambda: self.virsh("version"), 40, "libvirtd")

    def kill_libvirtd(self) -> None:
        assert self.libvirtd is not None
        self.libvirtd.kill()
        self.libvirtd.wait()

    def virsh(self, *words: str) -> str:
        return self.run("virsh", "-q", "-c", "qemu:///system", *words, check=False).strip()

    def sent(self) -> int:
        """Bytes that it has sent to anybody."""
        line = self.run("grep", "eth0:", "/proc/net/dev")
        return int(line.partition(":")[2].split()[8])

    def cut(self, address: str) -> None:
        """Nothing comes from there any more; what is sent there gets no answer."""
        self.run("nft", CUT.format(address))

    def mend(self) -> None:
        self.run("nft", "delete", "table", "inet", "cut", check=False)

    def state(self, uid: str) -> str:
        """``running``, ``paused`` or nothing."""
        return self.virsh("domstate", uid)

    def qemu(self, uid: str) -> int:
        """Its QEMU's pid here, 0 when there is none."""
        for pid in self.run("sh", "-c", _PIDS, check=False).split():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
                if uid.encode() in command and state not in "ZX":
                    return int(pid)
        return 0

    def down(self) -> None:
        self._keep_what_libvirt_found_out()
        for one in (self.libvirtd, self.held):
            if one is not None:
                one.kill()
                one.wait()

    def _keep_what_libvirt_found_out(self) -> None:
        """For later nodes: a libvirtd that knows nothing starts every QEMU several times to ask what it can do. A real
        node's libvirtd finds that after its first start, too. An older QEMU is asked itself: it is behind the same
        wrapper, so that libvirt sees no other program."""
        if self.older_qemu is None and (self.folder / "cache").is_dir():
            shutil.copytree(self.folder / "cache", CACHE, dirs_exist_ok=True)


@dataclass
class Side:
    """One node with its agent, and the controller's line to it."""

    node: Node
    controller: agents.Controller
    agent: agents.Agent
    pod: pods.FakePod | None = None
    console: Console | None = None
    order_uid: str | None = None

    @property
    def peer(self) -> Peer:
        return Peer(node=self.node.name, address=self.node.address, port=PEER_PORT)

    def report(self, uid: str) -> dict[str, Any]:
        return self.controller.reports.get(uid, {})

    def migration(self, uid: str) -> str:
        return str((self.report(uid).get("migration") or {}).get("state", ""))


@dataclass
class Two:
    a: Side
    b: Side
    start_pod: Callable[..., pods.FakePod]
    order: Order | None = None
    furnish: Callable[[Side], None] = lambda _side: None  # puts more files into a pod before its guest is ordered
    left: list[Console | None] = field(default_factory=list)  # of berths that it has been in, in that order
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def place(self, side: Side) -> pods.FakePod:
        """A pod for the tiny guest on that node."""
        pod = self.start_pod()
        boot = pod.root / "berth/images/kernel/boot"
        boot.mkdir(parents=True)
        for file in guests.tiny_files():
            shutil.copy(file, boot / file.name)
        lan.Lan(pod).up()
        side.pod, side.console = pod, Console(pod)
        self.furnish(side)
        side.console.begin()
        return pod

    async def ordered(self, **machine: Any) -> Order:
        """A guest on the first node, or the first node's trouble with it."""
        order = tiny(self.place(self.a), args="berth.nodhcp")
        order = order.model_copy(update={"machine": order.machine.model_copy(update=machine)})
        assert self.a.pod is not None
        berth = BerthRef(pod_uid=self.a.pod.uid, pod_name="berth-web", node=self.a.node.name)
        self.order = order.model_copy(update={"berth": berth})
        status, answer = await self.a.controller.send(self.order)
        assert status == 200, answer
        return self.order

    async def start(self, loop: str = COUNT, first: int = 100, load: str = "", **machine: Any) -> str:
        """A guest on the first node that has counted on its console so far; its uid. ``load``: a command that runs
        beside that; ``machine``: more hardware."""
        order = await self.ordered(**machine)
        console = self.a.console
        assert console is not None
        await asyncio.to_thread(console.says, "berth-guest: ready", 120)
        console.type("")
        await asyncio.to_thread(console.says, "berth-guest#", 60)
        if load:
            console.type(f"{load} &")
            await asyncio.to_thread(console.says, "it begins", 60)
        for line in loop.splitlines():
            console.type(line)
        await asyncio.to_thread(console.says, rf"n{first}\b", 60)
        return order.uid

    def orders(self, **more: Any) -> tuple[Order, Order]:
        """For the source and for the target, of a new migration."""
        assert self.order is not None
        assert self.b.pod is not None
        number = next(self.numbers)
        migration = f"m{number}"
        berth = BerthRef(pod_uid=self.b.pod.uid, pod_name="berth-web-2", node=self.b.node.name)
        incoming = Incoming(migration=migration, source=self.a.peer, epoch=self.order.epoch)
        self.b.order_uid = self.order.uid
        target = self.order.model_copy(
            update={"epoch": self.order.epoch + number, "berth": berth, "incoming": incoming}
        )
        outgoing = Outgoing(migration=migration, target=self.b.peer, epoch=target.epoch, **more)
        own = self.order.berth
        door = DoorOrder(number=number, node=own.node, pod_uid=own.pod_uid, addresses=(lan.POD_IP,))
        forward = Forward(
            door=door, node=self.b.node.name, addresses=("10.77.0.6",)
        )  # nobody there: see test_node_moves
        return self.order.model_copy(update={"outgoing": outgoing, "forward": forward}), target

    async def listening(self, **more: Any) -> tuple[Order, Order]:
        self.place(self.b)
        source, target = self.orders(**more)
        status, answer = await self.b.controller.send(target)
        assert status == 200, answer
        await self.hears(self.b, target.uid, "Listening")
        return source, target

    async def hears(self, side: Side, uid: str, state: str, seconds: float = 60) -> dict[str, Any]:
        await side.controller.hears(lambda: side.migration(uid) == state, f"{side.node.name} {state}", seconds)
        return dict(side.report(uid)["migration"])

    def running(self, uid: str) -> list[str]:
        """The nodes on which it runs, by libvirt."""
        return [side.node.name for side in (self.a, self.b) if side.node.state(uid) == "running"]

    async def one_runs(self, uid: str, seconds: float = 60) -> str:
        """Wait until it has come to rest with one copy that runs and no other QEMU; where."""
        deadline = time.monotonic() + seconds
        while True:
            running = await asyncio.to_thread(self.running, uid)
            assert len(running) < 2, "two copies run"
            qemus = [side.node.name for side in (self.a, self.b) if side.node.qemu(uid)]
            if len(running) == 1 and qemus == running:
                return running[0]
            assert time.monotonic() < deadline, (running, qemus, [s.node.state(uid) for s in (self.a, self.b)])
            await asyncio.sleep(0.1)

    async def counts_on(self, side: Side) -> None:
        """The guest counts on that console."""
        assert side.console is not None
        before = len(side.console.text)
        await asyncio.to_thread(pods.until, lambda: len(side.console.text) > before + 20, 60, "more numbers")  # type: ignore[union-attr]

    async def give_back(self, side: Side) -> None:
        """The controller deletes the berth there."""
        assert side.pod is not None
        assert self.order is not None
        uid = self.order.uid
        side.pod.stop()
        await side.controller.hears(lambda: uid not in side.controller.reports, "gone", 60)

    def turn_round(self, arrived: Order) -> None:
        """The guest is at the target: the next time it goes the other way."""
        self.left.append(self.a.console)
        self.a, self.b = self.b, self.a
        self.order = arrived.model_copy(update={"incoming": None})
        self.b.console = None

    def stopped(self, uid: str, seconds: float = 60) -> None:
        """Wait until the migration has stopped the guest at the source: libvirt's status file says so first."""
        deadline = time.monotonic() + seconds
        file = Path(f"/proc/{self.a.node.pid}/root/run/libvirt/qemu/team_web_{uid[:8]}.xml")
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if "state='paused' reason='migration'" in file.read_text()[:4000] or not file.exists():
                    return
            time.sleep(0.001)
        raise AssertionError("it was not stopped")

    def dead(self, pid: int, seconds: float = 60) -> None:
        """Wait until the process has ended: the source has let go, and nobody has been told yet."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX":
                assert time.monotonic() < deadline, "the source did not let go"
                time.sleep(0.0005)

    def counted(self, *sides: Side) -> list[int]:
        """All whole numbers that the consoles showed, in order: what one cut off the other goes on with."""
        consoles = [*self.left, *(side.console for side in sides or (self.a, self.b))]
        texts = [console.text for console in consoles if console is not None]
        text = "".join(texts).partition("done\r\n")[2]
        return [int(line[1:]) for line in text.split("\r\n")[:-1] if line.startswith("n") and line[1:].isdigit()]


@contextlib.asynccontextmanager
async def two_nodes(
    folder: Path, start_pod: Callable[..., pods.FakePod], older_qemu: Path | None = None
) -> AsyncIterator[Two]:
    """``older_qemu``: what the second one has."""
    shell("ip link del nodes 2>/dev/null || true")
    shell(f"ip link add nodes type bridge; ip addr add {HERE}/24 dev nodes; ip link set nodes up")
    authority = certificates.new_authority(agents.now())
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for number, name in enumerate(("node-a", "node-b"), start=2):
            node = Node(name, f"10.99.0.{number}", folder / name, older_qemu=older_qemu if number == 3 else None)
            stack.callback(node.down)
            await asyncio.to_thread(node.up)
            own = folder / f"controller-{name}"
            own.mkdir()
            controller = agents.Controller(own, authority=authority, node=name, host=HERE, agent_host=node.address)
            await controller.start()
            stack.push_async_callback(controller.close)
            agent = agents.Agent(controller, VMS, folder / f"{name}.log", prefix=node.prefix)
            await agent.start(BERTH_PEER_PORT=str(PEER_PORT))
            sides.append(Side(node, controller, agent))
            stack.push_async_callback(_stop, agent)
        two = Two(sides[0], sides[1], start_pod)
        try:
            yield two
        finally:
            for side in sides:
                if two.order is not None and (pid := side.node.qemu(two.order.uid)):
                    os.kill(pid, signal.SIGKILL)
                print(f"--- {side.node.name}\n{side.agent.log.read_text()[-30000:]}")
                print((side.node.folder / "libvirtd.log").read_text()[-3000:])


async def _stop(agent: agents.Agent) -> None:
    with contextlib.suppress(ProcessLookupError):
        await agent.stop(signal.SIGKILL)
