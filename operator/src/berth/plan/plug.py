"""The NICs of a running guest: those it has and those it is to have in, the steps between them out. Used by machine.py.

Level-based: what the guest has is read from its live domain. A NIC comes with its cable out, gets its network, then its
cable is plugged in; one that leaves loses its cable, then the guest is asked to let go, and only when it has done so is
its network taken away. Only NICs on segments come and go: the others are part of the pod, and wait for the next start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from berth.api.order import NicKind, NicOrder, Order
from berth.domain.nics import plugs
from berth.domain.observed import Guest, GuestNic
from berth.plan import gathered, steps
from berth.plan.gathered import Gathered, Unplug
from berth.plan.steps import Awaited, Step

UNPLUG_INTERVAL: Final = 10.0
"""Seconds between two requests to let go of a NIC: a guest that is still booting does not hear the first."""


UNPLUG_PATIENCE: Final = 5.0
"""Seconds after which people are told that the guest keeps it."""


def carried(guest: Guest, order: Order) -> Order:
    """The order as far as the guest's NICs follow it: what the network is set up for, and what is recorded.

    One that is still to leave is as it was recorded; one that is still to come is left out.
    """
    recorded = {nic.name: nic for nic in guest.order.machine.nics}
    wanted = {nic.name: nic for nic in order.machine.nics}
    live = {nic.name: nic for nic in guest.nics}
    names = list(dict.fromkeys((*wanted, *live)))
    found = ((wanted if _same(wanted.get(name), live.get(name)) else recorded).get(name) for name in names)
    nics = tuple(nic for nic in found if nic is not None and nic.name in live)
    return order.model_copy(update={"machine": order.machine.model_copy(update={"nics": nics})})


def leaving(g: Gathered, guest: Guest) -> tuple[GuestNic, ...]:
    """NICs that the guest is to let go of: not in the order any more, or there as another card."""
    order = _ordered(g, guest)
    if order is None:
        return ()
    wanted = {nic.name: nic for nic in order.machine.nics}
    return tuple(nic for nic in guest.nics if nic.slot is not None and not _same(wanted.get(nic.name), nic))


def coming(g: Gathered, guest: Guest) -> tuple[NicOrder, ...]:
    """NICs that are still to be plugged in."""
    order = _ordered(g, guest)
    return tuple(n for n in order.machine.nics if plugs(n) and guest.nic(n.name) is None) if order is not None else ()


def changes(g: Gathered, guest: Guest) -> Iterator[Step]:
    """What can be done now; ``waits`` tells what is waited for."""
    for nic in leaving(g, guest):
        if nic.link_up:
            yield steps.SetLink(nic.name, nic.alias, False, f"NIC {nic.name} is to go")
        asked = g.unplugs.get(nic.name)
        if asked is None or asked.age >= UNPLUG_INTERVAL:
            reason = f"NIC {nic.name} is ordered no more" if asked is None else f"the guest keeps NIC {nic.name}"
            yield steps.UnplugNic(nic.name, nic.alias, reason)
    yield from _plugs(g, guest)
    yield from _links(g, guest)


def waits(g: Gathered, guest: Guest) -> Iterator[Step]:
    for nic in leaving(g, guest):
        asked = g.unplugs.get(nic.name, Unplug())
        left = UNPLUG_INTERVAL - asked.age
        if asked.since < UNPLUG_PATIENCE:
            left = min(left, UNPLUG_PATIENCE - asked.since)
        yield steps.WaitFor(Awaited.UNPLUG, max(left, 0.0), f"the guest is to let go of NIC {nic.name}")


def kept(g: Gathered, guest: Guest) -> tuple[str, ...]:
    """NICs that the guest has not let go of for a while: worth telling."""
    asked = ((nic.name, g.unplugs.get(nic.name)) for nic in leaving(g, guest))
    return tuple(name for name, unplug in asked if unplug is not None and unplug.since >= UNPLUG_PATIENCE)


def without_slot(g: Gathered, guest: Guest) -> tuple[str, ...]:
    """NICs that cannot be plugged in while this machine runs."""
    return tuple(nic.name for nic in coming(g, guest)[len(guest.free_slots) :])


def _plugs(g: Gathered, guest: Guest) -> Iterator[Step]:
    order, free = _ordered(g, guest), list(guest.free_slots)
    if order is None or order.berth.pod_uid not in g.present:
        return
    places = {nic.name: place for place, nic in enumerate(order.machine.nics, start=1)}
    for nic in coming(g, guest):
        if free:
            slot = places[nic.name] if places[nic.name] in free else free[0]
            free.remove(slot)
            yield steps.PlugNic(order, nic, slot, f"NIC {nic.name} is ordered")


def _links(g: Gathered, guest: Guest) -> Iterator[Step]:
    """A cable is plugged in only where a network is served."""
    order = gathered.wanted(g, guest)
    served = {nic.name for nic in g.network or ()}
    for nic in order.machine.nics:
        live = guest.nic(nic.name)
        if live is None or nic.kind is NicKind.DEVICE or not _same(nic, live) or nic.link_up == live.link_up:
            continue
        if nic.link_up and nic.name not in served:
            continue
        yield steps.SetLink(nic.name, live.alias, nic.link_up, f"link {'Up' if nic.link_up else 'Down'} is ordered")


def _ordered(g: Gathered, guest: Guest) -> Order | None:
    """The controller's own word: what was recorded may be half of a change, which only that word can finish."""
    order = gathered.accepted(g)
    return order if order is not None and order.epoch == guest.order.epoch else None


def _same(nic: NicOrder | None, live: GuestNic | None) -> bool:
    return nic is not None and live is not None and nic.mac.lower() == live.mac
