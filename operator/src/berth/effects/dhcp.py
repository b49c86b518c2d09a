"""DHCPv4 for one guest: a request's bytes and the guest's lease in, a reply's bytes out. Called by answers.py.

There is one client and one address, for ever: whoever asks with the guest's MAC gets it, everybody else gets silence.
The request is hostile input: it is read with bounds and never trusted about its own lengths.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from dataclasses import dataclass

_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_FOR_EVER = b"\xff\xff\xff\xff"
_SMALLEST = 300  # some clients drop what is shorter than BOOTP was
_DEFAULT_LIMIT, _LARGEST = 576 - 28, 1500 - 28
SERVER_PORT, CLIENT_PORT = 67, 68
BROADCAST = "255.255.255.255"
SERVER = ipaddress.IPv4Address("10.0.2.1")
"""The same wherever a guest is answered: its lease stays right when it moves to another node."""


class Kind(enum.IntEnum):
    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(enum.IntEnum):
    PAD = 0
    MASK = 1
    ROUTER = 3
    DNS = 6
    HOSTNAME = 12
    DOMAIN = 15
    MTU = 26
    REQUESTED = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    KIND = 53
    SERVER = 54
    MESSAGE = 56
    MAX_SIZE = 57
    CLIENT = 61
    SEARCH = 119
    END = 255


@dataclass(frozen=True, slots=True)
class Lease:
    """All that the guest is told. Without a router, or with somebody else's, the server goes by a name of its own."""

    mac: bytes
    address: ipaddress.IPv4Interface
    router: ipaddress.IPv4Address | None
    mtu: int
    hostname: str = ""
    dns: tuple[ipaddress.IPv4Address, ...] = ()
    search: tuple[str, ...] = ()
    server: ipaddress.IPv4Address = SERVER


@dataclass(frozen=True, slots=True)
class Reply:
    data: bytes
    destination: str


@dataclass(frozen=True, slots=True)
class Request:
    """What of a request matters."""

    xid: int
    seconds: int
    flags: int
    client_address: bytes
    mac: bytes
    options: dict[int, bytes]

    @property
    def kind(self) -> int:
        value = self.options.get(Option.KIND, b"")
        return value[0] if len(value) == 1 else 0


def parse(data: bytes) -> Request | None:
    """A well-formed BOOTP request over Ethernet, or None."""
    if len(data) < _FIXED.size:
        return None
    op, kind, length, _, xid, seconds, flags, client, _, _, _, hardware, _, _, cookie = _FIXED.unpack_from(data)
    if (op, kind, length, cookie) != (1, 1, 6, _COOKIE):
        return None
    return Request(xid, seconds, flags, client, hardware[:6], _parse_options(data[_FIXED.size :]))


def _parse_options(data: bytes) -> dict[int, bytes]:
    """Up to the end, or to the first option that claims more than there is; parts of a split option are joined."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != Option.END:
        if data[at] == Option.PAD:
            at += 1
            continue
        end = at + 2 + data[at + 1] if at + 1 < len(data) else len(data) + 1
        if end > len(data):
            break
        found[data[at]] = found.get(data[at], b"") + data[at + 2 : end]
        at = end
    return found


def answer(data: bytes, lease: Lease) -> Reply | None:
    """The reply to a request, or None where silence is right."""
    request = parse(data)
    if request is None or request.mac != lease.mac:
        return None
    match request.kind:
        case Kind.DISCOVER:
            return _reply(request, lease, Kind.OFFER)
        case Kind.REQUEST:
            return _answer_request(request, lease)
        case Kind.INFORM:
            return _reply(request, lease, Kind.ACK)
        case _:
            return None


def _answer_request(request: Request, lease: Lease) -> Reply | None:
    if request.options.get(Option.SERVER, lease.server.packed) != lease.server.packed:
        return None  # it chose another server's offer
    asked = request.options.get(Option.REQUESTED, request.client_address)
    return _reply(request, lease, Kind.ACK if asked == lease.address.ip.packed else Kind.NAK)


def _reply(request: Request, lease: Lease, kind: Kind) -> Reply:
    informs = request.kind == Kind.INFORM
    granted = bytes(4) if kind is Kind.NAK or informs else lease.address.ip.packed
    client = request.client_address if kind is Kind.ACK else bytes(4)
    fixed = _FIXED.pack(
        2, 1, 6, 0, request.xid, 0, request.flags, client, granted, bytes(4), bytes(4), request.mac, b"", b"", _COOKIE
    )  # fmt: skip
    options = _encode(_options(request, lease, kind), _limit(request) - len(fixed))
    return Reply((fixed + options).ljust(_SMALLEST, b"\0"), _destination(request, lease, kind))


def _destination(request: Request, lease: Lease, kind: Kind) -> str:
    """RFC 2131, 4.1. A NAK is broadcast: the client's address is wrong."""
    if kind is Kind.NAK or (request.flags & 0x8000 and not any(request.client_address)):
        return BROADCAST
    return str(lease.address.ip)  # also for a client address that is not ours: no reply goes anywhere else


def _limit(request: Request) -> int:
    asked = request.options.get(Option.MAX_SIZE, b"")
    limit = int.from_bytes(asked, "big") - 28 if len(asked) == 2 else _DEFAULT_LIMIT
    return min(max(limit, _DEFAULT_LIMIT), _LARGEST)


def _options(request: Request, lease: Lease, kind: Kind) -> list[tuple[Option, bytes]]:
    """The most important first: what does not fit is left out."""
    found = [(Option.KIND, bytes([kind])), (Option.SERVER, lease.server.packed)]
    if client := request.options.get(Option.CLIENT):
        found.append((Option.CLIENT, client))
    if kind is Kind.NAK:
        return [*found, (Option.MESSAGE, f"this machine's address is {lease.address.ip}".encode())]
    if request.kind != Kind.INFORM:
        found.append((Option.LEASE_TIME, _FOR_EVER))
    found += [
        (Option.MASK, lease.address.netmask.packed),
        (Option.ROUTER, lease.router.packed if lease.router else b""),
        (Option.MTU, lease.mtu.to_bytes(2, "big") if lease.mtu else b""),
        (Option.DNS, b"".join(server.packed for server in lease.dns)),
        (Option.HOSTNAME, lease.hostname.encode("ascii", "ignore")),
        (Option.DOMAIN, lease.search[0].rstrip(".").encode("ascii", "ignore") if lease.search else b""),
        (Option.SEARCH, encode_search(lease.search)),
    ]
    return [(code, value) for code, value in found if value]


def _encode(options: list[tuple[Option, bytes]], room: int) -> bytes:
    out = b""
    for code, value in options:
        parts = [value[i : i + 255] for i in range(0, len(value), 255)]
        encoded = b"".join(bytes([code, len(part)]) + part for part in parts)
        if len(out) + len(encoded) + 1 <= room:
            out += encoded
    return out + bytes([Option.END])


def encode_search(domains: tuple[str, ...]) -> bytes:
    """RFC 3397, without its compression; a domain that cannot be encoded is left out."""
    out = b""
    for domain in domains:
        labels = [label.encode("ascii", "ignore") for label in domain.rstrip(".").split(".")]
        if all(0 < len(label) < 64 for label in labels) and sum(len(label) + 1 for label in labels) < 255:
            out += b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return out
