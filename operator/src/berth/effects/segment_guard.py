"""Who may put frames into this node's overlays: the other nodes' addresses in, an nftables table out. Pure.

Called by segment_devices.py. VXLAN has no password: any packet to its port that reaches a node would be a frame in a
guest's segment. Taken is only what comes from a node that has members, on the way that leads back to it; and what pods
or guests send to that port of any node is not forwarded: behind the node's own address it would look like the node's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from berth.effects import nft

TABLE = "berth_overlay"


def build(peers: Iterable[str], port: int) -> nft.Tables:
    found = sorted({ipaddress.ip_address(peer) for peer in peers}, key=lambda peer: (peer.version, int(peer)))
    rules = [
        _from_strangers("ip", [str(peer) for peer in found if peer.version == 4]),
        _from_strangers("ip6", [str(peer) for peer in found if peer.version == 6]),
        "fib saddr . iif oif missing drop",
    ]
    arriving = "\n".join(f"\t\tudp dport {port} {rule}" for rule in rules)
    text = f"""\
table inet {TABLE} {{
	{nft.COMMENT}
	chain arriving {{
		type filter hook input priority filter - 10; policy accept;
{arriving}
	}}
	chain passing {{
		type filter hook forward priority filter - 10; policy accept;
		udp dport {port} drop
	}}
}}
"""
    return nft.build([("inet", TABLE)], text)


def _from_strangers(family: str, peers: list[str]) -> str:
    if not peers:
        return f"meta nfproto {'ipv4' if family == 'ip' else 'ipv6'} drop"
    return f"{family} saddr != {{ {', '.join(peers)} }} drop"
