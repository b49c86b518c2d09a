"""Which devices firmware tries, in which order: disks and NICs of an order in, their places 1, 2, 3 … out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from berth.api.order import MachineOrder


@dataclass(frozen=True, slots=True)
class BootOrders:
    """By name; what is in neither is never tried."""

    disks: Mapping[str, int] = field(default_factory=dict)
    nics: Mapping[str, int] = field(default_factory=dict)


def boot_orders(machine: MachineOrder) -> BootOrders:
    """First those with an order given, by it (disks before NICs), then the other disks as they are listed."""
    if machine.kernel is not None:
        return BootOrders()  # QEMU loads the kernel itself
    given = [(disk.boot_order, "disk", disk.name) for disk in machine.disks if disk.boot_order is not None]
    given += [(nic.boot_order, "nic", nic.name) for nic in machine.nics if nic.boot_order is not None]
    ranked = [(kind, name) for _, kind, name in sorted(given, key=lambda one: one[0])]
    ranked += [("disk", disk.name) for disk in machine.disks if disk.boot_order is None]
    places = {one: place for place, one in enumerate(ranked, start=1)}
    return BootOrders(
        {name: place for (kind, name), place in places.items() if kind == "disk"},
        {name: place for (kind, name), place in places.items() if kind == "nic"},
    )
