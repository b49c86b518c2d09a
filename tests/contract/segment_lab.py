"""Nodes and guests on segments: each node a network namespace with an address on a common underlay, each guest another
one behind the tap of a real berth, joined to it frame by frame as QEMU would."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from berth.api.order import NicKind, NicOrder, SegmentKind, SegmentMember, SegmentMembers, SegmentOrder
from berth.effects import frames, namespaces, wiring
from berth.effects.berths import NodeBerths
from berth.effects.network import NodeNetwork
from berth.effects.ports import Berth
from berth.effects.segment_devices import NodeSegments
from berth.effects.segments import Place
from tests.contract import pods
from tests.contract.lan import new_namespace, raw_socket, run

T = TypeVar("T")
OVERLAY = SegmentOrder(uid="7c1b3c0e-1c55-4d9e-9a3b-111111111111", name="lab/blue", kind=SegmentKind.OVERLAY, vni=100)
UNDERLAY_MTU = 1500
_OUT_OF_ORDER = 0.02
"""Seconds: what two CPUs handle may change places."""


@dataclass(slots=True)
class Node:
    """``address``: on the underlay. Everything of the agent's runs in its namespace."""

    name: str
    address: str
    space: Path
    netns: int = field(default_factory=new_namespace)
    network: NodeNetwork = field(default_factory=NodeNetwork)
    changes: list[wiring.Change] = field(default_factory=list)

    def start_agent(self) -> None:
        """A new agent: it knows nothing of what was before."""
        self.network = NodeNetwork(segments=NodeSegments(Place(self.name, self.address), self.space))
        self.network.on_change = lambda vm, change: self.changes.append(change)
        self.call(self.network.tidy)

    def call(self, work: Callable[[], T]) -> T:
        return namespaces.in_network(self.netns, work)

    def run(self, script: str) -> str:
        return run(self.netns, script)

    def in_space(self, script: str) -> str:
        """In the namespace of this node's segments."""
        fd = os.open(self.space, os.O_RDONLY)
        try:
            return run(fd, script)
        finally:
            os.close(fd)

    def tell(self, *guests: Guest, version: int = 1, order: SegmentOrder = OVERLAY) -> None:
        """Which members there are, as the controller tells."""
        members = SegmentMembers(segment=order, version=version, members=tuple(guest.member() for guest in guests))
        self.call(lambda: self.network.set_members(members))


