"""The NIC of a machine: taps made, moved into the berth's network namespace and wired there; DHCP answered.

Called by the agent. Level-based: what is there is observed, compared with what shall be (wiring.py), and only the
difference is made; a second time changes nothing. All of it may be called from any thread.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from berth.api.order import NicOrder
from berth.effects import berths, dhcp, dhcpd, namespaces, netlink, paths, wiring
from berth.effects.ports import Berth
from berth.errors import HostFault


@dataclass(slots=True)
class NodeNetwork:
    """Network over netlink, nftables and sockets of this node."""

    dhcp: dhcpd.DhcpService = field(default_factory=dhcpd.DhcpService)
    on_change: Callable[[str, wiring.Change], None] = lambda vm_uid, change: None

    def create_taps(self, vm_uid: str, guest_uid: int, nics: Sequence[NicOrder]) -> dict[str, str]:
        """libvirtd, which is root, opens them: they need no owner."""
        taps = {nic.name: wiring.tap_name(vm_uid, nic.name) for nic in _at_most_one(nics)}
        for nic in nics:
            netlink.make_tap(taps[nic.name], queues=nic.queues)
        return taps

    def attach(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder], hostname: str) -> None:
        for nic in _at_most_one(nics):
            with paths.closing(berths.open_namespace(berth, "net")) as netns:
                self._attach(vm_uid, berth, netns, nic, hostname)

    def serve(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder], hostname: str) -> None:
        self.attach(vm_uid, berth, nics, hostname)

    def detach(self, vm_uid: str) -> None:
        self.dhcp.stop(vm_uid)
        netlink.remove_by_prefix(wiring.tap_prefix(vm_uid))

    def _attach(self, vm_uid: str, berth: Berth, netns: int, nic: NicOrder, hostname: str) -> None:
        fresh = self._bring_in(vm_uid, nic, netns)
        want, device, line = namespaces.in_network(netns, lambda: self._wire(vm_uid, nic, fresh=fresh))
        place = os.fstat(netns)
        service = dhcpd.Service((place.st_dev, place.st_ino, device), _lease(berth, want, hostname))
        if self.dhcp.serves(vm_uid, service):
            line.close()
        else:
            self.dhcp.start(vm_uid, line, service)

    def _bring_in(self, vm_uid: str, nic: NicOrder, netns: int) -> bool:
        """Move the tap that libvirt opened; True when it was still outside. It replaces one of an earlier attempt."""
        index = netlink.index_of(wiring.tap_name(vm_uid, nic.name))
        if index is None:
            return False
        if (older := namespaces.in_network(netns, lambda: netlink.index_of(wiring.DEVICE))) is not None:
            namespaces.in_network(netns, lambda: netlink.remove(older))
            self.on_change(vm_uid, wiring.RemoveLink(wiring.DEVICE))
        netlink.move(index, netns, wiring.DEVICE)
        self.on_change(vm_uid, wiring.MoveTap(index, wiring.DEVICE))
        return True

    def _wire(self, vm_uid: str, nic: NicOrder, *, fresh: bool) -> tuple[wiring.Wiring, int, socket.socket]:
        """In the berth's namespace: make what is missing, and a socket for DHCP."""
        with netlink.open_inside() as inside:
            links = inside.links()
            link = _known(links, nic)
            want = wiring.Wiring(guest_mac=nic.mac.lower(), mtu=links[wiring.UPLINK].mtu)
            for change in wiring.plan(inside.observe(want, link, fresh=fresh), want):
                inside.apply(change, want)
                self.on_change(vm_uid, change)
            return want, link.index, dhcpd.open_socket(wiring.DEVICE)


def _known(links: dict[str, wiring.Link], nic: NicOrder) -> wiring.Link:
    if wiring.UPLINK not in links:
        raise HostFault(f"the pod has no {wiring.UPLINK}: its network is not set up (yet)", reason="PodNetworkMissing")
    if wiring.DEVICE not in links:
        message = f"NIC {nic.name}: its tap device is in neither network namespace; stop and start the machine"
        raise HostFault(message, reason="TapMissing")
    return links[wiring.DEVICE]


def _lease(berth: Berth, want: wiring.Wiring, hostname: str) -> dhcp.Lease:
    resolver = dhcp.parse_resolv_conf(berths.resolv_conf(berth))
    return dhcp.Lease(
        mac=bytes.fromhex(want.guest_mac.replace(":", "")),
        address=want.guest,
        router=want.gateway.ip,
        mtu=want.mtu,
        hostname=hostname,
        dns=resolver.dns,
        search=resolver.search,
    )


def _at_most_one(nics: Sequence[NicOrder]) -> Sequence[NicOrder]:
    if len(nics) > 1:
        raise HostFault(f"a machine may have one NIC on the pod network (given: {len(nics)})", reason="OrderInvalid")
    return nics
