"""What qemu-guest-agent said, as libvirt hands it on → what may be shown of it. Used by hypervisor.py. Pure.

A hostile guest can say anything, as long and as often as it likes: everything is cut, counted and checked here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Final

from berth.api.order import NicReport
from berth.api.virtualmachine import GuestInfo

HOSTNAME_CHARS: Final = 253
TEXT_CHARS: Final = 256
NAME_CHARS: Final = 32
MOST_NICS: Final = 16
MOST_ADDRESSES: Final = 16
_LOOKED_AT: Final = 64  # of each list that a guest makes as long as it likes
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

Said = Mapping[str, object]


def info(said: Said) -> GuestInfo:
    return GuestInfo(
        agent_connected=True,
        hostname=shown(said.get("hostname"), HOSTNAME_CHARS),
        os=shown(said.get("os.pretty-name") or said.get("os.name"), TEXT_CHARS),
        kernel=shown(said.get("os.kernel-release"), TEXT_CHARS),
    )


def nics(said: Said) -> tuple[NicReport, ...]:
    """Those with a MAC address, loopback left out, in an order that does not change from one answer to the next."""
    found = [nic for index in range(_count(said, "if.count")) if (nic := _nic(said, f"if.{index}")) is not None]
    return tuple(sorted(found, key=lambda nic: (nic.name, nic.mac))[:MOST_NICS])


def shown(value: object, limit: int) -> str | None:
    if not isinstance(value, str):
        return None
    return "".join(c if c.isprintable() else "?" for c in value)[:limit].strip() or None


def _nic(said: Said, key: str) -> NicReport | None:
    mac, name = said.get(f"{key}.hwaddr"), shown(said.get(f"{key}.name"), NAME_CHARS) or ""
    if not isinstance(mac, str) or not _MAC.fullmatch(mac.lower()) or mac == "00:00:00:00:00:00" or name == "lo":
        return None
    return NicReport(mac=mac.lower(), name=name, addresses=tuple(sorted(set(_addresses(said, key)))[:MOST_ADDRESSES]))


def _addresses(said: Said, key: str) -> Iterator[str]:
    for index in range(_count(said, f"{key}.addr.count")):
        text = said.get(f"{key}.addr.{index}.addr")
        try:
            address = ipaddress.ip_address(text if isinstance(text, str) else "")
        except ValueError:
            continue
        if getattr(address, "scope_id", None) is None and not address.is_loopback:
            yield str(address)


def _count(said: Said, key: str) -> int:
    count = said.get(key)
    return min(count, _LOOKED_AT) if isinstance(count, int) and count > 0 else 0
