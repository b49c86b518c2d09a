"""The kernel's connections, as those of a guest: read, told to another kernel, forgotten by mark. By doorways.py.

Works in the calling thread's network namespace. A connection is told as the guest sees it (api/handover.py's Flow):
behind which address of the pod's it hides is the berth's business, through whose door it goes is said by its mark.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from berth.api.handover import Flow
from berth.effects.rtnetlink import NetlinkError, Route
from berth.effects.rtwords import CREATE, attribute, attributes

_NETLINK_NETFILTER: Final = 12
_NEW, _GET, _DELETE = 0x100, 0x101, 0x102  # of the connection tracking subsystem
_EXCLUSIVE, _NESTED = 0x200, 0x8000
_ORIG, _REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _MARK, _MARK_MASK = 1, 2, 3, 4, 7, 8, 21
_IP, _PROTO, _NUMBER, _SPORT, _DPORT = 1, 2, 1, 2, 3
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # of IPv4 and IPv6
_TCP_INFO, _TCP_STATE, _TCP_FLAGS = 1, 1, (4, 5)
_LIBERAL: Final = b"\x08\x08"
"""It need not know the window: the packets before this kernel's first one went elsewhere."""
_ANSWERED, _ASSURED, _CONFIRMED = 2, 4, 8
_ECHO: Final = {1: (8, 0), 58: (128, 129)}  # types of request and reply
_ECHO_WORDS: Final = {1: (4, 5, 6), 58: (7, 8, 9)}  # identifier, type, code
TCP, _UDP, _UDP_LITE = 6, 17, 136
_CARRIED: Final = frozenset((TCP, _UDP, _UDP_LITE, *_ECHO))
_TIME_WAIT, _CLOSE = 7, 8

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Ends:
    source: Address
    target: Address
    protocol: int
    source_port: int  # of an echo: its identifier
    target_port: int


@dataclass(frozen=True, slots=True)
class Connection:
    """``begun`` as its first packet came, ``answer`` as what answers it leaves the guest's side."""

    begun: Ends
    answer: Ends
    mark: int
    status: int
    seconds: int
    state: int = 0

    def flow(self, guests: Iterable[Address], door: int) -> Flow | None:
        """None when no end of it is one of these."""
        for ends, outgoing in ((self.begun, True), (self.answer, False)):
            if ends.source in guests:
                return Flow(
                    door=door,
                    protocol=ends.protocol,
                    guest=str(ends.source),
                    guest_port=ends.source_port,
                    peer=str(ends.target),
                    peer_port=ends.target_port,
                    outgoing=outgoing,
                    state=self.state,
                    status=self.status & (_ANSWERED | _ASSURED),
                    seconds=self.seconds,
                )
        return None


def is_open(flow: Flow) -> bool:
    """Whether its ends may still have something to say."""
    return flow.protocol != TCP or flow.state not in (_TIME_WAIT, _CLOSE)


class Conntrack(Route):
    """One socket; use it in a ``with`` block."""

    FAMILY = _NETLINK_NETFILTER

    def of(self, guests: Iterable[Address]) -> list[Connection]:
        """Those that some of these addresses take part in."""
        needles = [guest.packed for guest in guests]
        bodies = self._dump(_GET, _head(socket.AF_UNSPEC))
        found = (_connection(body) for body in bodies if any(needle in body for needle in needles))
        return [one for one in found if one is not None]

    def add(self, flow: Flow, mark: int) -> bool:
        """False when there is one between these ends already; that keeps its mark."""
        try:
            self._ask(_NEW, _told(flow, mark), CREATE | _EXCLUSIVE)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise
            return False
        return True

    def forget(self, mark: int) -> None:
        """All that have this mark."""
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _head(family) + attribute(_MARK, struct.pack("!I", mark))
            self._ask(_DELETE, body + attribute(_MARK_MASK, b"\xff" * 4))


