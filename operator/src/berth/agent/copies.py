"""What saving a guest, taking a snapshot of it, and beginning with either have in common. Used by saving.py, taking.py
and reverting.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from berth.agent.world import Snapshotting, World
from berth.api.kept import SnapshotDisk
from berth.domain.copied import Copied
from berth.domain.files import DiskFile, MediaFiles
from berth.effects.ports_saving import Copying
from berth.errors import HostFault, HypervisorDown

POLL_SECONDS: Final = 0.5


def ports(world: World) -> Snapshotting:
    if world.snapshots is None:
        raise HostFault("this agent cannot deal with snapshots", reason="SnapshotUnsupported")
    return world.snapshots


async def sizes(world: World, uid: str, disks: Iterable[Copied]) -> tuple[SnapshotDisk, ...]:
    """As the guest sees them."""
    run, ask = world.run, world.hypervisor.disk_bytes
    found = [(disk.name, await run(ask, uid, disk.target)) for disk in disks]
    return tuple(SnapshotDisk(name=name, size_bytes=size) for name, size in found)


async def copied(
    world: World, uid: str, go_on: Callable[[], None], told: Callable[[Copying], None] = lambda found: None
) -> None:
    """Wait until libvirt has copied all disks. ``go_on`` raises when it is given up."""
    while True:
        go_on()
        try:
            found = await world.run(ports(world).backups.copying, uid)
        except HypervisorDown:
            pass  # the copies go on without libvirtd
        else:
            if found is None:
                break
            told(found)
        await asyncio.sleep(POLL_SECONDS)
    await world.run(ports(world).backups.check, uid)


async def end(world: World, uid: str) -> None:
    """Of copies that an agent, this one or one before it, has libvirt make; nothing where none can be made."""
    if world.snapshots is not None:
        await world.run(world.snapshots.backups.abort, uid)


def targets(
    kept: Sequence[SnapshotDisk], written: Iterable[Copied], files: MediaFiles, what: str
) -> list[tuple[SnapshotDisk, DiskFile]]:
    """Each of the disks that were kept, with the machine's own file for it."""
    names = {disk.name for disk in written}
    own = {file.name: file for file in files.disks if file.name in names}
    if missing := [disk.name for disk in kept if disk.name not in own]:
        text = f"{what} has disk {', '.join(missing)}, and the machine has none of that name to write on"
        raise HostFault(f"{text}. Next: give it such a disk again, or choose another start", reason="DiskMissing")
    return [(disk, own[disk.name]) for disk in kept]
