"""A guest and a node around a fake pod: real namespaces, veth, taps.

The guest's kernel is a network namespace whose tap is joined, frame by frame, to the tap that QEMU would hold open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from berth.api.order import NicOrder
from berth.effects import namespaces, syscalls, wiring
from berth.effects.network import NodeNetwork
from berth.effects.ports import Berth
from tests.contract import pods

T = TypeVar("T")
GUEST_MAC = "52:54:00:12:34:56"
POD_IP, NODE_IP = "10.77.0.5", "10.77.0.1"
POD_IP6, NODE_IP6 = "fd77::5", "fd77::1"
VM = "6f5ffeef-839c-4c00-8437-8da47dfe23fa"
NICS = (NicOrder(name="default", mac=GUEST_MAC),)


def new_namespace() -> int:
    """A descriptor of a fresh network namespace; it ends with its last descriptor."""
    fds: list[int] = []

    def work() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        fds.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return fds[0]


def open_tap(name: str) -> int:
    """As libvirt opens the tap that was made for it."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
    return fd


@dataclass(slots=True)
class Lan:
    """node (10.77.0.1) -- eth0 (10.77.0.5) of the pod -- vm0 ~~ the guest's enp0 (in a namespace of its own)."""

    pod: pods.FakePod
    mtu: int = 1400
    node: int = field(default_factory=new_namespace)
    guest: int = field(default_factory=new_namespace)
    wire: int = -1  # what QEMU has open: frames written to it are the guest's, whatever they are
    _netns: int = -1
    _fds: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _pump: threading.Thread | None = None

    @property
    def netns(self) -> int:
        """The pod's."""
        if self._netns < 0:
            self._netns = os.open(f"/proc/{self.pod.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._fds.append(self._netns)
        return self._netns

    def up(self) -> None:
        """What a CNI plugin does."""
        pod = self.pod.pid
        run(self.node, f"ip link add veth0 type veth peer name eth0 netns {pod}; ip addr add {NODE_IP}/24 dev veth0")
        run(
            self.node, f"ip link set veth0 mtu {self.mtu} up; ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward"
        )
        run(self.netns, f"ip link set lo up; ip link set eth0 mtu {self.mtu} up; ip addr add {POD_IP}/24 dev eth0")
        run(self.netns, f"ip route add default via {NODE_IP}")

    def up6(self) -> None:
        """What it does for IPv6."""
        run(
            self.node,
            f"ip addr replace {NODE_IP6}/64 dev veth0 nodad; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
        )
        run(
            self.netns,
            f"ip addr replace {POD_IP6}/64 dev eth0 nodad; ip -6 route replace default via {NODE_IP6}",
        )

    def plug(self, tap: str) -> None:
        """Start the guest: its NIC's frames come and go through the tap from now on, wherever the tap is moved to."""
        outer = open_tap(tap)
        inner = namespaces.in_network(self.guest, lambda: open_tap("enp0"))
        run(self.guest, f"ip link set lo up; ip link set enp0 address {GUEST_MAC} mtu {self.mtu} up")
        self.wire = outer
        self._fds += [outer, inner]
        self._pump = threading.Thread(target=self._run, args=(outer, inner), daemon=True)
        self._pump.start()

    def _run(self, outer: int, inner: int) -> None:
        other = {outer: inner, inner: outer}
        while not self._stop.is_set():
            for fd in select.select([outer, inner], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    os.write(other[fd], os.read(fd, 65536))

    def configure(self) -> None:
        run(self.guest, "ip addr add 10.0.2.2/24 dev enp0; ip route add default via 10.0.2.1")

    def configure6(self) -> None:
        """The address that DHCPv6 grants; the route is learned from the router."""
        run(self.guest, "ip addr add fd00:10:0:2::2/64 dev enp0 nodad")
        pods.until(lambda: "fe80::1" in run(self.guest, "ip -6 route show default"), what="the guest's route")

    def in_guest(self, work: Callable[[], T]) -> T:
        return namespaces.in_network(self.guest, work)

    def in_node(self, work: Callable[[], T]) -> T:
        return namespaces.in_network(self.node, work)

    def down(self) -> None:
        self._stop.set()
        if self._pump:
            self._pump.join()
        for fd in [*self._fds, self.node, self.guest]:
            os.close(fd)


@dataclass(slots=True)
class Bench:
    """A machine's network on that LAN."""

    lan: Lan
    berth: Berth
    nics: Sequence[NicOrder] = NICS
    changes: list[wiring.Change] = field(default_factory=list)
    network: NodeNetwork = field(default_factory=NodeNetwork)

    def attach(self) -> list[wiring.Change]:
        """What this attach changed."""
        self.changes.clear()
        self.network.on_change = lambda vm, change: self.changes.append(change)
        self.network.attach(VM, self.berth, self.nics, "web")
        return list(self.changes)

    def start(self) -> None:
        """As the agent starts a guest."""
        self.lan.plug(self.network.create_taps(VM, 0, self.nics)["default"])
        self.attach()

    def down(self) -> None:
        self.network.detach(VM)
        self.lan.down()


def run(netns: int, script: str) -> str:
    def work() -> str:
        done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}: {done.stderr}"
        return done.stdout

    return namespaces.in_network(netns, work)


def serve(address: str, port: int, greeting: bytes | None = None) -> socket.socket:
    """A TCP server that tells each client the address it sees it under (or a greeting)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, port), family=family)

    def loop() -> None:
        with contextlib.suppress(OSError):
            while True:
                line, peer = server.accept()
                line.sendall(greeting or peer[0].encode())
                line.close()

    threading.Thread(target=loop, daemon=True).start()
    return server


def ask(address: str, port: int, seconds: float = 3.0) -> bytes:
    """What a TCP server says; b"" when it does not answer in time or refuses."""
    try:
        with socket.create_connection((address, port), timeout=seconds) as line:
            return line.recv(100)
    except OSError:
        return b""


def raw_socket(device: str) -> socket.socket:
    line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    line.bind((device, 0))
    line.settimeout(3)
    return line