def _head(family: int) -> bytes:
    return struct.pack("!BBH", family, 0, 0)


def _connection(body: bytes) -> Connection | None:
    have = attributes(body[4:])
    begun, answer = _ends(have.get(_ORIG, b"")), _ends(have.get(_REPLY, b""))
    if begun is None or answer is None:
        return None
    tcp = attributes(attributes(have.get(_PROTOINFO, b"")).get(_TCP_INFO, b""))
    numbers = (int.from_bytes(have.get(kind, b""), "big") for kind in (_MARK, _STATUS, _TIMEOUT))
    mark, status, seconds = numbers
    return Connection(begun, answer, mark, status, seconds, tcp.get(_TCP_STATE, b"\0")[0])


def _ends(data: bytes) -> Ends | None:
    """None for a protocol that no other kernel is told of."""
    have = attributes(data)
    addresses, proto = attributes(have.get(_IP, b"")), attributes(have.get(_PROTO, b""))
    protocol = proto.get(_NUMBER, b"\0")[0]
    source = next((addresses[kind] for kind in _SOURCES if kind in addresses), b"")
    target = next((addresses[kind] for kind in _DESTINATIONS if kind in addresses), b"")
    if protocol not in _CARRIED or not source or not target:
        return None
    first, second = (proto.get(kind, b"") for kind in (_SPORT, _DPORT))
    if protocol in _ECHO:
        identifier, kind, _ = _ECHO_WORDS[protocol]
        if proto.get(kind, b"\xff")[0] not in _ECHO[protocol]:
            return None
        first, second = proto.get(identifier, b""), b""
    ports = int.from_bytes(first, "big"), int.from_bytes(second, "big")
    return Ends(ipaddress.ip_address(source), ipaddress.ip_address(target), protocol, *ports)


def _told(flow: Flow, mark: int) -> bytes:
    guest, peer = ipaddress.ip_address(flow.guest), ipaddress.ip_address(flow.peer)
    family = socket.AF_INET if guest.version == 4 else socket.AF_INET6
    ours, theirs = (guest, flow.guest_port), (peer, flow.peer_port)
    first, last = (ours, theirs) if flow.outgoing else (theirs, ours)
    body = _head(family) + _tuple(_ORIG, flow.protocol, first, last, answer=False)
    body += _tuple(_REPLY, flow.protocol, last, first, answer=True)
    body += attribute(_STATUS, struct.pack("!I", flow.status & (_ANSWERED | _ASSURED) | _CONFIRMED))
    body += attribute(_TIMEOUT, struct.pack("!I", max(flow.seconds, 1))) + attribute(_MARK, struct.pack("!I", mark))
    if flow.protocol == TCP:
        info = attribute(_TCP_STATE, bytes([flow.state])) + b"".join(attribute(kind, _LIBERAL) for kind in _TCP_FLAGS)
        body += _nested(_PROTOINFO, _nested(_TCP_INFO, info))
    return body


def _tuple(kind: int, protocol: int, first: tuple[Address, int], last: tuple[Address, int], *, answer: bool) -> bytes:
    at = 0 if first[0].version == 4 else 1
    addresses = attribute(_SOURCES[at], first[0].packed) + attribute(_DESTINATIONS[at], last[0].packed)
    proto = attribute(_NUMBER, bytes([protocol]))
    if protocol in _ECHO:
        identifier, of, code = _ECHO_WORDS[protocol]
        proto += attribute(identifier, struct.pack("!H", first[1] or last[1]))
        proto += attribute(of, bytes([_ECHO[protocol][answer]])) + attribute(code, b"\0")
    else:
        proto += attribute(_SPORT, struct.pack("!H", first[1])) + attribute(_DPORT, struct.pack("!H", last[1]))
    return _nested(kind, _nested(_IP, addresses) + _nested(_PROTO, proto))


def _nested(kind: int, value: bytes) -> bytes:
    return attribute(kind | _NESTED, value)
