"""NICs on segments and on further interfaces of the pod: joined to them in the berth, their guests served there.

Called by network.py. Level-based: what is there is observed, compared with what shall be (joined.py), and only the
difference is made.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Collection
from dataclasses import replace

from berth.api.order import NicKind, NicOrder
from berth.effects import (
    announce,
    answers,
    dhcp,
    dhcpd,
    dhcpv6,
    joined,
    joined_rules,
    namespaces,
    netlink,
    nft,
    ra,
    resolver,
    segments,
    shaping,
    taps,
    wiring,
)
from berth.effects.joined import Joined
from berth.effects.rtlinks import Device, Links
from berth.effects.rtnetlink import PERMANENT, NetlinkError
from berth.effects.rtroutes import Routes
from berth.effects.segment_devices import NodeSegments
from berth.errors import HostFault, InvalidSpec

_GIVEN = "berth: "
OPEN_SECONDS = 1.0
OPEN_POLL = 0.002
_GATEWAY_MAC = bytes.fromhex(wiring.GATEWAY_MAC.replace(":", ""))


def attach(
    site: taps.Site, nic: NicOrder, service: dhcpd.DhcpService, node: NodeSegments, *, silent: bool = False
) -> None:
    """``silent``: the guest is elsewhere yet; the device to the segment stays down, and nobody is told of it."""
    want = joined.desired(nic)
    fresh = taps.bring_in(site, nic)
    mtu = _join(site, nic, want, node) if nic.kind is NicKind.SEGMENT else 0
    visit = _Visit(site, nic, want, silent=silent)
    device, mtu, routes6 = namespaces.in_network(site.netns, lambda: visit.wire(mtu, fresh=fresh))
    guest = _told(site, nic, visit.want, mtu, routes6=routes6)
    if guest is not None:
        service.serve((site.vm_uid, nic.name), site.netns, (want.tap, device), guest)


def say_where(site: taps.Site, nic: NicOrder) -> None:
    """Announce the guest once more: it begins to run here."""
    want = joined.desired(nic)
    said = announce.build(want.mac, [one.ip for one in want.guest])
    namespaces.in_network(site.netns, lambda: announce.send(want.other, said))


def remove_others(site: taps.Site, nics: Collection[NicOrder], node: NodeSegments) -> None:
    """Rules and ports of NICs that the machine has no more, or has on another network now."""
    wanted = {joined.desired(nic).table for nic in nics if nic.kind in (NicKind.SEGMENT, NicKind.ATTACHMENT)}

    def work() -> list[str]:
        tables = [t for t in nft.existing() if t[1].startswith(joined.TABLE) and t[1] not in wanted]
        nft.delete(tables)
        return sorted({name for _, name in tables})

    for table in namespaces.in_network(site.netns, work):
        site.changed(wiring.RemoveRules(table))
    node.remove_ports(site.vm_uid, {nic.name for nic in nics if nic.kind is NicKind.SEGMENT})


def _join(site: taps.Site, nic: NicOrder, want: Joined, node: NodeSegments) -> int:
    if nic.segment is None:
        raise InvalidSpec(f"interface {nic.name}: segment", "the order says no segment", reason="OrderInvalid")

    def told(change: segments.Change) -> None:
        site.changed(wiring.ChangeSegment(str(change)))

    return node.join(site.vm_uid, nic, nic.segment, site.netns, want.other, told)


class _Visit:
    """One visit to the berth's namespace."""

    def __init__(self, site: taps.Site, nic: NicOrder, want: Joined, *, silent: bool) -> None:
        self._site = site
        self._nic = nic
        self._silent = silent
        self.want = want

    def wire(self, mtu: int, *, fresh: bool) -> tuple[int, int, bool]:
        """The tap's index, the NIC's MTU, and whether the pod has a way out for IPv6."""
        try:
            with Routes() as links:
                tap, other = self._ends(links.devices())
                if self._nic.kind is NicKind.ATTACHMENT and not self.want.guest:
                    self.want = replace(self.want, guest=_given(links, other))
                rules = joined_rules.build(self.want, (tap.index, other.index))
                mtu = mtu or segments.nic_mtu(self._nic, other.mtu)
                other_mtu = other.mtu if self._nic.kind is NicKind.ATTACHMENT else mtu
                seen = self._observe(links, tap, other, rules_match=not fresh and nft.stand(rules))
                changes = joined.plan(seen, self.want, mtu, other_mtu)
                if self._silent:
                    changes = self._quiet(links, changes, other, fresh=fresh)
                for change in changes:
                    self._apply(links, change, rules)
                    self._site.changed(change)
                if self._tells(changes) and self._nic.kind is NicKind.SEGMENT:
                    _wait_until_open(links, other.name)
                routes6 = self.want.gateway(6) is not None and _has_ipv6(links)
        except NetlinkError as error:
            raise HostFault(f"interface {self._nic.name}: {error}", reason="NetworkFailed") from error
        self._shape()
        if self._tells(changes):
            announce.send(other.name, announce.build(self.want.mac, [one.ip for one in self.want.guest]))
            self._site.changed(wiring.Announce(other.name))
        return tap.index, mtu, routes6

    def _tells(self, changes: list[wiring.Change]) -> bool:
        """Whether the segment is to hear where the guest is."""
        changed = [c for c in changes if isinstance(c, wiring.LinkUp | wiring.SetLink)]
        return not self._silent and any(change.name == self.want.other for change in changed)

    def _quiet(self, links: Routes, changes: list[wiring.Change], other: Device, *, fresh: bool) -> list[wiring.Change]:
        """A CNI plugin's interface is up already when the tap comes; one that was announced since stays up."""
        if fresh and other.up:
            links.set_down(other.index)
        return [change for change in changes if change != wiring.LinkUp(other.name)]

    def _ends(self, devices: dict[str, Device]) -> tuple[Device, Device]:
        for name in (self.want.tap, self.want.other):
            if name not in devices:
                raise self._missing(name)
        if (self.want.gateway(4) or self.want.gateway(6)) and wiring.UPLINK not in devices:
            message = f"the pod has no {wiring.UPLINK}: its network is not set up (yet)"
            raise HostFault(message, reason="PodNetworkMissing")
        return devices[self.want.tap], devices[self.want.other]

    def _missing(self, name: str) -> HostFault:
        who = f"interface {self._nic.name}"
        if name == self.want.tap:
            message = "its tap device is in neither network namespace; stop and start the machine"
            return HostFault(f"{who}: {message}", reason="TapMissing")
        message = f"the pod has no interface {name}: does the node run Multus, and is the attachment defined?"
        return HostFault(f"{who}: {message}", reason="AttachmentMissing")

    def _observe(self, links: Links, tap: Device, other: Device, *, rules_match: bool) -> joined.Observed:
        known = [n for n in links.neighbours(tap.index) if n.state & PERMANENT]
        addresses = links.every_address()
        return joined.Observed(
            joined.Link(tap.mac, tap.mtu, tap.up),
            joined.Link(other.mac, other.mtu, other.up),
            frozenset(addresses.get(tap.index, [])),
            frozenset(addresses.get(other.index, [])),
            frozenset(links.host_routes(tap.index)),
            frozenset((n.address, n.mac) for n in known),
            {name: value for name in self.want.sysctls if (value := netlink.read_sysctl(name)) is not None},
            rules_match,
        )

    def _apply(self, links: Links, change: wiring.Change, rules: nft.Tables) -> None:
        match change:
            case wiring.LoadRules():
                nft.load(rules)
            case wiring.WriteSysctl(name, value):
                netlink.write_sysctl(name, value)
            case wiring.AddRoute(name, address):
                links.add_host_route(netlink.known_index(name), address)
            case wiring.RemoveRoute(name, address):
                links.delete_host_route(netlink.known_index(name), address)
            case wiring.SetLink(name) if name == self.want.other and self._nic.kind is NicKind.ATTACHMENT:
                self._take_mac(links, change)
            case wiring.RemoveAddress(name, address):
                with contextlib.suppress(NetlinkError):  # it went with another, or with IPv6 being switched off
                    links.delete_address(netlink.known_index(name), address)
            case _:
                netlink.apply_to_link(links, change)

    def _take_mac(self, links: Links, change: wiring.SetLink) -> None:
        try:
            netlink.apply_to_link(links, change)
        except NetlinkError as error:
            message = f"{change.name} of the pod takes no MAC address ({error}); use a network whose plugin allows that"
            raise HostFault(f"interface {self._nic.name}: {message}", reason="AttachmentUnfit") from error

    def _shape(self) -> None:
        for name, limit in ((self.want.tap, self._nic.inbound), (self.want.other, self._nic.outbound)):
            if shaping.shape(name, limit):
                self._site.changed(wiring.SetLimit(name, limit))


