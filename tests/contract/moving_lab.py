"""A guest that moves from pod to pod: its kernel is one namespace all the while, joined to the tap of its berth.

A router stands for the cluster's network and its nodes; a client is behind it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from berth.api.handover import DoorOrder, Flow, Forward
from berth.api.order import NicOrder
from berth.effects import namespaces, netlink
from berth.effects.berths import NodeBerths
from berth.effects.network import NodeNetwork
from berth.effects.ports import Berth
from tests.contract import pods
from tests.contract.lan import GUEST_MAC, NICS, VM, new_namespace, open_tap, run

T = TypeVar("T")
CLIENT, CLIENT6 = "10.88.0.2", "fd88::2"
ROUTER, ROUTER6 = "10.88.0.1", "fd88::1"


@dataclass(slots=True)
class Stop:
    """One berth on the way, with an agent of its own."""

    number: int
    pod: pods.FakePod
    berth: Berth
    netns: int
    nics: Sequence[NicOrder] = NICS
    network: NodeNetwork = field(default_factory=NodeNetwork)
    doors: tuple[DoorOrder, ...] = ()
    changes: list[object] = field(default_factory=list)

    @property
    def ip(self) -> str:
        return f"10.77.{self.number}.5"

    @property
    def ip6(self) -> str:
        return f"fd77:{self.number}::5"

    def addresses(self) -> tuple[str, ...]:
        found = run(self.netns, "ip -o addr show dev eth0 scope global").splitlines()
        return tuple(line.split()[3].partition("/")[0] for line in found)

    def door(self) -> DoorOrder:
        return DoorOrder(number=self.number, node=f"n{self.number}", pod_uid=self.pod.uid, addresses=self.addresses())

    def forward(self, target: Stop, others: Iterable[Stop] = ()) -> Forward:
        more = tuple(address for other in others for address in other.addresses())
        return Forward(door=self.door(), node=f"n{target.number}", addresses=target.addresses(), others=more)

    def restart_agent(self) -> None:
        self.network = NodeNetwork()

    def attach(self, *, silent: bool = False) -> list[object]:
        self.changes.clear()
        self.network.on_change = lambda vm, change: self.changes.append(change)
        self.network.attach(VM, self.berth, self.nics, "web", doors=self.doors, silent=silent)
        return list(self.changes)

    def depart(self, target: Stop, others: Iterable[Stop] = ()) -> tuple[Flow, ...]:
        return self.network.depart(VM, self.berth, self.nics, self.forward(target, others))


Step = Callable[[list[Stop], Callable[[], object]], None]
"""How one step of a hand-over is done: by whose agents, and the work."""


def once(who: list[Stop], work: Callable[[], object]) -> None:
    work()


def killed_between(who: list[Stop], work: Callable[[], object]) -> None:
    """The agent does it, is killed, and does it again knowing nothing; before that and after it serves as agents do."""
    work()
    for stop in who:
        stop.restart_agent()
    work()
    for stop in who:
        stop.attach()


@dataclass(slots=True)
class Town:
    """``mtu`` of every link. ``guest`` is the namespace that plays the guest's kernel."""

    mtu: int = 1500
    router: int = field(default_factory=new_namespace)
    client: int = field(default_factory=new_namespace)
    guest: int = field(default_factory=new_namespace)
    stops: list[Stop] = field(default_factory=list)
    _inner: int = -1
    unread: int = 0
    _outer: int = -1
    _next: int = -1
    _left: int = -1
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _pump: threading.Thread | None = None
    _fds: list[int] = field(default_factory=list)

    def up(self) -> None:
        run(self.router, "ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward")
        run(self.router, "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
        fd = self.client
        run(self.router, f"ip link add c0 type veth peer name eth0; ip link set c0 mtu {self.mtu} up")
        namespaces.in_network(self.router, lambda: _move("eth0", fd))
        run(self.router, f"ip addr add {ROUTER}/24 dev c0; ip addr add {ROUTER6}/64 dev c0 nodad")
        run(fd, f"ip link set lo up; ip link set eth0 mtu {self.mtu} up; ip addr add {CLIENT}/24 dev eth0")
        run(fd, f"ip addr add {CLIENT6}/64 dev eth0 nodad; ip route add default via {ROUTER}")
        run(fd, f"ip -6 route add default via {ROUTER6}")
        self._inner = namespaces.in_network(self.guest, lambda: open_tap("enp0"))
        run(self.guest, f"ip link set lo up; ip link set enp0 address {GUEST_MAC} mtu {self.mtu} up")
        self._configure()

    def stop_at(self, pod: pods.FakePod, berths: NodeBerths, *, ipv4: bool = True, ipv6: bool = True) -> Stop:
        """One more pod, as a CNI plugin makes its network."""
        at = len(self.stops) + 1
        netns = os.open(f"/proc/{pod.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(netns)
        run(
            self.router,
            f"ip link add p{at} type veth peer name eth0 netns {pod.pid}; ip link set p{at} mtu {self.mtu} up",
        )
        run(
            netns,
            f"ip link set lo up; echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 mtu {self.mtu} up",
        )
        if ipv4:
            run(self.router, f"ip addr add 10.77.{at}.1/24 dev p{at}")
            run(netns, f"ip addr add 10.77.{at}.5/24 dev eth0; ip route add default via 10.77.{at}.1")
        if ipv6:
            run(self.router, f"ip addr add fd77:{at}::1/64 dev p{at} nodad")
            run(netns, f"ip addr add fd77:{at}::5/64 dev eth0 nodad; ip -6 route add default via fd77:{at}::1")
        berth = berths.find(pod.uid)
        assert berth is not None
        self.stops.append(Stop(at, pod, berth, netns))
        return self.stops[-1]

    def start(self, at: Stop) -> None:
        """The guest boots there."""
        self._plug(at)
        at.attach()
        self._pump = threading.Thread(target=self._run, daemon=True)
        self._pump.start()

    def _plug(self, at: Stop) -> None:
        tap = at.network.create_taps(VM, 0, at.nics)["default"]
        outer = open_tap(tap)
        with self._lock:
            if self._outer < 0:
                self._outer = outer
        self._next = outer

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                outer = self._outer
                if outer >= 0:
                    other = {outer: self._inner, self._inner: outer}
                    for fd in select.select([outer, self._inner], [], [], 0.002)[0]:
                        for _ in range(64):
                            try:
                                os.write(other[fd], os.read(fd, 65536))
                            except OSError:
                                break
            if outer < 0:
                time.sleep(0.0005)

    def expect(self, source: Stop, target: Stop, step: Step) -> None:
        """All that is done while the guest still runs."""
        target.doors = (*source.doors, source.door())
        self._plug(target)
        step([target], lambda: target.attach(silent=True))
        step([source], lambda: source.network.prepare_departure(VM, source.berth, source.forward(target, self.stops)))

    def pause(self) -> None:
        """QEMU reads and writes no frame any more."""
        with self._lock:
            self._left, self._outer = self._outer, -1

    def resume(self) -> None:
        """At the target; the source's QEMU is gone, and with it what it had not read yet."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._left, 65536):
                self.unread += 1
        with self._lock:
            self._outer = self._next
        os.close(self._left)

    def resume_here(self) -> None:
        with self._lock:
            self._outer = self._left
        os.close(self._next)

    def move(self, source: Stop, target: Stop, step: Step = once, *, lead_on: bool = True) -> float:
        """The whole hand-over; how long the guest stood still. ``lead_on``: earlier doors hear of it, too."""
        self.expect(source, target, step)
        start = time.monotonic()
        self.pause()
        flows: list[tuple[Flow, ...]] = []
        step([source], lambda: flows.append(source.depart(target, self.stops)))
        step([target], lambda: target.network.arrive(VM, target.berth, flows[-1]))
        step([target], lambda: target.network.announce(VM, target.berth, target.nics))
        self.resume()
        pause = time.monotonic() - start
        for stop in self.stops:
            if lead_on and any(door.pod_uid == stop.pod.uid for door in source.doors):
                step([stop], functools.partial(stop.depart, target, self.stops))
        return pause

    def in_guest_by_veth(self, at: Stop) -> None:
        """The guest's kernel gets a real cable in the place of its tap: for rates that no process slows down."""
        run(at.netns, "ip link del vm0")
        run(
            self.guest,
            f"ip link del enp0; ip link add vm0 type veth peer name enp0; ip link set enp0 mtu {self.mtu} up",
        )
        namespaces.in_network(self.guest, lambda: _move("vm0", at.netns))
        run(self.guest, f"ip link set enp0 address {GUEST_MAC}")
        at.attach()
        self._configure()

    def _configure(self) -> None:
        run(self.guest, "ip addr add 10.0.2.2/24 dev enp0; ip route add default via 10.0.2.1")
        run(
            self.guest, "ip addr add fd00:10:0:2::2/64 dev enp0 nodad; ip -6 route replace default via fe80::1 dev enp0"
        )

    def in_guest(self, work: Callable[[], T]) -> T:
        return namespaces.in_network(self.guest, work)

    def in_client(self, work: Callable[[], T]) -> T:
        return namespaces.in_network(self.client, work)

    def down(self) -> None:
        self._stop.set()
        if self._pump:
            self._pump.join()
        for stop in self.stops:
            stop.network.detach(VM)
        for fd in [*self._fds, self.router, self.client, self.guest, self._inner]:
            os.close(fd)


def _move(name: str, netns: int) -> None:
    index = netlink.index_of(name)
    assert index is not None
    netlink.move(index, netns, name)
