"""The NICs of an order → devices of the domain, at the start and when one is plugged into a running machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from berth.api.devices import MOST_NICS
from berth.api.order import MachineOrder, NicKind, NicOrder
from berth.domain.bootorder import BootOrders
from berth.domain.devices import Device, address
from berth.domain.devices.controller import PlugBridge, RootPort
from berth.domain.devices.hostdev import HostFunction
from berth.domain.devices.interface import Interface
from berth.domain.host import Accelerator, Host
from berth.errors import HostFault

_NEXT: Final = "Next: see whether the device plugin runs on this node and what it gave to the pod"


def devices(machine: MachineOrder, taps: Mapping[str, str], host: Host, boots: BootOrders) -> Iterator[Device]:
    """All NICs of a start, and the bridge for those that come later."""
    if len(machine.nics) > MOST_NICS:
        message = f"a machine has slots for {MOST_NICS} NICs (given: {len(machine.nics)})"
        raise HostFault(message, reason="OrderInvalid")
    yield RootPort()
    yield PlugBridge()
    functions = {resource: iter(given) for resource, given in host.functions.items()}
    for index, nic in enumerate(machine.nics):
        boot = boots.nics.get(nic.name)
        if nic.kind is NicKind.DEVICE:
            source = next(functions.get(nic.resource, iter(())), None)
            yield HostFunction(nic.name, _given(nic, source), nic.mac, address.nic(index), boot)
        else:
            place = address.plugged(index + 1) if plugs(nic) else address.nic(index)
            yield interface(nic, taps[nic.name], host, place, boot)


def plugs(nic: NicOrder) -> bool:
    """Whether it may come and go while the machine runs."""
    return nic.kind is NicKind.SEGMENT


def interface(
    nic: NicOrder, tap: str, host: Host, place: address.PciAddress, boot: int | None = None, *, link_up: bool = True
) -> Interface:
    return Interface(
        name=nic.name,
        tap=tap,
        mac=nic.mac,
        model=nic.model,
        place=place,
        mtu=nic.mtu,
        queues=nic.queues,
        vhost=host.vhost and host.accelerator is Accelerator.KVM,
        boot_order=boot,
        link_up=nic.link_up and link_up,
    )


def _given(nic: NicOrder, source: str | None) -> str:
    if source is None:
        message = f"NIC {nic.name}: the pod has no PCI function of {nic.resource}. {_NEXT}"
        raise HostFault(message, reason="DeviceMissing")
    return source
