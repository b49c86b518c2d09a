"""The rules in a berth's network namespace: a guest's addresses in, an nftables script out. Called by netlink.py; pure.

The guest has the pod's IP address: all that arrives there goes to the guest, all that the guest sends leaves with it.
The guest is hostile: it can neither claim another MAC or IP address, the gateway's least of all, nor reach a socket of
the berth. Which other places it may reach is NetworkPolicy's business, as for any pod.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from berth.effects.wiring import Wiring

_TEMPLATE = """\
table ip berth
delete table ip berth
table ip berth {{
	comment "{digest}"
	chain inbound {{
		type nat hook prerouting priority dstnat; policy accept;
		iifname "{up}" fib daddr type local dnat to {guest}
		iifname "{tap}" ip daddr != {gateway} fib daddr type local dnat to {guest}
	}}
	chain outbound {{
		type nat hook postrouting priority srcnat; policy accept;
		oifname "{up}" ip saddr {subnet} masquerade
		oifname "{tap}" ip saddr {guest} masquerade
	}}
	chain through {{
		type filter hook forward priority filter; policy drop;
		iifname "{tap}" ct state invalid drop
		iifname "{tap}" oifname "{up}" accept
		iifname "{up}" oifname "{tap}" ct state established,related accept
		oifname "{tap}" ct status dnat accept
	}}
	chain to_berth {{
		type filter hook input priority filter; policy accept;
		iifname "{tap}" udp dport 67 limit rate 20/second burst 40 packets accept
		iifname "{tap}" ip daddr {gateway} icmp type echo-request limit rate 20/second burst 40 packets accept
		iifname "{tap}" drop
	}}
}}
table netdev berth
delete table netdev berth
table netdev berth {{
	chain ingress {{
		type filter hook ingress device "{tap}" priority -500; policy drop;
		ether saddr != {mac} drop
		ether type arp arp saddr ether {mac} arp saddr ip {{ 0.0.0.0, {guest} }} accept
		ether type ip ip saddr {guest} accept
		ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
	}}
}}
"""
_RULE = re.compile(r"^\t\t(?!type )\S", re.MULTILINE)
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
        "guest": str(wiring.guest.ip),
        "gateway": str(wiring.gateway.ip),
        "subnet": str(wiring.gateway.network),
        "mac": wiring.guest_mac,
    }
    digest = hashlib.sha256(_TEMPLATE.format(digest="", **values).encode()).hexdigest()[:32]
    script = _TEMPLATE.format(digest=digest, **values)
    return Ruleset(digest, len(_RULE.findall(script)), script)


def parse(listing: str) -> Ruleset:
    """From what `nft list table` prints of the two tables."""
    comment = _COMMENT.search(listing)
    return Ruleset(comment.group(1) if comment else "", len(_RULE.findall(listing)))
