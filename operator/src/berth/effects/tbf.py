"""The kernel's token bucket filter, in its own bytes: a limit in, the netlink options of a qdisc out, and back.

Called by rtnetlink.py and shaping.py. Pure. The sizes follow from the limit, so that one seen can be told from another.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

KIND: Final = "tbf"
_PARMS, _RATE64, _BURST = 1, 4, 6
_LINKLAYER_ETHERNET = 1
"""With it the kernel reckons by itself; otherwise it would want a table of 256 transmission times."""
_QOPT: Final = struct.Struct("=BBHhHI BBHhHI III")  # two rate specifications; limit, buffer, MTU
_LARGEST: Final = (1 << 32) - 1
_FRAME: Final = 18  # an Ethernet header, with a tag


@dataclass(frozen=True, slots=True)
class Bucket:
    """``rate`` in bytes a second, ``burst`` in bytes; ``queue`` is what may wait, in bytes, before it is dropped."""

    rate: int
    burst: int
    queue: int


def bucket(bits_per_second: int, burst_bytes: int, mtu: int) -> Bucket:
    """A burst smaller than one packet would let nothing through; the queue holds 50 ms, or two bursts and 16 packets.

    The queue's size tells of the burst too: what the kernel tells back of that itself is rounded.
    """
    packet = mtu + _FRAME
    rate = max(bits_per_second // 8, 1)
    burst = min(max(burst_bytes, packet), _LARGEST // 4)
    return Bucket(rate, burst, min(2 * burst + max(rate // 20, 16 * packet), _LARGEST))


def encode(want: Bucket) -> bytes:
    """The content of TCA_OPTIONS."""
    spec = (0, _LINKLAYER_ETHERNET, 0, 0, 0, min(want.rate, _LARGEST))
    parms = _QOPT.pack(*spec, 0, 0, 0, 0, 0, 0, want.queue, 0, 0)
    rate, burst = struct.pack("=Q", want.rate), struct.pack("=I", want.burst)
    return b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value
        for kind, value in ((_PARMS, parms), (_RATE64, rate), (_BURST, burst))
    )


def matches(options: dict[int, bytes], want: Bucket) -> bool:
    """Whether the attributes that the kernel tells of a token bucket filter are those of this one."""
    parms = options.get(_PARMS, b"")
    if len(parms) < _QOPT.size:
        return False
    fields = _QOPT.unpack_from(parms)
    rate = struct.unpack("=Q", options[_RATE64])[0] if len(options.get(_RATE64, b"")) == 8 else fields[5]
    return (rate, fields[12]) == (want.rate, want.queue)
