"""The rules around a guest joined to a segment: what shall be in, nftables tables out. Called by joined_nic.py; pure.

The guest is hostile, and so is the segment. Nothing leaves the guest but what is its own (unless anti-spoofing is off),
and nothing that the berth answers: that is let in for dhcpd.py's sockets, which see what the rules at the device let
pass, and for the stack where it is the gateway. From the segment nothing gets in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from berth.effects import dhcp, nft
from berth.effects.joined import ROUTER, Joined
from berth.effects.wiring import GATEWAY_MAC, UPLINK

_ARP = "arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation { request, reply }"
_SOME = "limit rate 20/second burst 40 packets"
_LARGEST_PACKET = 65536
_ROUTER_SOLICIT, _ROUTER_ADVERT, _SOLICIT, _ADVERT, _REDIRECT, _LISTENER = 133, 134, 135, 136, 137, 143


def build(want: Joined, indexes: tuple[int, int]) -> nft.Tables:
    """``indexes`` of tap and other side: rules name devices by them, and are no good for others of the same names."""
    tap, other = want.tap, want.other
    chains = [
        _chain("neighbours", _neighbours(want)),
        _chain("arp_from_guest", _arp(want)),
        _chain("ip_from_guest", _ip(want)),
        _chain("ip6_from_guest", _ip6(want)),
        _chain("from_guest", _from_guest(want), f'type filter hook ingress device "{tap}" priority -500; policy drop;'),
        _chain("to_guest", _to_guest(want), f'type filter hook ingress device "{other}" priority -500; policy drop;'),
    ]
    stack = [
        _chain("to_berth", _to_berth(want), "type filter hook input priority filter; policy accept;"),
        _chain("through", _through(want), "type filter hook forward priority filter; policy accept;"),
        _chain("outbound", _outbound(want), "type nat hook postrouting priority srcnat; policy accept;"),
    ]
    text = f"# {indexes}\ntable netdev {want.table} {{\n\t{nft.COMMENT}\n{''.join(chains)}}}\n"
    text += f"table inet {want.table} {{\n{''.join(stack)}}}\n"
    return nft.build([("netdev", want.table), ("inet", want.table)], text)


def _chain(name: str, rules: Iterator[str], hook: str = "") -> str:
    lines = [hook, *rules] if hook else list(rules)
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def _out(want: Joined) -> str:
    return f'fwd to "{want.other}"'


def _from_guest(want: Joined) -> Iterator[str]:
    """A tagged frame's type is the tag's. After ``goto`` what no rule took is dropped.

    What goes to the gateway leaves through the pod's interface, whose queue is not this NIC's alone: it is limited
    here. nftables lets what a second amounts to go at once.
    """
    if want.outbound:
        rate, burst = want.outbound.bits_per_second // 8, max(want.outbound.burst_bytes, _LARGEST_PACKET)
        yield f"ether daddr {GATEWAY_MAC} limit rate over {rate} bytes/second burst {burst} bytes drop"
    for kind in ("arp", "ip", "ip6"):
        yield f"ether type {kind} ether saddr {want.mac} goto {kind}_from_guest"
    if not want.anti_spoofing:
        yield f"ether daddr {GATEWAY_MAC} drop"
        yield "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop"  # what bridges and switches say to each other
        yield _out(want)


def _arp(want: Joined) -> Iterator[str]:
    if want.has_none(4):
        return
    own, gateway = want.own(4), want.gateway(4)
    mine = f"{_ARP} arp saddr ether {want.mac}" + (f" arp saddr ip {{ 0.0.0.0, {own} }}" if own else "")
    if gateway:
        yield f"{mine} arp daddr ip {gateway} {_SOME} accept"
        yield f"arp daddr ip {gateway} drop"
        yield f"arp saddr ip {gateway} drop"
    yield f"{mine} {_out(want)}" if want.anti_spoofing else _out(want)


def _ip(want: Joined) -> Iterator[str]:
    if want.has_none(4):
        return
    own = want.own(4)
    if want.serves(4):
        yield f"udp sport 68 udp dport 67 ip daddr 255.255.255.255 {_SOME} accept"
        yield f"udp sport 68 udp dport 67 ip saddr {own} ip daddr {dhcp.SERVER} {_SOME} accept"
        yield "udp dport 67 drop"
    if want.anti_spoofing:
        yield "udp sport 67 drop"
        yield "udp dport 68 drop"
        yield "icmp type redirect drop"
    if want.gateway(4):
        yield f"ether daddr {GATEWAY_MAC} ip saddr {own} accept"
    yield f"ether daddr {GATEWAY_MAC} drop"
    yield f"ip saddr {own} {_out(want)}" if want.anti_spoofing and own else _out(want)


def _ip6(want: Joined) -> Iterator[str]:
    own = want.own(6)
    yield from _ip6_answered_here(want)
    if want.anti_spoofing:
        yield f"icmpv6 type {{ {_ROUTER_ADVERT}, {_REDIRECT} }} drop"
        yield "udp sport 547 drop"
        yield "udp dport 546 drop"
    if want.gateway(6):
        yield f"ether daddr {GATEWAY_MAC} ip6 saddr {own} accept"
    yield f"ether daddr {GATEWAY_MAC} drop"
    if want.anti_spoofing:
        yield f"ip6 saddr :: icmpv6 type {{ {_ROUTER_SOLICIT}, {_LISTENER} }} {_out(want)}"
        yield f"ip6 saddr :: icmpv6 type {_SOLICIT} goto neighbours"
        yield "ip6 saddr :: drop"
        yield _foreign_source(want)
        yield f"icmpv6 type {{ {_SOLICIT}, {_ADVERT} }} goto neighbours"
        first = "exthdr frag exists frag frag-off 0"
        yield f"{first} icmpv6 type > 0 {_out(want)}"
        yield f"{first} meta l4proto {{ tcp, udp, sctp }} th dport > 0 {_out(want)}"
        yield f"{first} drop"  # what it carries shows not before the next fragment
    yield _out(want)


def _ip6_answered_here(want: Joined) -> Iterator[str]:
    """Any link-local address of the guest's will do for that: it does not leave."""
    if want.serves(6):
        yield f"icmpv6 type {_ROUTER_SOLICIT} ip6 daddr ff02::2 {_SOME} accept"
        yield f"icmpv6 type {_ROUTER_SOLICIT} drop"
        yield f"udp sport 546 udp dport 547 ip6 daddr ff02::1:2 ip6 saddr fe80::/10 {_SOME} accept"
        yield "udp dport 547 drop"
    gateways = [ipaddress.IPv6Interface(ROUTER).ip, gateway] if (gateway := want.gateway(6)) else []
    for address in gateways:
        about = f"icmpv6 type {_SOLICIT} @th,64,128 {int(address):#x}"
        yield f"{about} ip6 saddr {{ fe80::/10, {want.own(6)} }} {_SOME} accept"
        yield f"{about} drop"
        yield f"icmpv6 type {_ADVERT} @th,64,128 {int(address):#x} drop"
        yield f"icmpv6 type {_ADVERT} ip6 daddr {address} ether daddr {GATEWAY_MAC} {_SOME} accept"


