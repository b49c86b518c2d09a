"""Guests that are saved and restored, in memory. Used by memory.py and tests.

A volume outlives nodes and is shared by those that are given the same one; the mark is a node's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from berth.api.kept import RevertOrder, SnapshotDisk, StateOrder
from berth.domain.files import DiskFile
from berth.domain.observed import KeptStates
from berth.effects.manifests import Manifest
from berth.effects.ports import Berth
from berth.effects.ports_saving import SavedGuest
from berth.errors import HostFault


@dataclass(slots=True)
class Volume:
    """By machine and start."""

    complete: set[tuple[str, int]] = field(default_factory=set)
    used: set[tuple[str, int]] = field(default_factory=set)
    drafts: set[tuple[str, int]] = field(default_factory=set)
    corrupt: set[tuple[str, int]] = field(default_factory=set)
    state_disks: dict[tuple[str, int], tuple[SnapshotDisk, ...]] = field(default_factory=dict)
    snapshots: dict[tuple[str, str], Manifest | None] = field(default_factory=dict)  # None: not whole
    spoiled: set[str] = field(default_factory=set)  # snapshots that are not what was taken
    reverted: dict[str, str] = field(default_factory=dict)
    reverting: dict[str, RevertOrder] = field(default_factory=dict)
    disks: dict[str, str] = field(default_factory=dict)  # which snapshot's they are; "half" while they are written

    def whole(self, vm_uid: str) -> frozenset[str]:
        return frozenset(uid for (vm, uid), told in self.snapshots.items() if vm == vm_uid and told is not None)


@dataclass(slots=True)
class MemoryStates:
    volume: Volume
    did: Callable[[str, str], None]
    marks: set[str] = field(default_factory=set)
    clocks: set[str] = field(default_factory=set)

    def begun(self, vm_uid: str) -> str | None:
        return "/memory" if vm_uid in self.marks else None

    def look(self, vm_uid: str, berth: Berth, state: StateOrder) -> KeptStates:
        volume = self.volume
        return KeptStates(
            frozenset(epoch for uid, epoch in volume.complete if uid == vm_uid),
            frozenset(epoch for uid, epoch in volume.used if uid == vm_uid),
            volume.whole(vm_uid),
            volume.reverted.get(vm_uid, ""),
            volume.reverting.get(vm_uid),
        )

    def draft(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> str:
        self.marks.add(vm_uid)
        self.did("draft", f"{vm_uid} {epoch}")
        self.volume.drafts = {(vm_uid, epoch)}
        return f"/memory/{vm_uid}"

    def draft_disks(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        epoch: int,
        disks: Sequence[SnapshotDisk],
    ) -> Mapping[str, str]:
        self.did("draft_disks", f"{vm_uid} {epoch}")
        return {disk.name: f"/memory/{vm_uid}/{disk.name}" for disk in disks}

    def finish(
        self,
        vm_uid: str,
        berth: Berth,
        state: StateOrder,
        epoch: int,
        machine: str,
        disks: Sequence[SnapshotDisk] = (),
    ) -> int:
        self.did("finish", f"{vm_uid} {epoch}")
        self.volume.state_disks[vm_uid, epoch] = tuple(disks)
        self.volume.drafts.discard((vm_uid, epoch))
        self.volume.complete = {one for one in self.volume.complete if one[0] != vm_uid} | {(vm_uid, epoch)}
        return 1

    def scrap(self, vm_uid: str, berth: Berth, state: StateOrder) -> None:
        self.did("scrap", vm_uid)
        self.volume.complete = {one for one in self.volume.complete if one[0] != vm_uid}
        self.volume.drafts = {one for one in self.volume.drafts if one[0] != vm_uid}
        self.unmark(vm_uid)

    def unmark(self, vm_uid: str) -> None:
        self.marks.discard(vm_uid)

    def open(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> SavedGuest:
        if (vm_uid, epoch) not in self.volume.complete or (vm_uid, epoch) in self.volume.corrupt:
            raise HostFault(f"memory-{epoch}: is not what was saved", reason="StateCorrupt")
        return SavedGuest(f"/memory/{vm_uid}", disks=self.volume.state_disks.get((vm_uid, epoch), ()))

    def put_back(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        state: StateOrder,
        epoch: int,
        disk: SnapshotDisk,
        file: DiskFile,
    ) -> None:
        self.volume.disks[vm_uid] = "half"
        self.did("put_back", f"{vm_uid} {disk.name}")
        self.volume.disks[vm_uid] = f"start {epoch}"

    def use(self, vm_uid: str, berth: Berth, state: StateOrder, epoch: int) -> None:
        self.did("use", f"{vm_uid} {epoch}")
        self.clocks.add(vm_uid)
        self.volume.complete.discard((vm_uid, epoch))
        self.volume.used.add((vm_uid, epoch))

    def clock_due(self, vm_uid: str) -> bool:
        return vm_uid in self.clocks

    def clock_set(self, vm_uid: str) -> None:
        self.clocks.discard(vm_uid)
