"""Ethernet frames of the few protocols that guests are answered in: bytes ↔ UDP datagrams and ICMPv6 messages.

Called by answers.py. Pure. A guest's frame is hostile input: it is read with bounds, what is fragmented, has extension
headers or tags, or contradicts itself about its length is nothing at all.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

UDP: Final = 17
ICMPV6: Final = 58
_ETHERNET, _IPV4, _IPV6 = 14, 20, 40
_TYPE_IPV4, _TYPE_IPV6 = 0x0800, 0x86DD
_BROADCAST_MAC = b"\xff" * 6

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Packet:
    """``payload`` is what UDP carries, or the whole ICMPv6 message; ports are 0 for ICMPv6."""

    mac: bytes  # who sent the frame
    source: Address
    destination: Address
    protocol: int
    source_port: int
    destination_port: int
    hop_limit: int
    payload: bytes


def parse(frame: bytes) -> Packet | None:
    if len(frame) < _ETHERNET:
        return None
    match int.from_bytes(frame[12:14], "big"):
        case 0x0800:
            return _parse_ipv4(frame[6:12], frame[_ETHERNET:])
        case 0x86DD:
            return _parse_ipv6(frame[6:12], frame[_ETHERNET:])
        case _:
            return None


def _parse_ipv4(mac: bytes, data: bytes) -> Packet | None:
    if len(data) < _IPV4:
        return None
    first, _, total, _, fragment, ttl, protocol, _, source, destination = struct.unpack_from("!BBHHHBBH4s4s", data)
    header = (first & 0xF) * 4
    if first >> 4 != 4 or header < _IPV4 or fragment & 0x3FFF or not header <= total <= len(data):
        return None
    addresses = ipaddress.IPv4Address(source), ipaddress.IPv4Address(destination)
    return _upper(mac, addresses, protocol, ttl, data[header:total]) if protocol == UDP else None


def _parse_ipv6(mac: bytes, data: bytes) -> Packet | None:
    if len(data) < _IPV6:
        return None
    first, length, protocol, hops, source, destination = struct.unpack_from("!IHBB16s16s", data)
    if first >> 28 != 6 or length > len(data) - _IPV6:
        return None
    addresses = ipaddress.IPv6Address(source), ipaddress.IPv6Address(destination)
    return _upper(mac, addresses, protocol, hops, data[_IPV6 : _IPV6 + length])


def _upper(mac: bytes, addresses: tuple[Address, Address], protocol: int, hops: int, data: bytes) -> Packet | None:
    if protocol == ICMPV6:
        return Packet(mac, *addresses, protocol, 0, 0, hops, data) if len(data) >= 4 else None
    if protocol != UDP or len(data) < 8:
        return None
    source_port, destination_port, length, _ = struct.unpack_from("!HHHH", data)
    if not 8 <= length <= len(data):
        return None
    return Packet(mac, *addresses, protocol, source_port, destination_port, hops, data[8:length])


def udp4(
    macs: tuple[bytes, bytes], addresses: tuple[ipaddress.IPv4Address, ipaddress.IPv4Address], ports: tuple[int, int],
    payload: bytes,
) -> bytes:  # fmt: skip
    """From the first to the second of each pair. Without a UDP checksum, which IPv4 allows."""
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    source, destination = (address.packed for address in addresses)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, _IPV4 + len(udp), 0, 0x4000, 64, UDP, 0, source, destination)
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return _ethernet(macs, _TYPE_IPV4) + head + udp


def udp6(
    macs: tuple[bytes, bytes], addresses: tuple[ipaddress.IPv6Address, ipaddress.IPv6Address], ports: tuple[int, int],
    payload: bytes,
) -> bytes:  # fmt: skip
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    code = _sum_over(addresses, UDP, udp) or 0xFFFF
    return _ipv6(macs, addresses, UDP, 64, udp[:6] + code.to_bytes(2, "big") + udp[8:])


def icmpv6(
    macs: tuple[bytes, bytes], addresses: tuple[ipaddress.IPv6Address, ipaddress.IPv6Address], message: bytes
) -> bytes:
    """``message`` from its type on, with zeros for the checksum. The hop limit is that of neighbour discovery."""
    code = _sum_over(addresses, ICMPV6, message)
    return _ipv6(macs, addresses, ICMPV6, 255, message[:2] + code.to_bytes(2, "big") + message[4:])


def multicast_mac(address: Address) -> bytes:
    """Where a multicast or broadcast packet goes on Ethernet."""
    if isinstance(address, ipaddress.IPv6Address):
        return b"\x33\x33" + address.packed[12:]
    return _BROADCAST_MAC


def _ipv6(
    macs: tuple[bytes, bytes], addresses: tuple[ipaddress.IPv6Address, ipaddress.IPv6Address], protocol: int, hops: int,
    payload: bytes,
) -> bytes:  # fmt: skip
    source, destination = (address.packed for address in addresses)
    head = struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, hops, source, destination)
    return _ethernet(macs, _TYPE_IPV6) + head + payload


def _ethernet(macs: tuple[bytes, bytes], kind: int) -> bytes:
    source, destination = macs
    return destination + source + kind.to_bytes(2, "big")


def _sum_over(addresses: tuple[ipaddress.IPv6Address, ipaddress.IPv6Address], protocol: int, data: bytes) -> int:
    return checksum(addresses[0].packed + addresses[1].packed + struct.pack("!II", len(data), protocol) + data)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF
