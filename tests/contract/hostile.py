"""A guest that sends what no kernel would: frames made by hand, written straight to its NIC, and who hears them.

Nothing is waited for that must not come: each play ends with a datagram that may pass, on the same way, and what was
heard before it is what there was to hear.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from berth.effects import frames, wiring
from tests.contract import lan as lans
from tests.contract import pods
from tests.contract.lan import GUEST_MAC, NODE_IP, NODE_IP6, POD_IP, POD_IP6, Bench, ask, serve

MAC = bytes.fromhex(GUEST_MAC.replace(":", ""))
GATEWAY_MAC = bytes.fromhex(wiring.GATEWAY_MAC.replace(":", ""))
OTHER_MAC = bytes.fromhex("5254009999aa")
EVERYBODY = b"\xff" * 6
GUEST, GATEWAY = "10.0.2.2", "10.0.2.1"
GUEST6, GATEWAY6, ROUTER6 = "fd00:10:0:2::2", "fd00:10:0:2::1", "fe80::1"
LINK_LOCAL = "fe80::5054:ff:fe12:3456"
_MARKER_PORT = 5999
_OUTGOING = 4


def ethernet(kind: int, payload: bytes, to: bytes = GATEWAY_MAC, by: bytes = MAC) -> bytes:
    return to + by + kind.to_bytes(2, "big") + payload


def ip4(
    target: str, payload: bytes, source: str = GUEST, protocol: int = 17, fragment: int = 0, options: bytes = b"",
    identity: int = 1,
) -> bytes:  # fmt: skip
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), identity, fragment, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(target)) + options  # fmt: skip
    return head[:10] + frames.checksum(head).to_bytes(2, "big") + head[12:] + payload


def ip6(target: str, payload: bytes, source: str = GUEST6, protocol: int = 17, hops: int = 64) -> bytes:
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(target).packed
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + addresses + payload


def udp(data: bytes, ports: tuple[int, int] = (5000, 5001)) -> bytes:
    """Without a checksum: for IPv4 only."""
    return struct.pack("!HHHH", *ports, 8 + len(data), 0) + data


def udp6(source: str, target: str, data: bytes, ports: tuple[int, int] = (5000, 5001)) -> bytes:
    """The UDP part alone, to be put behind whatever headers."""
    return frames.udp6((MAC, MAC), _pair(source, target), ports, data)[54:]


def icmp6(source: str, target: str, message: bytes) -> bytes:
    """The ICMPv6 part alone; ``message`` has zeros for its checksum."""
    return frames.icmpv6((MAC, MAC), _pair(source, target), message)[54:]


def _pair(source: str, target: str) -> tuple[ipaddress.IPv6Address, ipaddress.IPv6Address]:
    return ipaddress.IPv6Address(source), ipaddress.IPv6Address(target)


def to_node(data: bytes, source: str = GUEST, **more: bytes) -> bytes:
    return ethernet(0x0800, ip4(NODE_IP, udp(data), source), **more)


def to_node6(data: bytes, source: str = GUEST6, **more: bytes) -> bytes:
    return ethernet(0x86DD, ip6(NODE_IP6, udp6(source, NODE_IP6, data), source), **more)


def multicast6(target: str, payload: bytes, source: str, protocol: int = 58, hops: int = 255) -> bytes:
    to = frames.multicast_mac(ipaddress.IPv6Address(target))
    return ethernet(0x86DD, ip6(target, payload, source, protocol, hops), to=to)


def arp(operation: int, sender: tuple[bytes, str], target: tuple[bytes, str], to: bytes = EVERYBODY) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    body += sender[0] + socket.inet_aton(sender[1]) + target[0] + socket.inet_aton(target[1])
    return ethernet(0x0806, body, to=to)


def advertisement(target: str, lladdr: bytes, flags: int = 0xA0) -> bytes:
    """A neighbour advertisement."""
    return struct.pack("!BBHI16sBB6s", 136, 0, 0, flags << 24, ipaddress.IPv6Address(target).packed, 2, 1, lladdr)


def solicitation(target: str, lladdr: bytes) -> bytes:
    """A neighbour solicitation."""
    return struct.pack("!BBHI16sBB6s", 135, 0, 0, 0, ipaddress.IPv6Address(target).packed, 1, 1, lladdr)


@dataclass(slots=True)
class Stage:
    """A running guest with both families; the node beside its pod listens."""

    bench: Bench
    node: socket.socket
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def send(self, *sent: bytes) -> None:
        for frame in sent:
            os.write(self.bench.lan.wire, frame)

    def play(self, *sent: bytes) -> list[bytes]:
        """Send them; the frames that the node heard of the pod, but for what the pod itself asks of its neighbours."""
        self.send(*sent)
        marker = f"marker {next(self._numbers)}".encode()
        self.send(ethernet(0x0800, ip4(NODE_IP, udp(marker, (5998, _MARKER_PORT)))))
        heard = []
        while True:
            frame, (_, _, kind, _, _) = self.node.recvfrom(65536)
            if frame.endswith(marker):
                return heard
            if kind != _OUTGOING and not _is_the_pods_own(frame):
                heard.append(frame)

    def neighbours(self) -> list[str]:
        """What the berth believes of the guest's side."""
        told = lans.run(self.bench.lan.netns, "ip neigh show dev vm0")
        return sorted(line.strip() for line in told.splitlines())

    def works(self) -> None:
        """Who may talk still does: in and out, both families."""
        lan = self.bench.lan
        for anywhere, node, pod in (("0.0.0.0", NODE_IP, POD_IP), ("::", NODE_IP6, POD_IP6)):
            port = 8000 + next(self._numbers)  # each its own: a server's last accept keeps the port for a while
            with lan.in_guest(partial(serve, anywhere, port)):
                assert lan.in_node(partial(ask, pod, port)) == node.encode()
            with lan.in_node(partial(serve, node, port)):
                assert lan.in_guest(partial(ask, node, port)) == pod.encode()


