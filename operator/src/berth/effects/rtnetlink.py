"""The kernel's route netlink, as much of it as a berth takes: links, addresses, neighbours, qdiscs, read and set.

Called by netlink.py and shaping.py. A socket works in the network namespace of the thread that opened it. It is written
here because the general library costs every agent eleven megabytes and each start some twenty milliseconds.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWNEIGH, _GETNEIGH = 28, 30
_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _REPLACE, _CREATE, _DUMP_INTERRUPTED = 0x1, 0x4, 0x300, 0x100, 0x400, 0x10
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_NET_NS_FD = 1, 3, 4, 28
_IFA_ADDRESS, _IFA_LOCAL, _NDA_DST, _NDA_LLADDR = 1, 2, 1, 2
_TCA_KIND, _TCA_OPTIONS, _TC_ROOT = 1, 2, 0xFFFFFFFF
_IFF_UP: Final = 1
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_IFINFO: Final = struct.Struct("=BxHiII")  # family, type, index, flags, which flags change
_IFADDR: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_IFA_NO_DETECTION: Final = 0x02
_NEIGH: Final = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_TCMSG: Final = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info
_BUFFER: Final = 1 << 16
_TRIES: Final = 5
PERMANENT: Final = 0x80
"""The state of a neighbour that the kernel never forgets."""


class NetlinkError(OSError):
    """The kernel's own answer."""


@dataclass(frozen=True, slots=True)
class LinkInfo:
    index: int
    name: str
    mac: str
    mtu: int
    up: bool


@dataclass(frozen=True, slots=True)
class NeighbourInfo:
    address: str
    mac: str
    state: int


@dataclass(frozen=True, slots=True)
class QdiscInfo:
    handle: int
    kind: str
    options: dict[int, bytes]


