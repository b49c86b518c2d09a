"""The live XML of a running machine → its NICs and the slots that are free for more. Used by xml.py; pure.

Tolerant: a guest that an older Berth started has NICs with libvirt's own aliases, which are known by their MAC address.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from berth.api.order import Order
from berth.domain.devices import address
from berth.domain.devices.controller import PLUG_BRIDGE
from berth.domain.devices.interface import ALIAS
from berth.domain.observed import GuestNic


def nics(domain: Element, order: Order) -> tuple[GuestNic, ...]:
    names = {nic.mac.lower(): nic.name for nic in order.machine.nics}
    found = (_nic(interface, names) for interface in domain.iterfind("devices/interface"))
    return tuple(nic for nic in found if nic is not None)


def free_slots(domain: Element) -> tuple[int, ...]:
    """Slots of the bridge that nothing is in; none when the machine has no such bridge."""
    bridges = (c for c in domain.iterfind("devices/controller") if c.get("model") == PLUG_BRIDGE)
    if not any(bridge.get("index") == str(address.PLUG_BUS) for bridge in bridges):
        return ()
    taken = {_slot(place) for place in domain.iterfind("devices/*/address")}
    return tuple(slot for slot in address.PLUG_SLOTS if slot not in taken)


def _nic(interface: Element, names: dict[str, str]) -> GuestNic | None:
    alias, mac = _attribute(interface, "alias", "name"), _attribute(interface, "mac", "address").lower()
    name = alias.removeprefix(ALIAS) if alias.startswith(ALIAS) else names.get(mac)
    if name is None:
        return None  # somebody else plugged it in
    place = interface.find("address")
    return GuestNic(
        name=name,
        alias=alias,
        mac=mac,
        link_up=_attribute(interface, "link", "state") != "down",
        slot=_slot(place) if place is not None else None,
    )


def _slot(place: Element) -> int | None:
    try:
        bus, slot = int(place.get("bus", ""), 16), int(place.get("slot", ""), 16)
    except ValueError:
        return None  # no PCI address
    return slot if bus == address.PLUG_BUS else None


def _attribute(parent: Element, child: str, name: str) -> str:
    found = parent.find(child)
    return found.get(name, "") if found is not None else ""
