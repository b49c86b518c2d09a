"""Route netlink for what joins guests to segments: veth pairs, bridges, VXLAN and VLAN devices, forwarding tables.

Called by segment_devices.py and joined_nic.py. What links, addresses and neighbours have in general is in rtnetlink.py.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from berth.effects.rtnetlink import PERMANENT, Route
from berth.effects.rtwords import (
    CREATE,
    GETADDR,
    GETLINK,
    GETNEIGH,
    IFA_ADDRESS,
    IFA_LOCAL,
    IFADDR,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_OPERSTATE,
    NDA_DST,
    NDA_LLADDR,
    NEWLINK,
    NEWNEIGH,
    OPERSTATE_UP,
    REPLACE,
    attribute,
    attributes,
    colons,
    mac_bytes,
    text_of,
)

_DELNEIGH, _NEWROUTE, _DELROUTE, _GETROUTE = 29, 24, 25, 26
_EXCLUSIVE, _APPEND = 0x200, 0x800
_IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_IFALIAS = 5, 10, 18, 20
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 15, 17
_VLAN_ID, _BR_STP, _BR_MCAST_SNOOPING = 1, 5, 23
_NTF_SELF = 0x02
_NO_ARP: Final = 0x40
_RTA_DST, _RTA_OIF = 1, 4
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # family, prefix, source prefix, tos, table, protocol, scope, type, flags
_MAIN, _STATIC, _LINK_SCOPE, _UNICAST = 254, 4, 253, 1
_FDB: Final = struct.Struct("=BxxxiHBB")
NO_MAC: Final = "00:00:00:00:00:00"
"""Stands for every MAC address that is not known: where broadcasts go."""


@dataclass(frozen=True, slots=True)
class Device:
    """A link, and what it has to do with others."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    running: bool = False  # the kernel has told all that depend on it, such as a bridge, that it is up
    master: int = 0
    peer: int = 0  # of a veth: the other end's index, in its own namespace
    kind: str = ""
    alias: str = ""


@dataclass(frozen=True, slots=True, order=True)
class FdbEntry:
    """A VXLAN device sends frames for this MAC address to that node."""

    mac: str
    node: str


