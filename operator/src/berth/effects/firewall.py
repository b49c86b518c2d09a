"""The rules in a berth's network namespace: a guest's addresses in, an nftables script out. Called by netlink.py; pure.

The guest has the pod's IP addresses: all that arrives there goes to the guest, all that it sends leaves with them. What
it may reach is what a pod in its place may reach, neither more nor less, and NetworkPolicy's business as for any pod:
so 169.254.0.0/16, with a cloud's metadata and the node's DNS cache, is forwarded like any other address.

The guest is hostile, and has less than a pod on its own link: that ends at the berth. It can neither claim another MAC
or IP address, the gateway's least of all, nor advertise routers, nor reach a socket of the berth, its loopback or the
link-local neighbours of the pod; multicast and broadcast are heard by nobody. What the berth must answer (ARP,
neighbour solicitations, DHCP, ping) has a rate, so that a flood costs others nothing; and a guest may use sixteen
link-local addresses in ten minutes, because the kernel's list of neighbours is the whole node's.
Tagged frames are named in the first place: the kernel takes a tag off before it asks what protocol is inside.

What connects to the loopback of the pod from inside it, as `kubectl port-forward` does, is led to the guest: for that
the tap may carry what comes from there (route_localnet), and the guest's own frames to 127.0.0.0/8 are dropped.

What goes between the pod and the guest's NICs of other kinds (vm-…) is their rules' business (joined_rules.py). Nobody
else's packets are forwarded: a pod is no router. The tunnels to the machine's other berths (door…, away) have rules of
their own beside these (door_rules.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from berth.effects.wiring import GATEWAY, GATEWAY6, GUEST, GUEST6, ROUTER6, Wiring

_TEMPLATE = """\
table ip berth
delete table ip berth
table inet berth
delete table inet berth
table inet berth {{
	comment "{digest}"
	chain inbound {{
		type nat hook prerouting priority dstnat; policy accept;
{inbound}
	}}
	chain outbound {{
		type nat hook postrouting priority srcnat; policy accept;
{outbound}
	}}
	chain from_berth {{
		type nat hook output priority dstnat; policy accept;
{from_berth}
	}}
	chain through {{
		type filter hook forward priority filter; policy drop;
		iifname "{tap}" ct state invalid drop
		iifname "{tap}" oifname "{up}" accept
		iifname "{up}" oifname "{tap}" ct state established,related accept
		oifname "{tap}" ct status dnat accept
		iifname "vm*" iifname != "{tap}" oifname "{up}" accept
		iifname "{up}" oifname "vm*" oifname != "{tap}" accept
		oifname "door*" ct mark and 0xffffff00 == 0xbe00 accept
		iifname "door*" oifname {{ "{tap}", "away" }} accept
		iifname "away" oifname "{up}" accept
		iifname "{up}" oifname "away" ct state established,related accept
		iifname "{up}" oifname "away" ct status dnat accept
	}}
	chain to_berth {{
		type filter hook input priority filter; policy accept;
{to_berth}
		iifname "{tap}" drop
	}}
}}
table netdev berth
delete table netdev berth
table netdev berth {{
	set callers {{
		type ipv6_addr
		size 16
		flags dynamic,timeout
		timeout 10m
	}}
	chain ingress {{
		type filter hook ingress device "{tap}" priority -500; policy drop;
		ether saddr != {mac} drop
		@ll,96,16 {{ 0x8100, 0x88a8 }} drop
{ingress}
	}}
}}
"""
_INBOUND = """
iifname "{up}" meta nfproto ipv4 fib daddr type local dnat ip to {guest}
iifname "{tap}" ip daddr != {gateway} fib daddr type local dnat ip to {guest}
"""
_INBOUND6 = """
iifname "{up}" ip6 daddr != fe80::/10 fib daddr type local dnat ip6 to {guest6}
iifname "{tap}" ip6 daddr != {{ {gateway6}, fe80::/10 }} fib daddr type local dnat ip6 to {guest6}
"""
_FROM_BERTH = """
oifname "lo" ip daddr 127.0.0.1 meta l4proto {{ tcp, udp }} dnat ip to {guest}
"""
_OUTBOUND = """
oifname "{up}" ip saddr {subnet} masquerade
oifname "{tap}" ip saddr 127.0.0.1 masquerade
oifname "{tap}" ip saddr {guest} masquerade
"""
_OUTBOUND6 = """
oifname "{up}" ip6 saddr {subnet6} masquerade
oifname "{tap}" ip6 saddr {guest6} masquerade
"""
_TO_BERTH = """
iifname "{tap}" ct state established ct direction reply ct status dnat accept
iifname "{tap}" ip daddr {gateway} icmp type echo-request limit rate 20/second burst 40 packets accept
"""
_TO_BERTH6 = """
iifname "{tap}" ip6 daddr {{ {router6}, {gateway6} }} icmpv6 type echo-request limit rate 20/second accept
iifname "{tap}" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
"""
_INGRESS = """
ether type arp arp saddr ether {mac} arp saddr ip {{ 0.0.0.0, {guest} }} limit rate 50/second burst 100 packets accept
ip daddr 127.0.0.0/8 drop
udp dport 67 limit rate over 20/second burst 40 packets drop
ip saddr {guest} accept
ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
"""
_INGRESS6 = """
ip6 daddr {{ ::/127, ::ffff:0:0/96 }} drop
udp dport 547 limit rate over 20/second burst 40 packets drop
ip6 saddr fe80::/10 udp sport 546 udp dport 547 accept
ip6 saddr {{ ::, fe80::/10 }} icmpv6 type nd-router-solicit limit rate 10/second burst 20 packets accept
icmpv6 type nd-neighbor-solicit icmpv6 taddr != {{ {router6}, {gateway6} }} drop
icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} limit rate over 50/second burst 100 packets drop
icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} ip6 saddr {guest6} accept
icmpv6 type nd-neighbor-solicit ip6 saddr fe80::/10 update @callers {{ ip6 saddr }} accept
icmpv6 type nd-neighbor-advert ip6 saddr @callers accept
icmpv6 type echo-request ip6 saddr fe80::/10 ip6 daddr {router6} update @callers {{ ip6 saddr }} accept
icmpv6 type 133-137 drop
ip6 saddr {guest6} accept
"""
_COMMENT = re.compile(r'^\tcomment "([^"]*)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What tells one ruleset from another: the digest of its script, kept as a comment, and its number of rules."""

    digest: str
    rules: int
    script: str = ""

    def same_as(self, other: Ruleset) -> bool:
        return (self.digest, self.rules) == (other.digest, other.rules)