def _wait_until_open(links: Links, name: str) -> None:
    """The kernel opens the port at this device's other end in a worker of its own (net/core/link_watch.c), which waits
    for the lock of all network devices: what is said before is lost."""
    deadline = time.monotonic() + OPEN_SECONDS
    while not links.devices()[name].running and time.monotonic() < deadline:
        time.sleep(OPEN_POLL)


def _given(links: Links, other: Device) -> tuple[joined.Interface, ...]:
    """What the network's own IPAM gave the pod's interface is the guest's, and is told it by DHCP. The interface cannot
    keep it, but its alias can: there an agent that starts over finds it."""
    noted = set(other.alias.removeprefix(_GIVEN).split()) if other.alias.startswith(_GIVEN) else set()
    there = {address for address in links.every_address().get(other.index, []) if not _is_link_local(address)}
    if not there <= noted:
        noted |= there
        links.set_alias(other.index, _GIVEN + " ".join(sorted(noted)))
    return tuple(ipaddress.ip_interface(address) for address in sorted(noted))


def _is_link_local(address: str) -> bool:
    return ipaddress.ip_interface(address).is_link_local


def _has_ipv6(links: Links) -> bool:
    uplink = links.devices()[wiring.UPLINK].index
    found = (ipaddress.ip_interface(address).ip for address in links.addresses(uplink))
    return any(address.version == 6 and not address.is_link_local for address in found)


