"""Raw sockets on a guest's tap that see only what a guest asks for: DHCPv4, or DHCPv6 and router solicitations.

Called by dhcpd.py, in the network namespace that the tap is in. They need no address, route or IPv6 in the berth. They
are bound to a protocol each, so that they see what the rules at the tap's ingress let pass, and no more.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

from berth.errors import HostFault

_SO_ATTACH_FILTER: Final = 26
_RECEIVE_BUFFER: Final = 32768
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_HALF, _BYTE, _HALF_AT_X, _HEADER_LENGTH = 0x28, 0x30, 0x48, 0xB1
_EQUAL, _ANY_BIT, _RETURN = 0x15, 0x45, 0x06
_TAKE, _DROP = (_RETURN, 0, 0, 0xFFFF), (_RETURN, 0, 0, 0)

_DHCP4: Final = (
    (_BYTE, 0, 0, 23), (_EQUAL, 0, 6, 17),  # UDP
    (_HALF, 0, 0, 20), (_ANY_BIT, 4, 0, 0x3FFF),  # that is not a fragment
    (_HEADER_LENGTH, 0, 0, 14), (_HALF_AT_X, 0, 0, 16), (_EQUAL, 0, 1, 67),
    _TAKE, _DROP,
)  # fmt: skip
_DHCP6_AND_SOLICITATIONS: Final = (
    (_BYTE, 0, 0, 20), (_EQUAL, 0, 2, 17),  # UDP
    (_HALF, 0, 0, 56), (_EQUAL, 3, 4, 547),
    (_EQUAL, 0, 3, 58), (_BYTE, 0, 0, 54), (_EQUAL, 0, 1, 133),  # or ICMPv6
    _TAKE, _DROP,
)  # fmt: skip


def open_ipv4(device: str) -> socket.socket:
    return _open(device, _ETH_P_IP, _DHCP4)


def open_ipv6(device: str) -> socket.socket:
    return _open(device, _ETH_P_IPV6, _DHCP6_AND_SOLICITATIONS)


def _open(device: str, protocol: int, program: tuple[tuple[int, int, int, int], ...]) -> socket.socket:
    """It gets nothing before it is bound: no packet passes by its filter. It stays there wherever it is used."""
    line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
        head = struct.pack("@HP", len(program), ctypes.addressof(code))
        line.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        line.bind((device, protocol))
    except OSError as error:
        line.close()
        raise HostFault(f"DHCP cannot be served on {device}: {error.strerror}", reason="DhcpFailed") from error
    return line