def build(wiring: Wiring) -> Ruleset:
    """The script replaces both tables in one transaction: at no time is there a part of the rules."""
    values = {
        "up": wiring.uplink,
        "tap": wiring.device,
        "mac": wiring.guest_mac,
        "guest": str(GUEST.ip),
        "gateway": str(GATEWAY.ip),
        "subnet": str(GATEWAY.network),
        "guest6": str(GUEST6.ip),
        "gateway6": str(GATEWAY6.ip),
        "router6": str(ROUTER6.ip),
        "subnet6": str(GATEWAY6.network),
    }
    parts = {
        "inbound": (_INBOUND, _INBOUND6),
        "outbound": (_OUTBOUND, _OUTBOUND6),
        "from_berth": (_FROM_BERTH, ""),
        "to_berth": (_TO_BERTH, _TO_BERTH6),
        "ingress": (_INGRESS, _INGRESS6),
    }
    for name, (ipv4, ipv6) in parts.items():
        rules = (ipv4 if wiring.ipv4 else "") + (ipv6 if wiring.ipv6 else "")
        values[name] = "\n".join(f"\t\t{rule}" for rule in rules.format(**values).splitlines() if rule)
    digest = hashlib.sha256(_TEMPLATE.format(digest="", **values).encode()).hexdigest()[:32]
    script = _TEMPLATE.format(digest=digest, **values)
    return Ruleset(digest, sum(1 for _ in _rules(script)), script)


def parse(listing: str) -> Ruleset:
    """From what `nft list table` prints of the two tables."""
    comment = _COMMENT.search(listing)
    return Ruleset(comment.group(1) if comment else "", sum(1 for _ in _rules(listing)))


def _rules(text: str) -> Iterator[str]:
    """The lines of chains that are rules; sets have lines too."""
    in_chain = False
    for line in text.splitlines():
        if line.startswith("\t") and not line.startswith("\t\t"):
            in_chain = line.startswith("\tchain ")
        elif in_chain and line.startswith("\t\t") and not line.startswith(("\t\ttype ", "\t\t\t")):
            yield line
