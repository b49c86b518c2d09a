"""The NIC of a machine: taps made, moved into the berth's network namespace and wired there; DHCP answered.

Called by the agent. Level-based: what is there is observed, compared with what shall be (wiring.py), and only the
difference is made; a second time changes nothing. All of it may be called from any thread.
"""

from __future__ import annotations

import os
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
        taps = {nic.name: wiring.tap_name(vm_uid, index) for index, nic in enumerate(_at_most_one(nics))}
        for tap in taps.values():
            netlink.make_tap(tap)
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
        outside = netlink.index_of(wiring.tap_name(vm_uid))
        want, changes = namespaces.in_network(netns, lambda: _decide(nic, outside))
        inside = [change for change in changes if not isinstance(change, wiring.MoveTap)]
        early = [change for change in inside if isinstance(change, wiring.RemoveLink)]
        self._apply(vm_uid, netns, want, early)
        for change in changes:
            if isinstance(change, wiring.MoveTap):
                netlink.move(change.index, netns, change.name)
                self.on_change(vm_uid, change)
        self._apply(vm_uid, netns, want, [change for change in inside if change not in early])
        self._serve_dhcp(vm_uid, berth, netns, want, hostname)

    def _apply(self, vm_uid: str, netns: int, want: wiring.Wiring, changes: Sequence[wiring.Change]) -> None:
        def work() -> None:
            for change in changes:
                netlink.apply(change, want)
                self.on_change(vm_uid, change)

        if changes:
            namespaces.in_network(netns, work)

    def _serve_dhcp(self, vm_uid: str, berth: Berth, netns: int, want: wiring.Wiring, hostname: str) -> None:
        resolver = dhcp.parse_resolv_conf(berths.resolv_conf(berth))
        lease = dhcp.Lease(
            mac=bytes.fromhex(want.guest_mac.replace(":", "")),
            address=want.guest,
            router=want.gateway.ip,
            mtu=want.mtu,
            hostname=hostname,
            dns=resolver.dns,
            search=resolver.search,
        )
        device = namespaces.in_network(netns, lambda: netlink.index_of(want.device)) or 0
        namespace = os.fstat(netns)
        service = dhcpd.Service((namespace.st_dev, namespace.st_ino, device), lease)
        if not self.dhcp.serves(vm_uid, service):
            line = namespaces.in_network(netns, lambda: dhcpd.open_socket(want.device))
            self.dhcp.start(vm_uid, line, service)


def _decide(nic: NicOrder, outside: int | None) -> tuple[wiring.Wiring, list[wiring.Change]]:
    """In the berth's namespace: what shall be, and what of it is missing."""
    mtu = netlink.mtu_of(wiring.UPLINK)
    if mtu is None:
        raise HostFault(f"the pod has no {wiring.UPLINK}: its network is not set up (yet)", reason="PodNetworkMissing")
    want = wiring.Wiring(guest_mac=nic.mac.lower(), mtu=mtu)
    seen = netlink.observe(want, outside)
    if seen.link is None and seen.tap_outside is None:
        message = f"NIC {nic.name}: its tap device is in neither network namespace; stop and start the machine"
        raise HostFault(message, reason="TapMissing")
    return want, wiring.plan(seen, want)


def _at_most_one(nics: Sequence[NicOrder]) -> Sequence[NicOrder]:
    if len(nics) > 1:
        raise HostFault(f"a machine may have one NIC on the pod network (given: {len(nics)})", reason="OrderInvalid")
    return nics