class Route:
    """One socket; use it in a ``with`` block."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.settimeout(5)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def links(self) -> list[LinkInfo]:
        found = []
        for body in self._dump(_GETLINK, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _, _, index, flags, _ = _IFINFO.unpack_from(body)
            have = _attributes(body[_IFINFO.size :])
            mtu = int.from_bytes(have.get(_IFLA_MTU, b"\0"), "little")
            found.append(LinkInfo(index, _text(have[_IFLA_IFNAME]), _mac(have), mtu, bool(flags & _IFF_UP)))
        return found

    def addresses(self, index: int) -> list[str]:
        """The addresses of a link, of both families, with prefix lengths."""
        return self.every_address().get(index, [])

    def every_address(self) -> dict[int, list[str]]:
        """The addresses of all links."""
        found: dict[int, list[str]] = {}
        for body in self._dump(_GETADDR, _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            family, prefix, _, _, of = _IFADDR.unpack_from(body)
            have = _attributes(body[_IFADDR.size :])
            if family in _FAMILIES and _IFA_ADDRESS in have:
                found.setdefault(of, []).append(f"{ipaddress.ip_address(have[_IFA_ADDRESS])}/{prefix}")
        return found

    def neighbours(self, index: int) -> list[NeighbourInfo]:
        """Which MAC address stands for which IP address on a link."""
        found = []
        for body in self._dump(_GETNEIGH, _NEIGH.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            family, of, state, _, _ = _NEIGH.unpack_from(body)
            have = _attributes(body[_NEIGH.size :])
            if family in _FAMILIES and of == index and _NDA_DST in have and _NDA_LLADDR in have:
                address = str(ipaddress.ip_address(have[_NDA_DST]))
                found.append(NeighbourInfo(address, _colons(have[_NDA_LLADDR]), state))
        return found

    def set_link(self, index: int, *, mac: str = "", mtu: int = 0, up: bool = False) -> None:
        attributes = _attribute(_IFLA_ADDRESS, _bytes(mac)) if mac else b""
        attributes += _attribute(_IFLA_MTU, struct.pack("=I", mtu)) if mtu else b""
        flags = _IFF_UP if up else 0
        self._ask(_NEWLINK, _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, flags) + attributes)

    def move_link(self, index: int, netns_fd: int, name: str) -> None:
        attributes = _attribute(_IFLA_NET_NS_FD, struct.pack("=I", netns_fd))
        attributes += _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        self._ask(_NEWLINK, _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attributes)

    def delete_link(self, index: int) -> None:
        self._ask(_DELLINK, _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0))

    def add_address(self, index: int, address: str) -> None:
        """No error when it is there already."""
        self._ask(_NEWADDR, _address(index, address), _CREATE | _REPLACE)

    def delete_address(self, index: int, address: str) -> None:
        self._ask(_DELADDR, _address(index, address))

    def set_neighbour(self, index: int, address: str, mac: str) -> None:
        """For ever, whatever else was known of that address."""
        family, packed = _packed(address)
        attributes = _attribute(_NDA_DST, packed) + _attribute(_NDA_LLADDR, _bytes(mac))
        self._ask(_NEWNEIGH, _NEIGH.pack(family, index, PERMANENT, 0, 0) + attributes, _CREATE | _REPLACE)

    def root_qdisc(self, index: int) -> QdiscInfo | None:
        """What orders and delays what a link sends."""
        for body in self._dump(_GETQDISC, _TCMSG.pack(socket.AF_UNSPEC, index, 0, 0, 0)):
            _, of, handle, parent, _ = _TCMSG.unpack_from(body)
            if (of, parent) == (index, _TC_ROOT):
                have = _attributes(body[_TCMSG.size :])
                return QdiscInfo(handle, _text(have.get(_TCA_KIND, b"")), _attributes(have.get(_TCA_OPTIONS, b"")))
        return None

    def set_root_qdisc(self, index: int, handle: int, kind: str, options: bytes) -> None:
        """One of the same handle and kind is changed and keeps its queue; any other is replaced."""
        attributes = _attribute(_TCA_KIND, kind.encode() + b"\0") + _attribute(_TCA_OPTIONS, options)
        self._ask(_NEWQDISC, _TCMSG.pack(0, index, handle, _TC_ROOT, 0) + attributes, _CREATE | _REPLACE)

    def delete_root_qdisc(self, index: int) -> None:
        """The link gets the kernel's default again."""
        self._ask(_DELQDISC, _TCMSG.pack(0, index, 0, _TC_ROOT, 0))

    def _ask(self, kind: int, body: bytes, flags: int = 0) -> None:
        self._send(kind, body, _REQUEST | _ACK | flags)
        for got, _, content in self._receive():
            if got == _ERROR:
                _check(content)
                return

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        """All of them; asked again when the kernel's list changed while it was told."""
        for _ in range(_TRIES):
            self._send(kind, body, _REQUEST | _DUMP)
            found, whole = [], True
            for got, flags, content in self._receive():
                whole = whole and not flags & _DUMP_INTERRUPTED
                if got == _ERROR:
                    _check(content)
                if got in (_DONE, _ERROR):
                    break
                found.append(content)
            if whole:
                return found
        raise NetlinkError(errno.EAGAIN, "the list of devices never stands still")

    def _send(self, kind: int, body: bytes, flags: int) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """The messages that answer the last question: type, flags, content."""
        while True:
            data = self._socket.recv(_BUFFER)
            while len(data) >= _HEADER.size:
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
                if sequence == self._sequence:
                    yield kind, flags, data[_HEADER.size : length]
                data = data[_aligned(length) :]


def _check(content: bytes) -> None:
    code = -int(struct.unpack_from("=i", content)[0])
    if code:
        raise NetlinkError(code, os.strerror(code))


def _address(index: int, address: str) -> bytes:
    """An IPv6 address is nobody else's: the kernel need not ask around before it uses it."""
    interface = ipaddress.ip_interface(address)
    family, packed = _packed(str(interface.ip))
    flags = _IFA_NO_DETECTION if family == socket.AF_INET6 else 0
    head = _IFADDR.pack(family, interface.network.prefixlen, flags, 0, index)
    return head + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)


def _packed(address: str) -> tuple[int, bytes]:
    found = ipaddress.ip_address(address)
    return (socket.AF_INET if found.version == 4 else socket.AF_INET6), found.packed


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(_aligned(length) - length)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[max(_aligned(length), 4) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _mac(have: dict[int, bytes]) -> str:
    return _colons(have.get(_IFLA_ADDRESS, b""))


def _colons(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
