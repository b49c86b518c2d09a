"""Router advertisements for one guest: what it shall know of its network in, an ICMPv6 message out.

Called by answers.py. Pure. The guest learns that it has a router, that its address comes by DHCPv6 (it makes up none of
its own), the size of packets, name servers and search domains.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from berth.effects import dhcp

SOLICITATION: Final = 133
ADVERTISEMENT: Final = 134
ALL_NODES: Final = ipaddress.IPv6Address("ff02::1")
ROUTER: Final = ipaddress.IPv6Address("fe80::1")
"""The same in every berth, as its MAC is: the guest's route stays right when it moves to another node."""
FOR_EVER: Final = 0xFFFFFFFF
LONGEST: Final = 0xFFFF
"""Seconds that a router may promise (RFC 8319): 18 hours, in which some agent will have sent the next one."""
_MANAGED_AND_OTHER: Final = 0xC0
_SOURCE_MAC, _PREFIX, _MTU, _DNS, _SEARCH = 1, 3, 5, 25, 31
_MOST_SEARCH: Final = 800  # bytes: the smallest packet of IPv6 is 1280


@dataclass(frozen=True, slots=True)
class Advertisement:
    """``lifetime`` 0: somebody else is the router, or nobody. ``prefixes`` are reached without a router."""

    router_mac: bytes
    mtu: int
    lifetime: int = LONGEST
    dns: tuple[ipaddress.IPv6Address, ...] = ()
    search: tuple[str, ...] = ()
    prefixes: tuple[ipaddress.IPv6Network, ...] = ()


def solicits(message: bytes, hop_limit: int) -> bool:
    """Whether an ICMPv6 message is a router solicitation (RFC 4861, 6.1.1; its checksum is left to the hardware)."""
    return len(message) >= 8 and message[0] == SOLICITATION and message[1] == 0 and hop_limit == 255


def message(want: Advertisement) -> bytes:
    """With zeros for the checksum."""
    head = struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, 64, _MANAGED_AND_OTHER, want.lifetime, 0, 0)
    return head + b"".join(_options(want))


def _options(want: Advertisement) -> list[bytes]:
    found = [_option(_SOURCE_MAC, want.router_mac)]
    if want.mtu:
        found.append(_option(_MTU, struct.pack("!HI", 0, want.mtu)))
    for prefix in want.prefixes:
        on_link = struct.pack("!BBIII16s", prefix.prefixlen, 0x80, FOR_EVER, FOR_EVER, 0, prefix.network_address.packed)
        found.append(_option(_PREFIX, on_link))
    if want.dns:
        servers = b"".join(server.packed for server in want.dns)
        found.append(_option(_DNS, struct.pack("!HI", 0, FOR_EVER) + servers))
    if search := dhcp.encode_search(want.search)[:_MOST_SEARCH]:
        found.append(_option(_SEARCH, struct.pack("!HI", 0, FOR_EVER) + search[: search.rindex(b"\0") + 1]))
    return found


def _option(kind: int, value: bytes) -> bytes:
    """Its length is told in units of eight bytes."""
    size = (2 + len(value) + 7) // 8
    return (bytes([kind, size]) + value).ljust(size * 8, b"\0")