def _told(site: taps.Site, nic: NicOrder, want: Joined, mtu: int, *, routes6: bool) -> answers.Guest | None:
    """What the guest is answered; None when it gets no address from Berth."""
    mac, name = bytes.fromhex(want.mac.replace(":", "")), site.hostname
    own4 = next((one for one in want.guest if isinstance(one, ipaddress.IPv4Interface)), None)
    own6 = next((one for one in want.guest if isinstance(one, ipaddress.IPv6Interface)), None)
    if own4 is None and own6 is None:
        return None
    told = _resolver(nic, want, site.resolver)
    gateway4 = next((one for one in want.gateways if isinstance(one, ipaddress.IPv4Address)), None)
    return answers.Guest(
        mac,
        _GATEWAY_MAC,
        dhcp.Lease(mac, own4, gateway4, mtu, name, told.dns, told.search) if own4 else None,
        dhcpv6.Lease(own6.ip, _GATEWAY_MAC, name, told.dns6, told.search) if own6 else None,
        _advertisement(own6, mtu, told, routes6=routes6) if own6 else None,
    )


def _advertisement(
    own: ipaddress.IPv6Interface, mtu: int, told: resolver.Resolver, *, routes6: bool
) -> ra.Advertisement:
    """What is in the guest's own network is reached without a router; another router may advertise itself."""
    prefixes = (own.network,) if own.network.prefixlen < 128 else ()
    lifetime = ra.LONGEST if routes6 else 0
    return ra.Advertisement(_GATEWAY_MAC, mtu, lifetime, told.dns6, told.search, prefixes)


def _resolver(nic: NicOrder, want: Joined, pods: resolver.Resolver) -> resolver.Resolver:
    """The pod's name servers are reached through the pod: by a guest whose gateway is its berth."""
    behind = want.gateway(4) is not None or want.gateway(6) is not None
    if not nic.dns and not nic.search:
        return pods if behind else resolver.Resolver()
    try:
        servers = [ipaddress.ip_address(text) for text in nic.dns]
    except ValueError as error:
        raise InvalidSpec(f"interface {nic.name}: dns", f"must be IP addresses: {error}") from error
    told = resolver.of(servers, nic.search)
    return replace(told, dns=pods.dns, dns6=pods.dns6) if behind and not servers else told
