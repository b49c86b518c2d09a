"""That two nodes mount the very same claims, before a guest that writes to files on them goes from one to the other.

A claim that several nodes may mount can be a folder of each node's own all the same. So the target leaves a mark on
each, and only a source that sees all of them sends the guest. Used by sending.py and receiving.py.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping

from berth.api.order import DiskKind, MachineOrder
from berth.effects.ports import Berth, Media
from berth.errors import HostFault


def folders(machine: MachineOrder) -> dict[str, str]:
    """Disk → where its claim is mounted, of those that the guest writes to."""
    written = (disk for disk in machine.disks if disk.kind is DiskKind.FILE and not disk.read_only)
    return {disk.name: disk.source.folder for disk in written if disk.source is not None}


@contextlib.contextmanager
def marked(media: Media, berth: Berth, machine: MachineOrder) -> Iterator[dict[str, str]]:
    """At the target: disk → the mark on its claim, which is there as long as the block lasts."""
    name = f".berth-{secrets.token_hex(8)}"
    places = folders(machine)
    try:
        for folder in sorted(set(places.values())):
            media.mark(berth, folder, name)
        yield dict.fromkeys(places, name)
    finally:
        for folder in sorted(set(places.values())):
            with contextlib.suppress(HostFault):
                media.unmark(berth, folder, name)


def check(media: Media, berth: Berth, machine: MachineOrder, marks: Mapping[str, str]) -> None:
    """At the source: ClaimNotShared unless each claim has the other node's mark."""
    for disk, folder in folders(machine).items():
        name = marks.get(disk, "")
        if "/" in name or not name.startswith(".berth-") or not media.is_marked(berth, folder, name):
            text = f"disk {disk}: both nodes mount its claim, and they do not have the same storage behind it"
            raise HostFault(f"{text}; use a claim whose storage several nodes share", reason="ClaimNotShared")
