"""Route netlink for the ways between the berths of a machine: tunnels, rules by mark, and routes through a gateway.

Called by doorways.py. What links, addresses and neighbours have in general is in rtnetlink.py.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from berth.effects.rtlinks import Links
from berth.effects.rtnetlink import NetlinkError
from berth.effects.rtwords import (
    CREATE,
    GETLINK,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_MTU,
    NEWLINK,
    REPLACE,
    attribute,
    attributes,
    colons,
    mac_bytes,
    text_of,
)

_NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE, _GETRULE = 24, 25, 32, 33, 34
_EXCLUSIVE: Final = 0x200
_IFLA_LINKINFO, _IFLA_IFALIAS, _INFO_KIND, _INFO_DATA = 18, 20, 1, 2
_ID, _REMOTE, _LOCAL, _TTL, _LEARNING, _PORT, _REMOTE6, _LOCAL6, _CHECKSUM = 1, 2, 4, 5, 7, 15, 16, 17, 18
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 8, 15
_RTAX_MTU: Final = 2
_RUNNING: Final = 0x40
_FRA_PRIORITY, _FRA_MARK, _FRA_TABLE, _FRA_MASK = 6, 10, 15, 16
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # family, prefix, source prefix, tos, table, protocol, scope, type, flags
_RULE: Final = struct.Struct("=BBBBBBBBI")  # family, prefixes, tos, table, two unused, action, flags
_STATIC, _UNICAST, _ON_LINK, _TO_TABLE, _HOPS = 4, 1, 4, 1, 64
_MAIN: Final = 254


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A VXLAN device between two addresses. ``note`` is kept as its alias; ``index`` and ``up`` are observed."""

    name: str
    vni: int
    local: str
    remote: str
    mac: str
    mtu: int
    note: str = ""
    index: int = 0
    up: bool = False


