"""The words of route netlink: numbers, structures, attributes. Used by rtnetlink.py and rtlinks.py."""

from __future__ import annotations

import struct
from typing import Final

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWNEIGH, GETNEIGH = 28, 30
NEWQDISC, DELQDISC, GETQDISC = 36, 37, 38
REQUEST, ACK, DUMP, REPLACE, CREATE, DUMP_INTERRUPTED = 0x1, 0x4, 0x300, 0x100, 0x400, 0x10
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_NET_NS_FD = 1, 3, 4, 28
IFA_ADDRESS, IFA_LOCAL, NDA_DST, NDA_LLADDR = 1, 2, 1, 2
TCA_KIND, TCA_OPTIONS, TC_ROOT = 1, 2, 0xFFFFFFFF
IFF_UP: Final = 1
IFLA_OPERSTATE, OPERSTATE_UP = 16, 6
IFINFO: Final = struct.Struct("=BxHiII")  # family, type, index, flags, which flags change
IFADDR: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
IFA_NO_DETECTION: Final = 0x02
NEIGH: Final = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
TCMSG: Final = struct.Struct("=BxxxiIII")  # family, index, handle, parent, info


def attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(aligned(length) - length)


def attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[max(aligned(length), 4) :]
    return found


def aligned(length: int) -> int:
    return (length + 3) & ~3


def mac_of(have: dict[int, bytes]) -> str:
    return colons(have.get(IFLA_ADDRESS, b""))


def colons(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def text_of(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
