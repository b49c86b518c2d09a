"""Two nodes with a narrow link between them, guests that change their memory at a given rate, and clients that watch
their streams. Used by migration_runs.py and, for its guests, suspend_runs.py, in the agent image's root file system.

The nodes are the contract tests' own: real agents, libvirts and QEMUs in namespaces. A guest's streams do not go over
the link that its memory goes over: what is seen of them is the hand-over, not the queue in front of the link.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import libvirt

from berth.effects import libvirt_link, namespaces, netlink
from testbed import guests
from tests.contract import lan, pods
from tests.contract.two_nodes import Node

CLIENT, GATEWAY = "10.88.0.2", "10.88.0.1"
ECHO, SHELL = 7001, 7002
TICK: Final = 0.005
"""Seconds between two bytes of a watched stream."""


def furnish(pod: pods.FakePod) -> None:
    """The tiny guest's files, as its image would be mounted."""
    boot = pod.root / "berth/images/kernel/boot"
    boot.mkdir(parents=True)
    for file in guests.tiny_files():
        shutil.copy(file, boot / file.name)


def dial(host: str, port: int) -> socket.socket:
    line = socket.create_connection((host, port), 10)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def shape(node: Node, megabits: int) -> None:
    """What comes to the node is as slow as that."""
    words = ("tbf", "rate", f"{megabits}mbit", "burst", "64kb", "latency", "40ms")
    subprocess.run(["tc", "qdisc", "replace", "dev", f"v{node.name}", "root", *words], check=True)


@dataclass
class Street:
    """What stands for the cluster's network: a router with every pod's eth0 behind it, and a client."""

    router: int = field(default_factory=lan.new_namespace)
    client: int = field(default_factory=lan.new_namespace)
    count: int = 0

    def __post_init__(self) -> None:
        lan.run(self.router, "ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward")
        self._cable(self.client, "c0", GATEWAY, CLIENT)

    def house(self, pod: pods.FakePod) -> str:
        """The pod gets an address."""
        self.count += 1
        address = f"10.77.{self.count}.5"
        netns = os.open(f"/proc/{pod.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._cable(netns, f"p{self.count}", f"10.77.{self.count}.1", address)
        finally:
            os.close(netns)
        return address

    def _cable(self, netns: int, name: str, here: str, there: str) -> None:
        lan.run(self.router, f"ip link add {name} type veth peer name eth0; ip addr add {here}/24 dev {name}")
        lan.run(self.router, f"ip link set {name} up")
        namespaces.in_network(self.router, lambda: _move("eth0", netns))
        lan.run(netns, f"ip link set lo up; ip addr add {there}/24 dev eth0; ip link set eth0 up")
        lan.run(netns, f"ip route add default via {here}")

    def enter(self, work: Callable[[], socket.socket]) -> socket.socket:
        return namespaces.in_network(self.client, work)


def _move(name: str, netns: int) -> None:
    index = netlink.index_of(name)
    assert index is not None
    netlink.move(index, netns, name)


@dataclass
class Guest:
    """A guest as its clients see it. ``dial`` opens a connection to a port of it, wherever it is."""

    dial: Callable[[int], socket.socket]

    def up(self, seconds: float = 120) -> None:
        pods.until(self._answers, seconds, "the guest's answer")

    def shell(self, command: str) -> str:
        with self.dial(SHELL) as line:
            line.settimeout(30)
            text = base64.b64encode(command.encode()).decode()
            line.sendall(f"echo {text} | base64 -d | sh\n".encode())
            said = b""
            while got := line.recv(65536):
                said += got
        return said.decode()

    @contextlib.contextmanager
    def dirtied(self, kib_per_second: int, set_kib: int) -> Iterator[None]:
        """It changes so much of its memory meanwhile."""
        if not kib_per_second:
            yield
            return
        self.shell(f"dirty {set_kib} {kib_per_second} >/dirty.log 2>&1 </dev/null & echo $! >/dirty.pid")
        pods.until(lambda: "begins" in self.shell("cat /dirty.log"), 60, "the guest's load")
        try:
            yield
        finally:
            self.shell("kill $(cat /dirty.pid)")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), self.dial(ECHO) as line:
            line.sendall(b"x")
            return line.recv(1) == b"x"
        return False


@dataclass
class Watch:
    """A TCP stream through the guest and back, a byte each few milliseconds: its largest gap."""

    line: socket.socket
    gap: float = 0.0
    _sent: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self.line.settimeout(30)
        for work in (self._send, self._receive):
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._threads[0].join()
        self.line.shutdown(socket.SHUT_WR)
        self._threads[1].join()
        self.line.close()

    def _send(self) -> None:
        while not self._over.wait(TICK):
            self.line.sendall(b"x")
            self._sent += 1

    def _receive(self) -> None:
        last, got = time.monotonic(), 0
        while data := self.line.recv(4096):
            now = time.monotonic()
            self.gap, last, got = max(self.gap, now - last), now, got + len(data)
        assert got == self._sent, f"{self._sent} bytes went through the guest, {got} came back"


@dataclass
class Clock:
    """When guests were stopped and went on, by the events of both libvirts, all read by one clock."""

    nodes: dict[str, int]  # a process of each
    events: list[tuple[float, str, str, int, int]] = field(default_factory=list)
    connections: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        libvirt_link._ensure_loop()
        self.connect()

    def connect(self) -> None:
        for name, pid in self.nodes.items():
            path = f"/proc/{pid}/root/run/libvirt/libvirt-sock"
            found = self.connections[name] = libvirt.open(f"qemu+unix:///system?socket={path}")
            found.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._take, name)

    def _take(self, _connection: Any, domain: Any, event: int, detail: int, name: str) -> None:
        self.events.append((time.monotonic(), name, domain.UUIDString(), event, detail))

    def arrived(self, uid: str, source: str, target: str, since: float, seconds: float = 300) -> tuple[float, float]:
        """Wait for it: how long it took since then, and how long the guest stood still."""
        pods.until(lambda: self.at(target, uid, since, libvirt.VIR_DOMAIN_EVENT_RESUMED), seconds, f"{uid} on {target}")
        went_on = self.at(target, uid, since, libvirt.VIR_DOMAIN_EVENT_RESUMED)[-1]
        migrated = libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED  # there are more of them when QEMU is killed
        stood = self.at(source, uid, since, libvirt.VIR_DOMAIN_EVENT_SUSPENDED, migrated)
        return went_on - since, went_on - stood[-1]

    def at(self, name: str, uid: str, since: float, kind: int, detail: int | None = None) -> list[float]:
        """When that has happened to it there."""
        return [
            when
            for when, *what, why in list(self.events)
            if when > since and what == [name, uid, kind] and detail in (None, why)
        ]
