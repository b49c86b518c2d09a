"""The steps of steps.py that are about what is kept of a machine in a volume: saved states, snapshots, reverts."""

from __future__ import annotations

from dataclasses import dataclass

from berth.api.kept import RevertOrder
from berth.api.order import Order


@dataclass(frozen=True, slots=True)
class BeginSave:
    """When its turn comes: mark it, stop the guest, have libvirt write memory and devices to the volume. Beside the
    other steps: none waits for it."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class AbortSave:
    """End that, or BeginRestore, or BeginRevert."""

    reason: str


@dataclass(frozen=True, slots=True)
class ScrapState:
    """States.scrap: manifests first, then memory, then the mark."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class BeginRestore:
    """In place of CreatePaused: States.open verifies the state of that start, Hypervisor.restore makes the domain. When
    its turn comes, beside the other steps."""

    order: Order
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class UseState:
    """States.use: from here on the state is used."""

    order: Order
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class SetClock:
    """Hypervisor.set_clock: the guest slept, and does not know for how long."""

    reason: str


@dataclass(frozen=True, slots=True)
class BeginSnapshot:
    """When its turn comes: mark it, stop the guest for its memory, begin to copy its disks, let it run. Beside the
    other steps: none waits for it."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class AbortSnapshot:
    """End that; the guest runs on."""

    reason: str


@dataclass(frozen=True, slots=True)
class ScrapSnapshot:
    """End what an agent before this one had begun, thaw the guest's file systems, let it run when it ``runs``; then
    remove the files, which the volume may hold up, and the mark."""

    order: Order
    runs: bool
    reason: str


@dataclass(frozen=True, slots=True)
class ForgetSnapshots:
    """Snapshots.forget. What cannot be removed now is tried again later, and holds nothing else up."""

    order: Order
    uids: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class BeginRevert:
    """Before CreatePaused: verify the snapshot, put its disks back; and in place of it Hypervisor.restore, when it has
    memory that counts. When its turn comes, beside the other steps."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class UseRevert:
    """Reverts.use: from here on the request is carried out, and what was saved of the machine is gone."""

    order: Order
    revert: RevertOrder
    reason: str


KeptStep = (
    BeginSave
    | AbortSave
    | ScrapState
    | BeginRestore
    | UseState
    | SetClock
    | BeginSnapshot
    | AbortSnapshot
    | ScrapSnapshot
    | ForgetSnapshots
    | BeginRevert
    | UseRevert
)
