"""One attempt at reverting a machine to a snapshot, before it starts: verify, put its disks back, restore its memory.
Used by saving.py.

Done again from the start after whatever broke it off: the snapshot is never changed, and the mark in the volume keeps
the machine from being started otherwise meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from berth.agent import copies
from berth.agent.copies import ports
from berth.agent.world import World
from berth.api.kept import RevertOrder, SnapshotDisk, StateOrder
from berth.api.order import Order
from berth.domain import copied
from berth.domain.files import DiskFile, MediaFiles
from berth.effects.ports import Berth
from berth.errors import HostFault


@dataclass(slots=True)
class Reverting:
    """``make``: a machine type → the XML of a domain with it. ``files`` are the machine's own, prepared."""

    world: World
    order: Order
    berth: Berth
    state: StateOrder
    guest_uid: int
    files: MediaFiles
    make: Callable[[str], Awaitable[str]]
    aborted: Callable[[], bool]
    percent: int | None = None

    async def run(self) -> dict[str, object]:
        run, reverts, revert = self.world.run, ports(self.world).reverts, self._revert()
        where = (self.order.uid, self.berth, self.state, revert)
        kept = await run(reverts.open, *where)
        written, what = copied.written(self.order.machine), f"snapshot {revert.name}"
        disks = copies.targets(kept.disks, written, self.files, what)
        self._check_none_added(kept.disks, revert)
        self._go_on()
        await run(reverts.begin, *where)
        await self._put_back(disks, revert)
        if revert.memory:
            domain = await self.make(kept.machine)
            path = await run(reverts.show, *where)
            self._go_on()
            await run(self.world.hypervisor.restore, path, domain)
        return {"snapshot": revert.snapshot, "bytes": kept.bytes}

    async def _put_back(self, disks: list[tuple[SnapshotDisk, DiskFile]], revert: RevertOrder) -> None:
        total, done = sum(disk.size_bytes for disk, _ in disks), 0
        for disk, file in disks:
            self._go_on()
            self.percent = 100 * done // total
            where = (self.order.uid, self.guest_uid, self.berth, self.state, revert)
            await self.world.run(ports(self.world).reverts.put_back, *where, disk, file)
            done += disk.size_bytes

    def _check_none_added(self, kept: tuple[SnapshotDisk, ...], revert: RevertOrder) -> None:
        """Memory fits the disks that it was taken with, and no others."""
        added = {disk.name for disk in copied.written(self.order.machine)} - {disk.name for disk in kept}
        if revert.memory and added:
            names = ", ".join(sorted(added))
            text = f"the machine has disk {names}, which the memory of snapshot {revert.name} does not know"
            raise HostFault(f"{text}. Next: take it away, or revert without memory", reason="DiskAdded")

    def _revert(self) -> RevertOrder:
        if self.state.revert is None:
            raise HostFault("the plan reverts to a snapshot that no order names", reason="InternalError")
        return self.state.revert

    def _go_on(self) -> None:
        if self.aborted():
            raise HostFault("it was given up", reason="Aborted")
