"""Frames on a segment that no kernel would send, and whether one reaches the other guest. Used by tests."""

from __future__ import annotations

import ipaddress
import itertools
import struct

from berth.effects import frames
from tests.contract.segment_lab import Guest, mac

BROADCAST = b"\xff" * 6
MARK = b"hostile frame!"
ip = ipaddress.ip_address
_numbers = itertools.count()


def udp(source: str, target: str, ports: tuple[int, int] = (5000, 5001), payload: bytes = MARK, **macs: bytes) -> bytes:
    pair_ = macs["by"], macs["to"]
    a, b = ip(source), ip(target)
    if isinstance(a, ipaddress.IPv4Address) and isinstance(b, ipaddress.IPv4Address):
        return frames.udp4(pair_, (a, b), ports, payload)
    assert isinstance(a, ipaddress.IPv6Address)
    assert isinstance(b, ipaddress.IPv6Address)
    return frames.udp6(pair_, (a, b), ports, payload)


def arp(by: bytes, sender: bytes, address: str, target: str, *, operation: int = 1, to: bytes = BROADCAST) -> bytes:
    body = (
        struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + sender + ip(address).packed + bytes(6) + ip(target).packed
    )
    return to + by + b"\x08\x06" + body + MARK


def nd(kind: int, by: bytes, source: str, about: str, options: bytes = b"") -> bytes:
    everybody = ipaddress.IPv6Address("ff02::1")
    flags = 0x20000000 if kind == 136 else 0
    message = struct.pack("!BBHI", kind, 0, 0, flags) + ip(about).packed + options
    sender = ipaddress.IPv6Address(source)
    return frames.icmpv6((by, frames.multicast_mac(everybody)), (sender, everybody), message)


def router_advertisement(by: bytes, source: str) -> bytes:
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    everybody = ipaddress.IPv6Address("ff02::1")
    return frames.icmpv6((by, frames.multicast_mac(everybody)), (ipaddress.IPv6Address(source), everybody), message)


def redirect(by: bytes, to: bytes, source: str, target: str) -> bytes:
    message = struct.pack("!BBHI", 5, 1, 0, int(ipaddress.IPv4Address("10.9.0.66"))) + MARK
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 0, 0, 64, 1, 0, ip(source).packed, ip(target).packed
    )
    head = head[:10] + frames.checksum(head).to_bytes(2, "big") + head[12:]
    return to + by + b"\x08\x00" + head + message


def tagged(frame: bytes, kind: int = 0x8100) -> bytes:
    return frame[:12] + struct.pack("!HH", kind, 5) + frame[12:]


def fragmented_reply(by: bytes, source: str) -> bytes:
    """A router advertisement whose type only the second fragment shows: this is the first."""
    everybody = ipaddress.IPv6Address("ff02::1")
    content = struct.pack("!BB6x", 58, 0)  # destination options, then ICMPv6, which is in the next fragment
    fragment = struct.pack("!BBHI", 60, 0, 1, 99) + content
    head = struct.pack("!IHBB16s16s", 6 << 28, len(fragment), 44, 255, ip(source).packed, everybody.packed)
    return frames.multicast_mac(everybody) + by + b"\x86\xdd" + head + fragment


def passes(guest: Guest, other: Guest, frame: bytes) -> bool:
    """Whether the frame reaches the other guest, as it was sent: before an honest one that is sent after it."""
    source = (*guest.nic.addresses, "172.16.0.9")[0].partition("/")[0]
    target = "fd00:9::ffff" if ":" in source else "10.9.0.250"
    marker = udp(source, target, payload=b"marker %d" % next(_numbers), by=mac(guest.nic.mac), to=mac(other.nic.mac))
    return frame in other.hears_until(marker, lambda: guest.send(frame, marker))


def link_local(guest: Guest) -> str:
    own = mac(guest.nic.mac)
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([own[0] ^ 2]) + own[1:3] + b"\xff\xfe" + own[3:]))
