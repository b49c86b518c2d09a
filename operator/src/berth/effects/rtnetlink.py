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

from berth.effects.rtwords import (
    ACK,
    CREATE,
    DELADDR,
    DELLINK,
    DELQDISC,
    DUMP,
    DUMP_INTERRUPTED,
    GETADDR,
    GETLINK,
    GETNEIGH,
    GETQDISC,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFA_NO_DETECTION,
    IFADDR,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    NDA_DST,
    NDA_LLADDR,
    NEIGH,
    NEWADDR,
    NEWLINK,
    NEWNEIGH,
    NEWQDISC,
    REPLACE,
    REQUEST,
    TC_ROOT,
    TCA_KIND,
    TCA_OPTIONS,
    TCMSG,
    aligned,
    attribute,
    attributes,
    colons,
    mac_bytes,
    mac_of,
    text_of,
)

_ERROR, _DONE = 2, 3
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
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

    FAMILY = socket.NETLINK_ROUTE

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self.FAMILY)
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
        for body in self._dump(GETLINK, IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            _, _, index, flags, _ = IFINFO.unpack_from(body)
            have = attributes(body[IFINFO.size :])
            mtu = int.from_bytes(have.get(IFLA_MTU, b"\0"), "little")
            found.append(LinkInfo(index, text_of(have[IFLA_IFNAME]), mac_of(have), mtu, bool(flags & IFF_UP)))
        return found

    def addresses(self, index: int) -> list[str]:
        """The addresses of a link, of both families, with prefix lengths."""
        return self.every_address().get(index, [])

    def every_address(self) -> dict[int, list[str]]:
        """The addresses of all links."""
        found: dict[int, list[str]] = {}
        for body in self._dump(GETADDR, IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            family, prefix, _, _, of = IFADDR.unpack_from(body)
            have = attributes(body[IFADDR.size :])
            if family in _FAMILIES and IFA_ADDRESS in have:
                found.setdefault(of, []).append(f"{ipaddress.ip_address(have[IFA_ADDRESS])}/{prefix}")
        return found

    def neighbours(self, index: int) -> list[NeighbourInfo]:
        """Which MAC address stands for which IP address on a link."""
        found = []
        for body in self._dump(GETNEIGH, NEIGH.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            family, of, state, _, _ = NEIGH.unpack_from(body)
            have = attributes(body[NEIGH.size :])
            if family in _FAMILIES and of == index and NDA_DST in have and NDA_LLADDR in have:
                address = str(ipaddress.ip_address(have[NDA_DST]))
                found.append(NeighbourInfo(address, colons(have[NDA_LLADDR]), state))
        return found

    def set_link(self, index: int, *, mac: str = "", mtu: int = 0, up: bool = False) -> None:
        attributes = attribute(IFLA_ADDRESS, mac_bytes(mac)) if mac else b""
        attributes += attribute(IFLA_MTU, struct.pack("=I", mtu)) if mtu else b""
        flags = IFF_UP if up else 0
        self._ask(NEWLINK, IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, flags) + attributes)

    def move_link(self, index: int, netns_fd: int, name: str) -> None:
        attributes = attribute(IFLA_NET_NS_FD, struct.pack("=I", netns_fd))
        attributes += attribute(IFLA_IFNAME, name.encode() + b"\0")
        self._ask(NEWLINK, IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attributes)

    def delete_link(self, index: int) -> None:
        self._ask(DELLINK, IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0))

    def add_address(self, index: int, address: str) -> None:
        """No error when it is there already."""
        self._ask(NEWADDR, _address(index, address), CREATE | REPLACE)

    def delete_address(self, index: int, address: str) -> None:
        self._ask(DELADDR, _address(index, address))

    def set_neighbour(self, index: int, address: str, mac: str) -> None:
        """For ever, whatever else was known of that address."""
        family, packed = _packed(address)
        attributes = attribute(NDA_DST, packed) + attribute(NDA_LLADDR, mac_bytes(mac))
        self._ask(NEWNEIGH, NEIGH.pack(family, index, PERMANENT, 0, 0) + attributes, CREATE | REPLACE)

    def root_qdisc(self, index: int) -> QdiscInfo | None:
        """What orders and delays what a link sends."""
        for body in self._dump(GETQDISC, TCMSG.pack(socket.AF_UNSPEC, index, 0, 0, 0)):
            _, of, handle, parent, _ = TCMSG.unpack_from(body)
            if (of, parent) == (index, TC_ROOT):
                have = attributes(body[TCMSG.size :])
                return QdiscInfo(handle, text_of(have.get(TCA_KIND, b"")), attributes(have.get(TCA_OPTIONS, b"")))
        return None

    def set_root_qdisc(self, index: int, handle: int, kind: str, options: bytes) -> None:
        """One of the same handle and kind is changed and keeps its queue; any other is replaced."""
        attributes = attribute(TCA_KIND, kind.encode() + b"\0") + attribute(TCA_OPTIONS, options)
        self._ask(NEWQDISC, TCMSG.pack(0, index, handle, TC_ROOT, 0) + attributes, CREATE | REPLACE)

    def delete_root_qdisc(self, index: int) -> None:
        """The link gets the kernel's default again."""
        self._ask(DELQDISC, TCMSG.pack(0, index, 0, TC_ROOT, 0))

    def _ask(self, kind: int, body: bytes, flags: int = 0) -> None:
        self._send(kind, body, REQUEST | ACK | flags)
        for got, _, content in self._receive():
            if got == _ERROR:
                _check(content)
                return

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        """All of them; asked again when the kernel's list changed while it was told."""
        for _ in range(_TRIES):
            self._send(kind, body, REQUEST | DUMP)
            found, whole = [], True
            for got, flags, content in self._receive():
                whole = whole and not flags & DUMP_INTERRUPTED
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
                data = data[aligned(length) :]


def _check(content: bytes) -> None:
    code = -int(struct.unpack_from("=i", content)[0])
    if code:
        raise NetlinkError(code, os.strerror(code))


def _address(index: int, address: str) -> bytes:
    """An IPv6 address is nobody else's: the kernel need not ask around before it uses it."""
    interface = ipaddress.ip_interface(address)
    family, packed = _packed(str(interface.ip))
    flags = IFA_NO_DETECTION if family == socket.AF_INET6 else 0
    head = IFADDR.pack(family, interface.network.prefixlen, flags, 0, index)
    return head + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)


def _packed(address: str) -> tuple[int, bytes]:
    found = ipaddress.ip_address(address)
    return (socket.AF_INET if found.version == 4 else socket.AF_INET6), found.packed
