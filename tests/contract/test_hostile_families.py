"""A guest on a segment where Berth gives addresses of one family only: of the other it sends nothing in anybody's name.

What it keeps of IPv6 then is the link-local address that it makes of its own MAC address: it is nobody else's, and
kernels speak from it unasked.
"""

from __future__ import annotations

import pytest

from tests.contract import pods
from tests.contract.segment_frames import (
    BROADCAST,
    arp,
    link_local,
    nd,
    passes,
    router_advertisement,
    udp,
)
from tests.contract.segment_lab import Guest, Lab, mac

FOREIGN6 = ("2001:db8::9", "fd00:9::b", "fd00:9::c", "fe80::99", "::")
FOREIGN4 = ("10.9.0.11", "10.9.0.12", "172.16.0.9", "0.0.0.0", "169.254.1.1")


def pair(lab: Lab, version: int) -> tuple[Guest, Guest]:
    """The hostile one with an address of one family, and a neighbour with both; on one node."""
    node = lab.node()
    own = "10.9.0.11/24" if version == 4 else "fd00:9::b/64"
    return lab.guest(node, addresses=(own,)).start(), lab.guest(node).start()


def test_with_an_ipv4_address_alone_it_has_no_other_ipv6_than_its_own_link_local(lab: Lab) -> None:
    one, other = pair(lab, 4)
    own, to, t6 = mac(one.nic.mac), mac(other.nic.mac), other.address(6)
    mine, option = link_local(one), b"\x02\x01" + mac(one.nic.mac)
    hostile = {f"from {source}": udp(source, t6, by=own, to=to) for source in FOREIGN6}
    hostile |= {f"advertises {a}": nd(136, own, mine, a, option) for a in (*FOREIGN6[:-1], t6)}
    hostile |= {f"advertises {a} from there": nd(136, own, a, a, option) for a in (*FOREIGN6[:-1], t6)}
    hostile |= {f"looks whether {a} is free": nd(135, own, "::", a) for a in (*FOREIGN6[:-1], t6, link_local(other))}
    hostile |= {f"solicits from {a}": nd(135, own, a, t6, b"\x01\x01" + own) for a in FOREIGN6[:-1]}
    hostile["a router"] = router_advertisement(own, mine)
    assert [name for name, frame in hostile.items() if passes(one, other, frame)] == []
    for honest in (
        udp(mine, link_local(other), by=own, to=to),
        nd(135, own, "::", mine),
        nd(135, own, "::", mine, b"\x0e\x01" + bytes(range(6))),
        nd(135, own, mine, link_local(other), b"\x01\x01" + own),
        nd(136, own, mine, mine, option),
        udp(one.address(), other.address(), by=own, to=to),
    ):
        assert passes(one, other, honest), honest.hex()


def test_with_an_ipv6_address_alone_it_has_no_ipv4(lab: Lab) -> None:
    one, other = pair(lab, 6)
    own, to, t4 = mac(one.nic.mac), mac(other.nic.mac), other.address()
    hostile = {f"from {source}": udp(source, t4, by=own, to=to) for source in FOREIGN4}
    hostile |= {f"ARP from {a}, {o}": arp(own, own, a, t4, operation=o) for a in FOREIGN4 for o in (1, 2)}
    hostile["DHCP"] = udp("0.0.0.0", "255.255.255.255", (68, 67), by=own, to=BROADCAST)
    assert [name for name, frame in hostile.items() if passes(one, other, frame)] == []
    assert passes(one, other, udp(one.address(6), other.address(6), by=own, to=to))
    assert passes(one, other, nd(135, own, "::", one.address(6)))


@pytest.mark.parametrize("version", [4, 6])
def test_nobody_gives_it_addresses_that_it_may_not_use(lab: Lab, version: int) -> None:
    one, other = pair(lab, version)
    other.nic = other.nic.model_copy(update={"anti_spoofing": False})
    other.attach()
    own, to = mac(other.nic.mac), mac(one.nic.mac)
    offers = {
        "router": router_advertisement(own, link_local(other)),
        "DHCPv6": udp(link_local(other), link_local(one), (547, 546), by=own, to=to),
        "DHCP": udp(other.address(), "255.255.255.255", (67, 68), by=own, to=BROADCAST),
    }
    got = [name for name, frame in offers.items() if passes(other, one, frame)]
    assert got == (["router"] if version == 6 else [])  # whom Berth gives IPv6 without a gateway may hear of one


def test_a_kernel_that_is_alone_with_its_link_local_address_finds_it_free_and_speaks(lab: Lab) -> None:
    """Duplicate address detection by the guests' own kernels, on a segment where one has IPv4 alone."""
    one, other = pair(lab, 4)
    for guest in (one, other):
        guest.run("ip link set enp0 down; echo 1 >/proc/sys/net/ipv6/conf/enp0/accept_dad; ip link set enp0 up")
        pods.until(lambda g=guest: "tentative" not in g.run("ip -6 -o addr show dev enp0 scope link"), what="DAD")
        assert f"{link_local(guest)}/64" in guest.run("ip -6 -o addr show dev enp0 scope link")
    assert "dadfailed" not in one.run("ip -6 addr")
    assert one.pings(f"{link_local(other)}%enp0")


def test_opted_out_it_sends_as_it_likes_of_either_family(lab: Lab) -> None:
    one, other = pair(lab, 4)
    one.nic = one.nic.model_copy(update={"anti_spoofing": False})
    one.attach()
    own, to = mac(one.nic.mac), mac(other.nic.mac)
    assert passes(one, other, udp("2001:db8::9", other.address(6), by=own, to=to))
