"""The tap devices of a machine's NICs: made where libvirt opens them, moved to where they belong, removed.

Called by network.py and the modules of the NIC kinds. A tap is the agent's until libvirt has opened it, then the
berth's: it ends with the pod. What a NIC's devices are called is said in wiring.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from berth.api.order import NicKind, NicOrder
from berth.effects import namespaces, netlink, wiring
from berth.effects.ports import Berth
from berth.effects.resolver import Resolver
from berth.errors import HostFault


@dataclass(frozen=True, slots=True)
class Site:
    """Where the NICs of one machine are wired, and what its guest is told about the pod it is in."""

    vm_uid: str
    berth: Berth
    netns: int
    hostname: str
    resolver: Resolver
    changed: Callable[[wiring.Change], None] = lambda change: None


def create(vm_uid: str, nics: Sequence[NicOrder]) -> dict[str, str]:
    """libvirtd, which is root, opens them: they need no owner."""
    with_taps = [nic for nic in nics if nic.kind is not NicKind.DEVICE]
    taps = {nic.name: wiring.tap_name(vm_uid, nic.name) for nic in with_taps}
    for nic in with_taps:
        netlink.make_tap(taps[nic.name], queues=nic.queues)
    return taps


def bring_in(site: Site, nic: NicOrder) -> bool:
    """Move the tap that libvirt opened; True when it was still outside. It replaces one of an earlier attempt."""
    index = netlink.index_of(wiring.tap_name(site.vm_uid, nic.name))
    if index is None:
        return False
    device = wiring.device_name(nic)
    if (older := namespaces.in_network(site.netns, lambda: netlink.index_of(device))) is not None:
        namespaces.in_network(site.netns, lambda: netlink.remove(older))
        site.changed(wiring.RemoveLink(device))
    netlink.move(index, site.netns, device)
    site.changed(wiring.MoveTap(index, device))
    return True


def known(links: dict[str, wiring.Link], nic: NicOrder) -> wiring.Link:
    """The NIC's tap among the links of the berth."""
    device = wiring.device_name(nic)
    if device not in links:
        message = f"NIC {nic.name}: its tap device is in neither network namespace; stop and start the machine"
        raise HostFault(message, reason="TapMissing")
    return links[device]


def remove_others(site: Site, nics: Sequence[NicOrder]) -> None:
    """The taps in the berth of NICs that the machine has no more."""
    wanted = {wiring.device_name(nic) for nic in nics}

    def work() -> list[str]:
        gone = [name for name in netlink.names() if wiring.is_tap(name) and name not in wanted]
        for name in gone:
            if (index := netlink.index_of(name)) is not None:
                netlink.remove(index)
        return gone

    for name in namespaces.in_network(site.netns, work):
        site.changed(wiring.RemoveLink(name))


def remove(vm_uid: str) -> None:
    """What is left in the agent's own namespace."""
    netlink.remove_by_prefix(wiring.tap_prefix(vm_uid))
