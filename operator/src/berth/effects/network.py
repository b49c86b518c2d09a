"""The NICs of a machine, each by its kind: taps made, moved into the berth's network namespace and wired there.

Called by the agent. Level-based: what is there is observed, compared with what shall be, and only the difference is
made; a second time changes nothing. All of it may be called from any thread. What is particular to one kind of NIC is
in a module of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from berth.api.handover import DoorOrder, Flow, Forward
from berth.api.order import NicKind, NicOrder, SegmentMembers
from berth.effects import berths, dhcpd, handing, joined_nic, paths, podnic, resolver, taps, wiring
from berth.effects.ports import Berth
from berth.effects.segment_devices import NodeSegments
from berth.errors import HostFault


@dataclass(slots=True)
class NodeNetwork:
    """Network over netlink, nftables and sockets of this node."""

    dhcp: dhcpd.DhcpService = field(default_factory=dhcpd.DhcpService)
    segments: NodeSegments = field(default_factory=NodeSegments)
    on_change: Callable[[str, wiring.Change], None] = lambda vm_uid, change: None

    def create_taps(self, vm_uid: str, guest_uid: int, nics: Sequence[NicOrder]) -> dict[str, str]:
        return taps.create(vm_uid, nics)

    def attach(
        self,
        vm_uid: str,
        berth: Berth,
        nics: Sequence[NicOrder],
        hostname: str,
        *,
        doors: Sequence[DoorOrder] = (),
        silent: bool = False,
    ) -> None:
        if sum(nic.kind is NicKind.POD for nic in nics) > 1:
            raise HostFault("a machine may have one NIC on the pod network", reason="OrderInvalid")
        with self._site(vm_uid, berth, hostname) as site:
            if handing.departed(site):
                return
            taps.remove_others(site, nics)
            joined_nic.remove_others(site, nics, self.segments)
            self.dhcp.keep(vm_uid, {nic.name for nic in nics})
            for nic in nics:
                self._attach(site, nic, silent=silent)
            handing.open_doors(site, nics, doors)
        self.segments.collect()

    def serve(
        self,
        vm_uid: str,
        berth: Berth,
        nics: Sequence[NicOrder],
        hostname: str,
        *,
        doors: Sequence[DoorOrder] = (),
        silent: bool = False,
    ) -> None:
        self.attach(vm_uid, berth, nics, hostname, doors=doors, silent=silent)

    def detach(self, vm_uid: str) -> None:
        self.dhcp.keep(vm_uid, set())
        taps.remove(vm_uid)
        self.segments.remove_ports(vm_uid, set())
        self.segments.collect()

    def announce(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder]) -> None:
        with self._site(vm_uid, berth, "") as site:
            handing.speak(site, nics)

    def prepare_departure(self, vm_uid: str, berth: Berth, forward: Forward) -> None:
        with self._site(vm_uid, berth, "") as site:
            handing.prepare(site, forward)

    def depart(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder], forward: Forward) -> tuple[Flow, ...]:
        with self._site(vm_uid, berth, "") as site:
            return handing.depart(site, nics, forward)

    def stay(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder]) -> None:
        with self._site(vm_uid, berth, "") as site:
            handing.stay(site, nics)

    def arrive(self, vm_uid: str, berth: Berth, flows: Sequence[Flow]) -> None:
        with self._site(vm_uid, berth, "") as site:
            handing.arrive(site, flows)

    def connections(self, vm_uid: str, berth: Berth) -> int:
        with self._site(vm_uid, berth, "") as site:
            return handing.connections(site)

    def set_members(self, members: SegmentMembers) -> None:
        self.segments.set_members(members)

    def members(self) -> list[SegmentMembers]:
        return self.segments.members()

    def tidy(self) -> None:
        self.segments.guard()
        self.segments.collect()

    @contextmanager
    def _site(self, vm_uid: str, berth: Berth, hostname: str) -> Iterator[taps.Site]:
        told = resolver.parse(berths.resolv_conf(berth))
        with paths.closing(berths.open_namespace(berth, "net")) as netns:
            yield taps.Site(vm_uid, berth, netns, hostname, told, lambda change: self.on_change(vm_uid, change))

    def _attach(self, site: taps.Site, nic: NicOrder, *, silent: bool) -> None:
        match nic.kind:
            case NicKind.POD:
                podnic.attach(site, nic, self.dhcp)
            case NicKind.SEGMENT | NicKind.ATTACHMENT:
                joined_nic.attach(site, nic, self.dhcp, self.segments, silent=silent)
            case NicKind.DEVICE:
                pass  # libvirt hands the function to the guest whole
