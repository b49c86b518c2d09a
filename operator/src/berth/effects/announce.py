"""Telling a segment where a guest is now: its MAC and IP addresses in, frames out of the berth. By joined_nic.py.

Switches learn the port, neighbours the MAC address, at once and not when their entries are too old.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import Final

from berth.effects import frames
from berth.errors import HostFault

_ARP: Final = 0x0806
_ALL_NODES: Final = ipaddress.IPv6Address("ff02::1")
_OVERRIDE: Final = 0x20000000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def build(mac: str, addresses: Iterable[Address]) -> list[bytes]:
    """A gratuitous ARP request, or an unsolicited neighbour advertisement, of each; one frame at least."""
    own = bytes.fromhex(mac.replace(":", ""))
    found = [_advertise(own, a) if isinstance(a, ipaddress.IPv6Address) else _ask(own, a) for a in addresses]
    return found or [_ask(own, ipaddress.IPv4Address(0))]


def _ask(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, address.packed, bytes(6), address.packed)
    return b"\xff" * 6 + mac + struct.pack("!H", _ARP) + body


def _advertise(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    message = struct.pack("!BBHI16sBB6s", 136, 0, 0, _OVERRIDE, address.packed, 2, 1, mac)
    return frames.icmpv6((mac, frames.multicast_mac(_ALL_NODES)), (address, _ALL_NODES), message)


def send(device: str, said: Iterable[bytes]) -> None:
    """Out of that device of the calling thread's network namespace."""
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as line:
            line.bind((device, 0))
            for frame in said:
                line.send(frame)
    except OSError as error:
        message = f"a guest cannot be announced on {device}: {error.strerror}"
        raise HostFault(message, reason="NetworkFailed") from error
