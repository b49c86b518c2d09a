"""Which disks of a machine are files of its node alone, and go along by being copied when it moves; which ones a
snapshot holds. Pure.

Called by the agents of both nodes, each with its own order, and by the words that the source's reports say of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from berth.api.devices import DiskBus
from berth.api.order import DiskKind, DiskOrder, MachineOrder
from berth.domain.devices import disk


@dataclass(frozen=True, slots=True)
class Copied:
    """``target`` is libvirt's name of the disk. ``size_bytes`` is None for one that is as large as its image."""

    name: str
    target: str
    size_bytes: int | None


def of(machine: MachineOrder) -> tuple[Copied, ...]:
    return tuple(_of(machine, is_copied))


def written(machine: MachineOrder) -> tuple[Copied, ...]:
    """All that the guest can write: what a snapshot holds."""
    return tuple(_of(machine, lambda order: not order.read_only))


def _of(machine: MachineOrder, wanted: Callable[[DiskOrder], bool]) -> Iterator[Copied]:
    counts = dict.fromkeys(DiskBus, 0)
    for order in machine.disks:
        if wanted(order):
            yield Copied(order.name, disk.target(order.bus, counts[order.bus]), order.size_bytes)
        counts[order.bus] += 1


def is_copied(order: DiskOrder) -> bool:
    """What the guest can write beside its claims. What it only reads is made anew on the other node."""
    return order.kind in (DiskKind.EMPTY, DiskKind.OVERLAY) and not order.read_only
