"""DHCPv6 for one guest: a message's bytes and the guest's lease in, a reply's bytes out. Called by answers.py. Pure.

There is one client and one address, for ever. The message is hostile input: it is read with bounds, and what does not
conform to RFC 8415 (section 16) is met with silence.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from berth.effects import dhcp

SERVER_PORT: Final = 547
CLIENT_PORT: Final = 546
_FOR_EVER: Final = 0xFFFFFFFF
_MOST_ASSOCIATIONS: Final = 8
_LONGEST_ID: Final = 130  # of a client: 128 bytes and its type (section 11.1)
_ROOM: Final = 1280 - 40 - 8


class Kind(enum.IntEnum):
    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    INFORMATION = 11


class Option(enum.IntEnum):
    CLIENT = 1
    SERVER = 2
    ADDRESSES = 3  # IA_NA
    TEMPORARY = 4  # IA_TA
    ADDRESS = 5
    PREFERENCE = 7
    STATUS = 13
    RAPID_COMMIT = 14
    DNS = 23
    SEARCH = 24
    PREFIXES = 25  # IA_PD
    FQDN = 39


class Status(enum.IntEnum):
    SUCCESS = 0
    NO_ADDRESS = 2
    NOT_ON_LINK = 4
    NO_PREFIX = 6


@dataclass(frozen=True, slots=True)
class Lease:
    """All that the guest is told. ``server_mac`` names the server: the same wherever the guest is answered."""

    address: ipaddress.IPv6Address
    server_mac: bytes
    hostname: str = ""
    dns: tuple[ipaddress.IPv6Address, ...] = ()
    search: tuple[str, ...] = ()

    @property
    def server(self) -> bytes:
        return b"\x00\x03\x00\x01" + self.server_mac  # DUID-LL


@dataclass(frozen=True, slots=True)
class Message:
    kind: int
    transaction: bytes
    options: tuple[tuple[int, bytes], ...]

    def first(self, code: int) -> bytes | None:
        return next((value for known, value in self.options if known == code), None)

    def every(self, code: int) -> list[bytes]:
        return [value for known, value in self.options if known == code]


def parse(data: bytes) -> Message | None:
    """A message between client and server, or None."""
    if len(data) < 4:
        return None
    options = parse_options(data[4:])
    return Message(data[0], data[1:4], options) if options is not None else None


def parse_options(data: bytes) -> tuple[tuple[int, bytes], ...] | None:
    """None when one of them claims more than there is."""
    found = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            return None
        code, length = struct.unpack_from("!HH", data, at)
        if at + 4 + length > len(data):
            return None
        found.append((code, data[at + 4 : at + 4 + length]))
        at += 4 + length
    return tuple(found)


def answer(data: bytes, lease: Lease) -> bytes | None:
    """The reply to a message, or None where silence is right."""
    message = parse(data)
    if message is None or not _is_for_us(message, lease):
        return None
    match message.kind:
        case Kind.SOLICIT:
            rapid = message.first(Option.RAPID_COMMIT) is not None
            return _reply(Kind.REPLY if rapid else Kind.ADVERTISE, message, lease, _granted(message, lease))
        case Kind.REQUEST | Kind.RENEW | Kind.REBIND:
            return _reply(Kind.REPLY, message, lease, _granted(message, lease))
        case Kind.CONFIRM:
            return _confirm(message, lease)
        case Kind.RELEASE | Kind.DECLINE:
            return _reply(Kind.REPLY, message, lease, [_status(Status.SUCCESS, "noted; the address stays yours")])
        case Kind.INFORMATION:
            return _reply(Kind.REPLY, message, lease, [])
        case _:
            return None


def _is_for_us(message: Message, lease: Lease) -> bool:
    """Who must name the server and who must not, who must name itself (section 16)."""
    clients, servers = message.every(Option.CLIENT), message.every(Option.SERVER)
    if len(clients) > 1 or len(servers) > 1 or not all(0 < len(client) <= _LONGEST_ID for client in clients):
        return False
    match message.kind:
        case Kind.SOLICIT | Kind.CONFIRM | Kind.REBIND:
            return bool(clients) and not servers
        case Kind.REQUEST | Kind.RENEW | Kind.RELEASE | Kind.DECLINE:
            return bool(clients) and servers == [lease.server]
        case Kind.INFORMATION:
            asks = any(message.every(code) for code in (Option.ADDRESSES, Option.TEMPORARY, Option.PREFIXES))
            return servers in ([], [lease.server]) and not asks
        case _:
            return False


def _confirm(message: Message, lease: Lease) -> bytes | None:
    held = [address for value in message.every(Option.ADDRESSES) for address in _addresses(value, 12)]
    held += [address for value in message.every(Option.TEMPORARY) for address in _addresses(value, 4)]
    if not held:
        return None
    right = all(address == lease.address.packed for address in held)
    status = _status(Status.SUCCESS) if right else _status(Status.NOT_ON_LINK, f"your address is {lease.address}")
    return _reply(Kind.REPLY, message, lease, [status])


def _granted(message: Message, lease: Lease) -> list[bytes]:
    """The first association gets the address, whatever it asks for; others are told that there is no more."""
    found: list[bytes] = []
    left = True
    for code, value in message.options:
        if len(found) == _MOST_ASSOCIATIONS:
            break
        match code:
            case Option.ADDRESSES if len(value) >= 12:
                found.append(_association(value, lease) if left else _refused(code, value[:4], 8, Status.NO_ADDRESS))
                left = False
            case Option.TEMPORARY if len(value) >= 4:
                found.append(_refused(code, value[:4], 0, Status.NO_ADDRESS))
            case Option.PREFIXES if len(value) >= 12:
                found.append(_refused(code, value[:4], 8, Status.NO_PREFIX))
    return found


def _association(value: bytes, lease: Lease) -> bytes:
    wrong = [address for address in _addresses(value, 12) if address != lease.address.packed][:4]
    inner = [_address(lease.address.packed, _FOR_EVER), *(_address(address, 0) for address in wrong)]
    return _option(Option.ADDRESSES, value[:4] + struct.pack("!II", _FOR_EVER, _FOR_EVER) + b"".join(inner))


def _refused(code: int, identity: bytes, times: int, status: Status) -> bytes:
    return _option(code, identity + bytes(times) + _status(status, "there is no more than one address"))


def _addresses(value: bytes, head: int) -> Iterator[bytes]:
    """The addresses in an association."""
    for code, inner in parse_options(value[head:]) or ():
        if code == Option.ADDRESS and len(inner) >= 24:
            yield inner[:16]


def _address(packed: bytes, seconds: int) -> bytes:
    return _option(Option.ADDRESS, packed + struct.pack("!II", seconds, seconds))


def _reply(kind: Kind, message: Message, lease: Lease, parts: list[bytes]) -> bytes:
    """The most important first: what does not fit into the smallest packet is left out."""
    found = [_option(Option.SERVER, lease.server)]
    if (client := message.first(Option.CLIENT)) is not None:
        found.append(_option(Option.CLIENT, client))
    if message.kind == Kind.SOLICIT and kind is Kind.REPLY:
        found.append(_option(Option.RAPID_COMMIT, b""))
    if kind is Kind.ADVERTISE:
        found.append(_option(Option.PREFERENCE, b"\xff"))  # nobody else needs to be waited for
    found += [*parts, *_told(message, lease)]
    out = bytes([kind]) + message.transaction
    for option in found:
        if len(out) + len(option) <= _ROOM:
            out += option
    return out


def _told(message: Message, lease: Lease) -> Iterator[bytes]:
    if message.kind in (Kind.CONFIRM, Kind.RELEASE, Kind.DECLINE):
        return
    if lease.dns:
        yield _option(Option.DNS, b"".join(server.packed for server in lease.dns))
    if message.first(Option.FQDN) is not None and (name := lease.hostname.encode("ascii", "ignore")[:63]):
        yield _option(Option.FQDN, b"\x04" + bytes([len(name)]) + name)  # we update no DNS; a name without a domain
    if search := dhcp.encode_search(lease.search):
        yield _option(Option.SEARCH, search)


def _status(status: Status, text: str = "") -> bytes:
    return _option(Option.STATUS, struct.pack("!H", status) + text.encode())


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("!HH", code, len(value)) + value