def _foreign_source(want: Joined) -> str:
    """Of a guest that Berth gives no addresses at all, only its link-local one is known."""
    if not want.guest:
        return f"ip6 saddr fe80::/10 ip6 saddr != {want.link_local} drop"
    own = want.own(6)
    return f"ip6 saddr != {{ {want.link_local}, {own} }} drop" if own else f"ip6 saddr != {want.link_local} drop"


def _neighbours(want: Joined) -> Iterator[str]:
    """Neighbour discovery from an address that is the guest's (or none), in the forms that kernels send: with no option
    but the guest's own MAC address or, while it looks whether an address is free, a nonce. To look whether another's is
    free would keep that one from taking it."""
    mac, own = int(want.mac.replace(":", ""), 16), want.own(6)
    not_mine = f"@th,64,128 != {int(want.link_local):#x}"
    other = f"@th,64,128 != {int(own):#x}" if own else "" if want.guest else "@th,64,10 0x3fa"  # that is fe80::/10
    yield f"icmpv6 type {_ADVERT} {not_mine} {other} drop"
    yield f"ip6 saddr :: {not_mine} {other} drop"
    yield f"ip6 saddr :: ip6 length 32 @th,192,16 0x0e01 {_out(want)}"
    yield "ip6 saddr :: ip6 length != 24 drop"
    yield f"ip6 length 24 {_out(want)}"
    yield f"icmpv6 type {_SOLICIT} ip6 length 32 @th,192,64 {0x0101 << 48 | mac:#x} {_out(want)}"
    yield f"icmpv6 type {_ADVERT} ip6 length 32 @th,192,64 {0x0201 << 48 | mac:#x} {_out(want)}"


def _to_guest(want: Joined) -> Iterator[str]:
    """Whom Berth serves, nobody else serves; and nobody else is its gateway."""
    yield f"ether saddr {GATEWAY_MAC} drop"
    if want.anti_spoofing:
        yield f"ether daddr != {want.mac} ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 drop"
    if want.serves(4) or want.has_none(4):
        yield "udp sport 67 udp dport 68 drop"
    if want.serves(6) or want.has_none(6):
        yield "udp sport 547 udp dport 546 drop"
    if want.has_none(6):
        yield f"icmpv6 type {_ROUTER_ADVERT} drop"  # it would make addresses that it may not use
    if gateway := want.gateway(4):
        yield f"arp saddr ip {gateway} drop"
    if gateway := want.gateway(6):
        yield f"icmpv6 type {{ {_ROUTER_ADVERT}, {_REDIRECT} }} drop"
        yield f"icmpv6 type {_ADVERT} @th,64,128 {int(gateway):#x} drop"
    yield f'fwd to "{want.tap}"'


def _to_berth(want: Joined) -> Iterator[str]:
    """Second line: what the rules at the devices let through is named once more."""
    tap = f'iifname "{want.tap}"'
    if gateway := want.gateway(4):
        yield f"{tap} ip daddr {gateway} icmp type echo-request {_SOME} accept"
    if gateway := want.gateway(6):
        yield f"{tap} icmpv6 type {{ {_SOLICIT}, {_ADVERT} }} accept"
        yield f"{tap} ip6 daddr {gateway} icmpv6 type echo-request {_SOME} accept"
    yield f"{tap} drop"
    yield f'iifname "{want.other}" drop'


def _through(want: Joined) -> Iterator[str]:
    yield f'iifname "{want.other}" drop'
    yield f'oifname "{want.other}" drop'
    if not want.routed:
        yield f'iifname "{want.tap}" drop'
        yield f'oifname "{want.tap}" drop'
        return
    yield f'iifname "{want.tap}" ct state invalid drop'
    yield f'iifname "{want.tap}" oifname != "{UPLINK}" drop'
    yield f'oifname "{want.tap}" iifname != "{UPLINK}" drop'
    yield f'oifname "{want.tap}" ct state != {{ established, related }} drop'


def _outbound(want: Joined) -> Iterator[str]:
    for address in sorted(want.routed):
        yield f'oifname "{UPLINK}" {"ip6" if ":" in address else "ip"} saddr {address} masquerade'
