"""What a guest is answered on one of its NICs: a frame of its in, our frames out. Called by dhcpd.py. Pure.

DHCPv4, DHCPv6 and router solicitations; everything else, and everybody else's MAC, is met with silence.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from berth.effects import dhcp, dhcpv6, frames, ra


@dataclass(frozen=True, slots=True)
class Guest:
    """All that one guest is told; ``router_mac`` is what our frames come from."""

    mac: bytes
    router_mac: bytes
    ipv4: dhcp.Lease | None = None
    ipv6: dhcpv6.Lease | None = None
    advertisement: ra.Advertisement | None = None


def answer(frame: bytes, guest: Guest) -> bytes | None:
    """The frame that answers this one."""
    packet = frames.parse(frame)
    if packet is None or packet.mac != guest.mac:
        return None
    if packet.protocol == frames.ICMPV6:
        return advertise(guest) if ra.solicits(packet.payload, packet.hop_limit) else None
    match packet.source, packet.destination_port:
        case ipaddress.IPv4Address(), dhcp.SERVER_PORT:
            return _answer_ipv4(packet, guest)
        case ipaddress.IPv6Address(), dhcpv6.SERVER_PORT:
            return _answer_ipv6(packet, guest)
        case _:
            return None


def advertise(guest: Guest) -> bytes | None:
    """To all nodes, for there is one."""
    if guest.advertisement is None:
        return None
    macs = guest.router_mac, frames.multicast_mac(ra.ALL_NODES)
    return frames.icmpv6(macs, (ra.ROUTER, ra.ALL_NODES), ra.message(guest.advertisement))


def retract(guest: Guest) -> bytes | None:
    """The last word of a router that is none any more."""
    if guest.advertisement is None:
        return None
    return advertise(replace(guest, advertisement=replace(guest.advertisement, lifetime=0)))


def _answer_ipv4(packet: frames.Packet, guest: Guest) -> bytes | None:
    reply = dhcp.answer(packet.payload, guest.ipv4) if guest.ipv4 else None
    if reply is None or guest.ipv4 is None:
        return None
    to = ipaddress.IPv4Address(reply.destination)
    mac = frames.multicast_mac(to) if reply.destination == dhcp.BROADCAST else guest.mac
    macs, addresses = (guest.router_mac, mac), (guest.ipv4.server, to)
    return frames.udp4(macs, addresses, (dhcp.SERVER_PORT, dhcp.CLIENT_PORT), reply.data)


def _answer_ipv6(packet: frames.Packet, guest: Guest) -> bytes | None:
    """A client asks from its link-local address, and only there it is answered."""
    to = packet.source
    if guest.ipv6 is None or not isinstance(to, ipaddress.IPv6Address) or not to.is_link_local:
        return None
    reply = dhcpv6.answer(packet.payload, guest.ipv6)
    if reply is None:
        return None
    macs, ports = (guest.router_mac, guest.mac), (dhcpv6.SERVER_PORT, dhcpv6.CLIENT_PORT)
    return frames.udp6(macs, (ra.ROUTER, to), ports, reply)
