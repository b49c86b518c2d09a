"""The ways between a machine's berths: DoorOrders in, the tunnels that shall be out. Called by doorways.py. Pure.

A machine that moved has left a berth behind, its pod IP with it: a door. What comes for that IP still meets that pod's
rules, is sent through the tunnel ``away`` and arrives here on ``door<number>``. What answers it goes back the same way:
every connection that came through a door has the door's mark, and a mark has a routing table of its own.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from berth.api.handover import DoorOrder, Forward
from berth.effects.rtroutes import Tunnel
from berth.errors import HostFault

AWAY: Final = "away"
DOOR: Final = "door"
"""How the names of the devices begin that lead to earlier berths."""
PORT: Final = 14790
"""UDP, between the machine's own pods."""
PREFERENCE: Final = 500
"""Of the rules that lead marks to tables."""
GATEWAYS: Final = {4: "169.254.77.1", 6: "fe80::77:1"}
"""Stand for the other end in routes; nobody has these addresses."""
LAST: Final = "last"
"""In the alias of the door that the guest came from, which passes on what came through the others; DOOR in theirs."""
_MACS: Final = ("02:00:0a:00:02:11", "02:00:0a:00:02:12")  # at the earlier berth, at the later one
_MARKS: Final = 0xBE00
_HINT: Final = 0x100
_HEADERS: Final = {4: 50, 6: 70}  # outer IP, UDP, VXLAN and the inner Ethernet header
_TCP: Final = {4: 40, 6: 60}  # IP and TCP headers


@dataclass(frozen=True, slots=True)
class Uplink:
    """The pod's own interface."""

    mtu: int
    addresses: tuple[str, ...]  # without prefix lengths; none that is link-local

    def version_shared_with(self, others: Sequence[str]) -> tuple[str, str]:
        """An address here and one there, of IPv4 when both have one."""
        for version in (4, 6):
            here, there = (_of(found, version) for found in (self.addresses, others))
            if here and there:
                return here, there
        message = f"pods {', '.join(self.addresses)} and {', '.join(others)} have no family of addresses in common"
        raise HostFault(message, reason="DoorUnreachable")


def mark(number: int) -> int:
    """Of the connections that came through that door; and the number of the table that leads back there."""
    return _MARKS | number


def hint(number: int) -> int:
    """Marks a packet that is refused with "too big" if it would have to be cut; 0 for what goes away. The table of that
    number leads the same way."""
    return _MARKS | _HINT | number


def door_of(mark: int) -> int:
    """The number that a connection's mark tells; 0 for one that came by the pod's own address."""
    return mark & 0xFF if mark & ~0xFF == _MARKS else 0


def number(device: str) -> int:
    """The door's, of its device."""
    return int(device.removeprefix(DOOR))


def vni(door: DoorOrder) -> int:
    """The number, and something that nobody guesses who does not know the pod's uid."""
    return int.from_bytes(hashlib.sha256(door.pod_uid.encode()).digest()[:2], "big") << 8 | door.number


def to_door(door: DoorOrder, uplink: Uplink, *, last: bool) -> Tunnel:
    local, remote = uplink.version_shared_with(door.addresses)
    note = LAST if last else DOOR
    return Tunnel(f"{DOOR}{door.number}", vni(door), local, remote, _MACS[1], mtu(uplink.mtu, local), note)


def to_doors(doors: Sequence[DoorOrder], uplink: Uplink) -> dict[str, Tunnel]:
    found = [to_door(door, uplink, last=door is doors[-1]) for door in doors]
    return {tunnel.name: tunnel for tunnel in found}


def away(forward: Forward, uplink: Uplink) -> Tunnel:
    """Its note: from which pods packets may come back, this one's and others that the machine was or will be in."""
    local, remote = uplink.version_shared_with(forward.addresses)
    version, own = ipaddress.ip_address(local).version, set(uplink.addresses)
    others = {a for a in forward.others if ipaddress.ip_address(a).version == version} - own - {remote}
    note = " ".join([remote, *sorted(others)][:6])  # an alias holds 255 characters
    return Tunnel(AWAY, vni(forward.door), local, remote, _MACS[0], mtu(uplink.mtu, local), note)


def other_mac(tunnel: Tunnel) -> str:
    """Of the device at the other end."""
    return _MACS[1] if tunnel.mac == _MACS[0] else _MACS[0]


def callers(tunnel: Tunnel) -> list[str]:
    """From where this tunnel's packets may come."""
    return tunnel.note.split() if tunnel.name == AWAY else [tunnel.remote]


def mtu(uplink: int, local: str) -> int:
    """Over IPv4 the tunnel's packets may be cut in pieces, and it carries all that the pods' interfaces carry."""
    return uplink if ":" not in local else uplink - _HEADERS[6]


def uncut(uplink: int, local: str) -> int:
    """The largest packet that the tunnel carries in one piece."""
    return uplink - _HEADERS[6 if ":" in local else 4]


def segment_size(uplink: int, local: str, inner: int) -> int:
    """What new TCP connections are told to send at most, so that nothing need be cut."""
    return uncut(uplink, local) - _TCP[inner]


def same(seen: Tunnel, want: Tunnel) -> bool:
    """Whether the device need not be made anew."""
    return (seen.vni, seen.local, seen.mac) == (want.vni, want.local, want.mac)


def _of(addresses: Sequence[str], version: int) -> str:
    return next((text for text in addresses if ipaddress.ip_address(text).version == version), "")