def _is_the_pods_own(frame: bytes) -> bool:
    """ARP and neighbour discovery for the pod's own addresses, its multicast reports; the end of a TCP connection."""
    if frame[12:14] == b"\x08\x06":
        return frame[28:32] == socket.inet_aton(POD_IP)
    if frame[12:14] == b"\x08\x00":
        return frame[23] == 6
    if frame[12:14] != b"\x86\xdd":
        return False
    source = ipaddress.IPv6Address(frame[22:38])
    kind = frame[62] if frame[20] == 0 else frame[54] if frame[20] == 58 else 0
    own = str(source) != LINK_LOCAL and (source.is_link_local or source.is_unspecified or str(source) == POD_IP6)
    return frame[20] == 6 or (kind in (133, 135, 136, 143) and own)


def no_address_is_new(netns: int) -> bool:
    """Whether the kernel is done with looking for duplicates."""
    return "tentative" not in lans.run(netns, "ip -6 addr")


@contextmanager
def stage(bench: Bench) -> Iterator[Stage]:
    lan = bench.lan
    lan.up()
    lan.up6()
    bench.start()
    lan.configure()
    lan.configure6()
    for netns in (lan.netns, lan.node, lan.guest):
        pods.until(partial(no_address_is_new, netns), what="addresses that are nobody else's")

    def listen() -> socket.socket:
        line = lans.raw_socket("veth0")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        return line

    with lan.in_node(listen) as node:
        made = Stage(bench, node)
        made.works()
        yield made


def find(start_pod: Callable[..., pods.FakePod], berths: object) -> Bench:
    pod = start_pod()
    berth = berths.find(pod.uid)  # type: ignore[attr-defined]
    assert berth is not None
    return Bench(lans.Lan(pod), berth)