@dataclass(slots=True)
class Guest:
    """One machine with one NIC on a segment."""

    node: Node
    pod: pods.FakePod
    berth: Berth
    number: int
    nic: NicOrder
    others: tuple[NicOrder, ...] = ()
    kernel: int = field(default_factory=new_namespace)
    _stop: threading.Event = field(default_factory=threading.Event)
    _pumps: list[threading.Thread] = field(default_factory=list)
    _fds: list[int] = field(default_factory=list)

    @property
    def uid(self) -> str:
        return f"6f5ffeef-839c-4c00-8437-{self.number:012d}"

    @property
    def netns(self) -> int:
        fd = os.open(f"/proc/{self.pod.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        return fd

    def member(self) -> SegmentMember:
        found = tuple(address.partition("/")[0] for address in self.nic.addresses)
        return SegmentMember(mac=self.nic.mac, addresses=found, node=self.node.name, node_address=self.node.address)

    def start(self, *, offloads: bool = False) -> Guest:
        """What the agent does when a machine starts, and the guest's kernel."""
        network = self.node.network
        nics = [self.nic, *self.others]
        taps = self.node.call(lambda: network.create_taps(self.uid, 0, nics))
        for at, nic in enumerate(nics):
            self._plug(taps[nic.name], f"enp{at}", nic.mac, offloads=offloads)
        self.attach()
        return self

    def attach(self) -> list[wiring.Change]:
        """What this attach changed."""
        self.node.changes.clear()
        nics = [self.nic, *self.others]
        self.node.call(lambda: self.node.network.attach(self.uid, self.berth, nics, "guest"))
        return list(self.node.changes)

    def stop(self) -> None:
        self.node.call(lambda: self.node.network.detach(self.uid))
        self._stop.set()
        for pump in self._pumps:
            pump.join()
        for fd in self._fds:
            os.close(fd)
        self._fds, self._pumps = [], []

    def close(self) -> None:
        self.stop()
        os.close(self.kernel)

    def configure(self) -> None:
        """Static addresses, as a guest without DHCP has them."""
        self.run("ip link set lo up")
        for address in self.nic.addresses:
            self.run(f"ip addr add {address} dev enp0" + (" nodad" if ":" in address else ""))

    def run(self, script: str) -> str:
        return run(self.kernel, script)

    def inside(self, work: Callable[[], T]) -> T:
        return namespaces.in_network(self.kernel, work)

    def wire_pod(self) -> Guest:
        """The pod's own network, as a CNI plugin makes it: 10.77.N.5 and fd77:N::5, the node is N.1."""
        node, pod, at = self.node.netns, self.pod.pid, self.number
        run(node, f"ip link add p{at} type veth peer name eth0 netns {pod}; ip link set p{at} up")
        run(node, f"ip addr add 10.77.{at}.1/24 dev p{at}; ip addr add fd77:{at}::1/64 dev p{at} nodad")
        run(self.netns, "ip link set lo up; echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 up")
        run(self.netns, f"ip addr add 10.77.{at}.5/24 dev eth0")
        run(self.netns, f"ip addr add fd77:{at}::5/64 dev eth0 nodad; ip route add default via 10.77.{at}.1")
        run(self.netns, f"ip -6 route add default via fd77:{at}::1")
        return self

    def address(self, version: int = 4) -> str:
        return next(a.partition("/")[0] for a in self.nic.addresses if (":" in a) == (version == 6))

    def hears(self, wanted: Callable[[bytes], object], work: Callable[[], object], seconds: float = 0.4) -> list[bytes]:
        """The frames of that kind that reach this guest while work is done, and a little longer."""
        with self._ear() as line:
            work()
            line.settimeout(seconds)
            return [frame for frame in iter(lambda: _next(line), b"") if wanted(frame)]

    def hears_until(self, last: bytes, work: Callable[[], object], seconds: float = 20) -> list[bytes]:
        """The frames that reach this guest while work is done, and until that last one has."""
        with self._ear() as line:
            work()
            line.settimeout(seconds)
            found = []
            while (frame := _next(line)) != last:
                assert frame, f"not heard within {seconds} s: {last!r}"
                found.append(frame)
            line.settimeout(_OUT_OF_ORDER)
            return [*found, *iter(lambda: _next(line), b"")]

    @contextlib.contextmanager
    def _ear(self) -> Iterator[socket.socket]:
        with self.line() as line:
            line.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: it sees what is sent, too
            line.setsockopt(263, 8, 1)  # PACKET_AUXDATA: tags
            yield line

    def pings(self, address: str, *, size: int = 56, seconds: float = 2.0) -> bool:
        """Whether an answer comes in time; asked again every now and then, as ping does."""
        return self.inside(lambda: ping(address, size, seconds))

    def line(self, device: str = "enp0") -> socket.socket:
        """Whole frames, to and from the cable."""
        return self.inside(lambda: raw_socket(device))

    def send(self, *frames: bytes) -> None:
        with self.line() as line:
            for frame in frames:
                line.send(frame)

    def _plug(self, tap: str, device: str, mac: str, *, offloads: bool) -> None:
        outer = self.node.call(lambda: _open(tap, offloads=offloads))
        inner = self.inside(lambda: _open(device, offloads=offloads))
        self._fds += [outer, inner]
        self.run(f"ip link set lo up; ip link set {device} address {mac} mtu 1400 up")
        for source, target in ((outer, inner), (inner, outer)):
            pump = threading.Thread(target=self._pump, args=(source, target), daemon=True)
            self._pumps.append(pump)
            pump.start()

    def _pump(self, source: int, target: int) -> None:
        while not self._stop.is_set():
            if select.select([source], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    os.write(target, os.read(source, 70000))


def _open(name: str, *, offloads: bool) -> int:
    """A tap as QEMU opens it; with offloads packets are as large and as unfinished as virtio's are."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x5002 if offloads else 0x1002))
    if offloads:
        fcntl.ioctl(fd, 0x400454D0, 1 | 2 | 4)
    return fd


@dataclass(slots=True)
class Lab:
    start_pod: Callable[..., pods.FakePod]
    berths: NodeBerths
    folder: Path
    underlay: int = field(default_factory=new_namespace)
    nodes: list[Node] = field(default_factory=list)
    guests: list[Guest] = field(default_factory=list)

    def node(self, version: int = 4) -> Node:
        """One more on the underlay, with an address of that family."""
        if not self.nodes:
            run(self.underlay, f"ip link add name under0 mtu {UNDERLAY_MTU} type bridge; ip link set under0 up")
        at = len(self.nodes) + 1
        address = f"192.0.2.{at}" if version == 4 else f"2001:db8::{at}"
        node = Node(f"node{at}", address, self.folder / f"segments{at}")
        with _pid_of(node.netns) as path:
            run(
                self.underlay,
                f"ip link add u{at} type veth peer name eth0 netns {path}; ip link set u{at} master under0 up",
            )
        more = " nodad" if version == 6 else ""
        node.run(
            f"ip link set lo up; ip link set eth0 up; ip addr add {address}/{24 if version == 4 else 64} dev eth0{more}"
        )
        node.run("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
        node.start_agent()
        self.nodes.append(node)
        return node

    def guest(self, node: Node, order: SegmentOrder = OVERLAY, number: int = 0, **words: object) -> Guest:
        """Not started yet."""
        at = number or len(self.guests) + 1
        pod = self.start_pod()
        berth = self.berths.find(pod.uid)
        assert berth is not None
        v4, v6 = f"10.9.0.{at + 10}/24", f"fd00:9::{at + 10:x}/64"
        given: dict[str, object] = {"kind": NicKind.SEGMENT, "segment": order, "addresses": (v4, v6), **words}
        nic = NicOrder(name="lan", mac=f"52:54:00:09:00:{at:02x}", **given)  # type: ignore[arg-type]
        guest = Guest(node, pod, berth, at, nic)
        self.guests.append(guest)
        return guest

    def close(self) -> None:
        for guest in self.guests:
            guest.close()
        for node in self.nodes:
            if node.space.exists():
                with contextlib.suppress(OSError):
                    run(node.netns, f"umount {node.space}")
            os.close(node.netns)
        os.close(self.underlay)


def up(lab: Lab, *nodes: Node, order: SegmentOrder = OVERLAY) -> list[Guest]:
    """A guest on each node, known to each other."""
    guests = [lab.guest(node, order).start() for node in nodes]
    for node in {node.name: node for node in nodes}.values():
        node.tell(*guests, order=order)
    for guest in guests:
        guest.configure()
    return guests


@contextlib.contextmanager
def _pid_of(netns: int) -> Iterator[str]:
    """A name of the namespace that `ip link` takes."""
    yield f"/proc/{os.getpid()}/fd/{netns}"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _next(line: socket.socket) -> bytes:
    """The next frame that came in, with its tag; nothing when there is none in time."""
    try:
        while True:
            frame, told, _, (_, _, kind, *_) = line.recvmsg(70000, 64)
            if kind != socket.PACKET_OUTGOING:
                return _with_tag(frame, told)
    except TimeoutError:
        return b""


def _with_tag(frame: bytes, told: list[tuple[int, int, bytes]]) -> bytes:
    """The kernel takes an outer 802.1Q tag out of a frame before anybody reads it."""
    for _, _, data in told:
        status, _, _, _, _, tag, kind = struct.unpack("=IIIHHHH", data[:20])
        if status & 0x10:
            return frame[:12] + struct.pack("!HH", kind if status & 0x40 else 0x8100, tag) + frame[12:]
    return frame


def ping(address: str, size: int, seconds: float) -> bool:
    """From here; packets are not taken to pieces."""
    v6 = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    ask, answer = (128, 129) if v6 else (8, 0)
    body = struct.pack("!BBHHH", ask, 0, 0, 77, 1) + bytes(size)
    if not v6:
        body = body[:2] + frames.checksum(body).to_bytes(2, "big") + body[4:]
    deadline = time.monotonic() + seconds
    with socket.socket(family, socket.SOCK_RAW, protocol) as line:
        line.setsockopt(*((socket.IPPROTO_IPV6, 23, 2) if v6 else (socket.IPPROTO_IP, 10, 2)))
        line.settimeout(0.25)
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                line.sendto(body, (address, 0))
                while True:
                    got, (sender, *_) = line.recvfrom(70000)
                    if sender == address.partition("%")[0] and got[0 if v6 else 20] == answer:
                        return True
    return False
