"""A machine's network handed from one berth to the next: the part of Network that is about moving. Used by network.py.

What goes between pods is doorways.py's; here are the guest's other NICs too, and the limits on what it sends.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from berth.api.handover import DoorOrder, Flow, Forward
from berth.api.order import NicKind, NicOrder
from berth.effects import doorways, joined, joined_nic, namespaces, netlink, shaping, taps, wiring
from berth.effects.doorways import Doorways
from berth.effects.rtnetlink import NetlinkError
from berth.effects.rtroutes import Routes
from berth.errors import HostFault

T = TypeVar("T")
_LONGEST_WAIT: Final = 0.2


def departed(site: taps.Site) -> bool:
    """Whether what comes for the guest is sent elsewhere."""
    return _visit(site, lambda ways: ways.departed())


def open_doors(site: taps.Site, nics: Sequence[NicOrder], orders: Sequence[DoorOrder]) -> None:
    """Only a NIC on the pod network has connections through pod IPs."""
    wanted = orders if any(nic.kind is NicKind.POD for nic in nics) else ()
    _visit(site, lambda ways: ways.open(wanted))


def prepare(site: taps.Site, forward: Forward) -> None:
    _visit(site, lambda ways: ways.lead_away(forward))


def depart(site: taps.Site, nics: Sequence[NicOrder], forward: Forward) -> tuple[Flow, ...]:
    """The limit on what leaves goes: what passes here from now on is counted where the guest is, or is not its."""

    def work(ways: Doorways) -> tuple[Flow, ...]:
        if not ways.ready(forward):
            ways.lead_away(forward)
        ways.switch()
        for name in _joined(nics):
            if (index := netlink.index_of(name)) is not None:
                ways.routes.set_down(index)
        if any(nic.kind is NicKind.POD for nic in nics) and shaping.shape(wiring.UPLINK, None):
            site.changed(wiring.SetLimit(wiring.UPLINK, None))
        ways.hint()
        return doorways.flows(forward.door.number)

    return _visit(site, work)


def stay(site: taps.Site, nics: Sequence[NicOrder]) -> None:
    def work(ways: Doorways) -> None:
        away = ways.departed()
        ways.switch_back()
        for nic in nics:
            if nic.kind is NicKind.POD and shaping.shape(wiring.UPLINK, nic.outbound):
                site.changed(wiring.SetLimit(wiring.UPLINK, nic.outbound))
        if away:
            _speak(ways.routes, site, nics)

    _visit(site, work)


def arrive(site: taps.Site, flows: Sequence[Flow]) -> None:
    def work(ways: Doorways) -> None:
        open_doors = ways.numbers()
        doorways.take(flow for flow in flows if flow.door in open_doors)

    _visit(site, work)


def speak(site: taps.Site, nics: Sequence[NicOrder]) -> None:
    """Segments are open to the guest from now on, and hear where it is."""
    _visit(site, lambda ways: _speak(ways.routes, site, nics))


def connections(site: taps.Site) -> int:
    return _visit(site, lambda ways: doorways.open_connections())


def _speak(routes: Routes, site: taps.Site, nics: Sequence[NicOrder]) -> None:
    for name in _joined(nics):
        if (index := netlink.index_of(name)) is not None:
            routes.set_link(index, up=True)
            _wait(functools.partial(routes.carries, index))
    for nic in nics:
        if nic.kind in (NicKind.SEGMENT, NicKind.ATTACHMENT):
            joined_nic.say_where(site, nic)


def _wait(carries: Callable[[], bool]) -> None:
    """The kernel opens a bridge's port some milliseconds after its link: what is said before that, nobody hears."""
    deadline = time.monotonic() + _LONGEST_WAIT
    while not carries() and time.monotonic() < deadline:
        time.sleep(0.001)


def _joined(nics: Sequence[NicOrder]) -> list[str]:
    """The devices through which segments are reached."""
    return [joined.desired(nic).other for nic in nics if nic.kind in (NicKind.SEGMENT, NicKind.ATTACHMENT)]


def _visit(site: taps.Site, work: Callable[[Doorways], T]) -> T:
    def inside() -> T:
        try:
            with Routes() as routes:
                return work(Doorways(routes, site.changed))
        except NetlinkError as error:
            raise HostFault(f"the way to the machine's other pod: {error}", reason="DoorFailed") from error

    return namespaces.in_network(site.netns, inside)
