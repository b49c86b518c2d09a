"""The NICs of a machine, each by its kind: taps made, moved into the berth's network namespace and wired there.

Called by the agent. Level-based: what is there is observed, compared with what shall be, and only the difference is
made; a second time changes nothing. All of it may be called from any thread. What is particular to one kind of NIC is
in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from berth.api.order import NicKind, NicOrder
from berth.effects import berths, dhcpd, paths, podnic, resolver, taps, wiring
from berth.effects.ports import Berth
from berth.errors import HostFault


@dataclass(slots=True)
class NodeNetwork:
    """Network over netlink, nftables and sockets of this node."""

    dhcp: dhcpd.DhcpService = field(default_factory=dhcpd.DhcpService)
    on_change: Callable[[str, wiring.Change], None] = lambda vm_uid, change: None

    def create_taps(self, vm_uid: str, guest_uid: int, nics: Sequence[NicOrder]) -> dict[str, str]:
        return taps.create(vm_uid, nics)

    def attach(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder], hostname: str) -> None:
        if sum(nic.kind is NicKind.POD for nic in nics) > 1:
            raise HostFault("a machine may have one NIC on the pod network", reason="OrderInvalid")
        told = resolver.parse(berths.resolv_conf(berth))
        with paths.closing(berths.open_namespace(berth, "net")) as netns:
            site = taps.Site(vm_uid, berth, netns, hostname, told, lambda change: self.on_change(vm_uid, change))
            taps.remove_others(site, nics)
            self.dhcp.keep(vm_uid, {nic.name for nic in nics})
            for nic in nics:
                self._attach(site, nic)

    def serve(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder], hostname: str) -> None:
        self.attach(vm_uid, berth, nics, hostname)

    def detach(self, vm_uid: str) -> None:
        self.dhcp.keep(vm_uid, set())
        taps.remove(vm_uid)

    def _attach(self, site: taps.Site, nic: NicOrder) -> None:
        match nic.kind:
            case NicKind.POD:
                podnic.attach(site, nic, self.dhcp)
            case NicKind.SEGMENT | NicKind.ATTACHMENT:
                raise HostFault(f"NIC {nic.name}: {nic.kind} is not known to this agent", reason="OrderInvalid")
            case NicKind.DEVICE:
                pass  # libvirt hands the function to the guest whole
