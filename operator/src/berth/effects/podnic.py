"""The NIC on the pod network: the pod's addresses are the guest's. Its tap, wired in the berth; its guest, told of it.

Called by network.py. Level-based: what is there is observed, compared with what shall be (wiring.py), and only the
difference is made. The guest has each family of which the pod has an address.
"""

from __future__ import annotations

from berth.api.order import NicOrder
from berth.effects import answers, dhcp, dhcpd, dhcpv6, namespaces, netlink, ra, shaping, taps, wiring
from berth.errors import HostFault

_SMALLEST_IPV6 = 1280
"""An interface whose packets are smaller has no IPv6 (RFC 8200)."""
_GATEWAY_MAC = bytes.fromhex(wiring.GATEWAY_MAC.replace(":", ""))


def attach(site: taps.Site, nic: NicOrder, service: dhcpd.DhcpService) -> None:
    fresh = taps.bring_in(site, nic)
    want, index = namespaces.in_network(site.netns, lambda: _wire(site, nic, fresh=fresh))
    service.serve((site.vm_uid, nic.name), site.netns, (want.device, index), _told(site, want))


def _wire(site: taps.Site, nic: NicOrder, *, fresh: bool) -> tuple[wiring.Wiring, int]:
    """In the berth's namespace: make what is missing. What shall be, and the tap's index."""
    with netlink.open_inside() as inside:
        links = inside.links()
        if wiring.UPLINK not in links:
            message = f"the pod has no {wiring.UPLINK}: its network is not set up (yet)"
            raise HostFault(message, reason="PodNetworkMissing")
        link, uplink = taps.known(links, nic), links[wiring.UPLINK]
        families, mtu = inside.families(uplink), min(nic.mtu or uplink.mtu, uplink.mtu)
        want = wiring.Wiring(nic.mac.lower(), mtu, 4 in families, 6 in families and mtu >= _SMALLEST_IPV6)
        for change in wiring.plan(inside.observe(want, link, fresh=fresh), want):
            inside.apply(change, want)
            site.changed(change)
    for name, limit in ((want.device, nic.inbound), (want.uplink, nic.outbound)):
        if shaping.shape(name, limit):
            site.changed(wiring.SetLimit(name, limit))
    return want, link.index


def _told(site: taps.Site, want: wiring.Wiring) -> answers.Guest:
    mac = bytes.fromhex(want.guest_mac.replace(":", ""))
    told, name = site.resolver, site.hostname
    return answers.Guest(
        mac,
        _GATEWAY_MAC,
        dhcp.Lease(mac, wiring.GUEST, wiring.GATEWAY.ip, want.mtu, name, told.dns, told.search) if want.ipv4 else None,
        dhcpv6.Lease(wiring.GUEST6.ip, _GATEWAY_MAC, name, told.dns6, told.search) if want.ipv6 else None,
        ra.Advertisement(_GATEWAY_MAC, want.mtu, dns=told.dns6, search=told.search) if want.ipv6 else None,
    )