class Routes(Links):
    """One socket; use it in a ``with`` block."""

    def tunnels(self) -> dict[str, Tunnel]:
        """Every VXLAN device that has one other end."""
        found = {}
        for body in self._dump(GETLINK, IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            tunnel = _tunnel(body)
            if tunnel is not None:
                found[tunnel.name] = tunnel
        return found

    def add_tunnel(self, want: Tunnel, port: int) -> None:
        """It learns nothing. Over IPv4 its packets have no checksum (what is inside has one): a network that rewrites
        addresses on the way gets that wrong; and they may be cut in pieces, so that it carries what the pods' own
        interfaces carry."""
        data = attribute(_ID, _int(want.vni)) + attribute(_LEARNING, b"\0") + attribute(_TTL, bytes([_HOPS]))
        data += attribute(_PORT, struct.pack("!H", port)) + attribute(_CHECKSUM, bytes([":" in want.local]))
        name = attribute(IFLA_IFNAME, want.name.encode() + b"\0") + attribute(IFLA_MTU, _int(want.mtu))
        name += attribute(IFLA_ADDRESS, mac_bytes(want.mac))
        self._ask(NEWLINK, _body(data + _ends(want), more=name), CREATE | _EXCLUSIVE)

    def redirect_tunnel(self, index: int, want: Tunnel) -> None:
        """To another end of the same family, without a moment in which there is none; and its note, which the kernel
        takes from nobody who makes a device."""
        note = attribute(_IFLA_IFALIAS, want.note.encode()[:255])
        self._ask(NEWLINK, _body(attribute(_ID, _int(want.vni)) + _ends(want), index=index, more=note))

    def carries(self, index: int) -> bool:
        """Whether the link is up so far that what is sent arrives at its other side: a moment after it was set up."""
        bodies = self._dump(GETLINK, IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
        return any(IFINFO.unpack_from(body)[2:4] == (index, IFINFO.unpack_from(body)[3] | _RUNNING) for body in bodies)

    def set_down(self, index: int) -> None:
        self._ask(NEWLINK, IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, IFF_UP))

    def marks(self, preference: int) -> set[tuple[int, int]]:
        """IP version and mark of the rules of that preference that lead a mark to the table of its number."""
        found = set()
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            for body in self._dump(_GETRULE, _RULE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
                have = attributes(body[_RULE.size :])
                if body[0] == family and _number(have, _FRA_PRIORITY) == preference and _FRA_MARK in have:
                    found.add((version, _number(have, _FRA_MARK)))
        return found

    def add_mark(self, version: int, mark: int, preference: int) -> None:
        self._quietly(errno.EEXIST, _NEWRULE, _rule(version, mark, preference), CREATE | _EXCLUSIVE)

    def delete_mark(self, version: int, mark: int, preference: int) -> None:
        self._quietly(errno.ENOENT, _DELRULE, _rule(version, mark, preference))

    def add_gateway(self, index: int, gateway: str, *, table: int = _MAIN, to: str = "", mtu: int = 0) -> None:
        """A route to one address, or to everything, through a gateway that is taken to be on the link. With ``mtu``
        larger packets are answered with "too big"."""
        limit = attribute(_RTA_METRICS, attribute(_RTAX_MTU, _int(mtu))) if mtu else b""
        self._ask(_NEWROUTE, _route(index, gateway, table, to) + limit, CREATE | REPLACE)

    def delete_gateway(self, index: int, gateway: str, *, table: int = _MAIN, to: str = "") -> None:
        self._quietly(errno.ESRCH, _DELROUTE, _route(index, gateway, table, to))

    def _quietly(self, expected: int, kind: int, body: bytes, flags: int = 0) -> None:
        try:
            self._ask(kind, body, flags)
        except NetlinkError as error:
            if error.errno != expected:
                raise


def _body(data: bytes, *, index: int = 0, more: bytes) -> bytes:
    info = attribute(_INFO_KIND, b"vxlan") + attribute(_INFO_DATA, data)
    return IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + more + attribute(_IFLA_LINKINFO, info)


def _ends(want: Tunnel) -> bytes:
    local, remote = ipaddress.ip_address(want.local), ipaddress.ip_address(want.remote)
    kinds = (_LOCAL, _REMOTE) if local.version == 4 else (_LOCAL6, _REMOTE6)
    return attribute(kinds[0], local.packed) + attribute(kinds[1], remote.packed)


def _tunnel(body: bytes) -> Tunnel | None:
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    have = attributes(body[IFINFO.size :])
    info = attributes(have.get(_IFLA_LINKINFO, b""))
    data = attributes(info.get(_INFO_DATA, b""))
    remote, local = data.get(_REMOTE, data.get(_REMOTE6)), data.get(_LOCAL, data.get(_LOCAL6))
    if text_of(info.get(_INFO_KIND, b"")) != "vxlan" or remote is None or local is None:
        return None
    return Tunnel(
        name=text_of(have[IFLA_IFNAME]),
        vni=_number(data, _ID),
        local=str(ipaddress.ip_address(local)),
        remote=str(ipaddress.ip_address(remote)),
        mac=colons(have.get(IFLA_ADDRESS, b"")),
        mtu=_number(have, IFLA_MTU),
        note=text_of(have.get(_IFLA_IFALIAS, b"")),
        index=index,
        up=bool(flags & IFF_UP),
    )


def _rule(version: int, mark: int, preference: int) -> bytes:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    head = _RULE.pack(family, 0, 0, 0, 0, 0, 0, _TO_TABLE, 0)
    head += attribute(_FRA_PRIORITY, _int(preference)) + attribute(_FRA_MARK, _int(mark))
    return head + attribute(_FRA_MASK, _int(0xFFFFFFFF)) + attribute(_FRA_TABLE, _int(mark))


def _route(index: int, gateway: str, table: int, to: str) -> bytes:
    via = ipaddress.ip_address(gateway)
    family = socket.AF_INET if via.version == 4 else socket.AF_INET6
    prefix = via.max_prefixlen if to else 0
    head = _ROUTE.pack(family, prefix, 0, 0, table if table < 256 else 0, _STATIC, 0, _UNICAST, _ON_LINK)
    head += attribute(_RTA_DST, ipaddress.ip_address(to).packed) if to else b""
    return (
        head
        + attribute(_RTA_GATEWAY, via.packed)
        + attribute(_RTA_OIF, _int(index))
        + attribute(_RTA_TABLE, _int(table))
    )


def _number(have: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(have.get(kind, b"\0"), "little")


def _int(value: int) -> bytes:
    return struct.pack("=I", value)