class Links(Route):
    """One socket; use it in a ``with`` block. Devices are made in its namespace, or born in another one."""

    def devices(self) -> dict[str, Device]:
        found = {}
        for body in self._dump(GETLINK, IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            device = _device(body)
            found[device.name] = device
        return found

    def device_with(self, address: str) -> Device | None:
        """The one that has this address."""
        wanted = ipaddress.ip_address(address)
        family = socket.AF_INET if wanted.version == 4 else socket.AF_INET6
        for body in self._dump(GETADDR, IFADDR.pack(family, 0, 0, 0, 0)):
            index = IFADDR.unpack_from(body)[4]
            have = attributes(body[IFADDR.size :])
            if have.get(IFA_LOCAL, have.get(IFA_ADDRESS)) == wanted.packed:
                return next((device for device in self.devices().values() if device.index == index), None)
        return None

    def add_veth(self, name: str, peer: str, peer_netns: int, *, mtu: int, peer_mac: str, index: int = 0) -> None:
        """Both ends at once, the peer in the other namespace: nothing is ever half there. ``index``: of this end; 0
        lets the kernel choose. The peer's is always the kernel's choice."""
        there = attribute(IFLA_IFNAME, peer.encode() + b"\0") + attribute(IFLA_NET_NS_FD, _int(peer_netns))
        there += attribute(IFLA_MTU, _int(mtu)) + attribute(IFLA_ADDRESS, mac_bytes(peer_mac))
        data = attribute(_VETH_PEER, IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + there)
        self._add(name, "veth", data, mtu=mtu, index=index)

    def add_bridge(self, name: str) -> None:
        """Without spanning tree (a port forwards at once) and without snooping (neighbour discovery is multicast)."""
        self._add(name, "bridge", attribute(_BR_STP, _int(0)) + attribute(_BR_MCAST_SNOOPING, b"\0"))

    def add_vxlan(self, name: str, netns: int, *, vni: int, local: str, port: int, mtu: int) -> None:
        """Born in another namespace; its packets come and go in the socket's own. It learns nothing by itself."""
        address = ipaddress.ip_address(local)
        data = attribute(_VXLAN_ID, _int(vni)) + attribute(_VXLAN_LEARNING, b"\0")
        data += attribute(_VXLAN_LOCAL if address.version == 4 else _VXLAN_LOCAL6, address.packed)
        data += attribute(_VXLAN_PORT, struct.pack("!H", port))
        self._add(name, "vxlan", data, mtu=mtu, more=attribute(IFLA_NET_NS_FD, _int(netns)))

    def add_vlan(self, name: str, netns: int, *, card: int, vlan: int, mtu: int) -> None:
        """Born in another namespace; the card is in the socket's own."""
        more = attribute(_IFLA_LINK, _int(card)) + attribute(IFLA_NET_NS_FD, _int(netns))
        self._add(name, "vlan", attribute(_VLAN_ID, struct.pack("=H", vlan)), mtu=mtu, more=more)

    def _add(self, name: str, kind: str, data: bytes, *, mtu: int = 0, more: bytes = b"", index: int = 0) -> None:
        info = attribute(_INFO_KIND, kind.encode()) + attribute(_INFO_DATA, data)
        body = attribute(IFLA_IFNAME, name.encode() + b"\0") + (attribute(IFLA_MTU, _int(mtu)) if mtu else b"") + more
        body += attribute(_IFLA_LINKINFO, info)
        self._ask(NEWLINK, IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + body, CREATE | _EXCLUSIVE)

    def set_master(self, index: int, master: int) -> None:
        self._ask(NEWLINK, IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(_IFLA_MASTER, _int(master)))

    def set_alias(self, index: int, alias: str) -> None:
        body = IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(_IFLA_IFALIAS, alias.encode()[:255])
        self._ask(NEWLINK, body)

    def fdb(self, index: int) -> set[FdbEntry]:
        """What a VXLAN device sends where."""
        found = set()
        for body in self._dump(GETNEIGH, _FDB.pack(socket.AF_BRIDGE, 0, 0, 0, 0)):
            _, of, _, flags, _ = _FDB.unpack_from(body)
            have = attributes(body[_FDB.size :])
            if of == index and flags & _NTF_SELF and NDA_DST in have:
                found.add(FdbEntry(colons(have[NDA_LLADDR]), str(ipaddress.ip_address(have[NDA_DST]))))
        return found

    def add_fdb(self, index: int, entry: FdbEntry) -> None:
        """A MAC address is at one node: what was known of it is replaced. What is unknown goes to each node named."""
        self._ask(NEWNEIGH, _fdb(index, entry), CREATE | (_APPEND if entry.mac == NO_MAC else REPLACE))

    def delete_fdb(self, index: int, entry: FdbEntry) -> None:
        self._ask(_DELNEIGH, _fdb(index, entry))

    def host_routes(self, index: int) -> set[str]:
        """The single addresses that were routed to a link, not by the kernel itself."""
        return {*self._host_routes(socket.AF_INET, index), *self._host_routes(socket.AF_INET6, index)}

    def _host_routes(self, family: int, index: int) -> set[str]:
        bits = 32 if family == socket.AF_INET else 128
        found = set()
        for body in self._dump(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            of, prefix, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(body)
            have = attributes(body[_ROUTE.size :])
            out = int.from_bytes(have.get(_RTA_OIF, b"\0"), "little")
            ours = (of, prefix, table, protocol, kind) == (family, bits, _MAIN, _STATIC, _UNICAST)
            if ours and out == index and _RTA_DST in have:
                found.add(str(ipaddress.ip_address(have[_RTA_DST])))
        return found

    def add_host_route(self, index: int, address: str) -> None:
        self._ask(_NEWROUTE, _host_route(index, address), CREATE | REPLACE)

    def delete_host_route(self, index: int, address: str) -> None:
        self._ask(_DELROUTE, _host_route(index, address))


def _device(body: bytes) -> Device:
    _, _, index, flags, _ = IFINFO.unpack_from(body)
    have = attributes(body[IFINFO.size :])
    info = attributes(have.get(_IFLA_LINKINFO, b""))
    return Device(
        index=index,
        name=text_of(have[IFLA_IFNAME]),
        mac=colons(have.get(IFLA_ADDRESS, b"")),
        mtu=_number(have, IFLA_MTU),
        up=bool(flags & IFF_UP),
        running=_number(have, IFLA_OPERSTATE) == OPERSTATE_UP,
        master=_number(have, _IFLA_MASTER),
        peer=_number(have, _IFLA_LINK),
        kind=text_of(info.get(_INFO_KIND, b"")),
        alias=text_of(have.get(_IFLA_IFALIAS, b"")),
    )


def _fdb(index: int, entry: FdbEntry) -> bytes:
    head = _FDB.pack(socket.AF_BRIDGE, index, PERMANENT | _NO_ARP, _NTF_SELF, 0)
    target = ipaddress.ip_address(entry.node).packed
    return head + attribute(NDA_DST, target) + attribute(NDA_LLADDR, mac_bytes(entry.mac))


def _host_route(index: int, address: str) -> bytes:
    found = ipaddress.ip_address(address)
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    head = _ROUTE.pack(family, found.max_prefixlen, 0, 0, _MAIN, _STATIC, _LINK_SCOPE, _UNICAST, 0)
    return head + attribute(_RTA_DST, found.packed) + attribute(_RTA_OIF, _int(index))


def _number(have: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(have.get(kind, b"\0"), "little")


def _int(value: int) -> bytes:
    return struct.pack("=I", value)
