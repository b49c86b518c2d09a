"""The NIC on the pod network: the pod's address is the guest's. Its tap, wired in the berth; its guest, told about it.

Called by network.py. Level-based: what is there is observed, compared with what shall be (wiring.py), and only the
difference is made.
"""

from __future__ import annotations

import os
import socket

from berth.api.order import NicOrder
from berth.effects import dhcp, dhcpd, namespaces, netlink, shaping, taps, wiring
from berth.errors import HostFault


def attach(site: taps.Site, nic: NicOrder, service: dhcpd.DhcpService) -> None:
    fresh = taps.bring_in(site, nic)
    want, device, line = namespaces.in_network(site.netns, lambda: _wire(site, nic, fresh=fresh))
    place = os.fstat(site.netns)
    answers = dhcpd.Service((place.st_dev, place.st_ino, device), _lease(site, want))
    if service.serves(site.vm_uid, nic.name, answers):
        line.close()
    else:
        service.start(site.vm_uid, nic.name, line, answers)


def _wire(site: taps.Site, nic: NicOrder, *, fresh: bool) -> tuple[wiring.Wiring, int, socket.socket]:
    """In the berth's namespace: make what is missing, and a socket for DHCP."""
    with netlink.open_inside() as inside:
        links = inside.links()
        if wiring.UPLINK not in links:
            message = f"the pod has no {wiring.UPLINK}: its network is not set up (yet)"
            raise HostFault(message, reason="PodNetworkMissing")
        link = taps.known(links, nic)
        want = wiring.Wiring(guest_mac=nic.mac.lower(), mtu=links[wiring.UPLINK].mtu)
        for change in wiring.plan(inside.observe(want, link, fresh=fresh), want):
            inside.apply(change, want)
            site.changed(change)
        for name, limit in ((want.device, nic.inbound), (want.uplink, nic.outbound)):
            if shaping.shape(name, limit):
                site.changed(wiring.SetLimit(name, limit))
        return want, link.index, dhcpd.open_socket(wiring.DEVICE)


def _lease(site: taps.Site, want: wiring.Wiring) -> dhcp.Lease:
    return dhcp.Lease(
        mac=bytes.fromhex(want.guest_mac.replace(":", "")),
        address=want.guest,
        router=want.gateway.ip,
        mtu=want.mtu,
        hostname=site.hostname,
        dns=site.resolver.dns,
        search=site.resolver.search,
    )
