"""Networks that must be refused, and what the refusal has to say: the same table for the CLI and a real API server."""

from __future__ import annotations

from typing import Any

from tests.unit.api.bad_inputs import Bad, Json


def network(**spec: Any) -> Json:
    return {"overlay": {}, "ipv4": {"range": "10.9.0.0/24"}, **spec}


BAD_NETWORKS = (
    Bad("no-kind", {"ipv4": {"range": "10.9.0.0/24"}}, "spec", ("exactly one of bridge, vlan, overlay", "nothing")),
    Bad("two-kinds", network(bridge={"name": "br0"}), "spec", ("exactly one of", "bridge overlay")),
    Bad("range-is-an-address", network(ipv4={"range": "10.9.0.1"}), "spec.ipv4.range", ("must be an IPv4 network",)),
    Bad("range-has-host-bits", network(ipv4={"range": "10.9.0.1/24"}), "spec.ipv4.range", ("no bits set",)),
    Bad("range-of-the-other-family", network(ipv6={"range": "10.9.0.0/24"}), "spec.ipv6.range", ("IPv6 network",)),
    Bad("range-too-large", network(ipv4={"range": "0.0.0.0/0"}), "spec.ipv4.range", ("from /8 to /30",)),
    Bad("range-too-small", network(ipv4={"range": "10.9.0.0/31"}), "spec.ipv4.range", ("from /8 to /30",)),
    Bad("gateway-outside", network(ipv4={"range": "10.9.0.0/24", "gateway": "10.8.0.1"}), "spec.ipv4.gateway",
        ("the gateway must be in the range",)),
    Bad("gateway-is-a-range", network(ipv4={"range": "10.9.0.0/24", "gateway": "10.9.0.1/24"}), "spec.ipv4.gateway",
        ("must be an IP address",)),
    Bad("exclude-is-no-address", network(ipv4={"range": "10.9.0.0/24", "exclude": ["x"]}), "spec.ipv4.exclude[0]",
        ("must be an IP address or a network",)),
    Bad("vni-too-large", network(overlay={"vni": 16777216}), "spec.overlay.vni", ("16777215", "16777216")),
    Bad("vlan-out-of-range", {"vlan": {"device": "eth1", "id": 4095}}, "spec.vlan.id", ("4094", "4095")),
    Bad("device-name-too-long", {"bridge": {"name": "x" * 16}}, "spec.bridge.name", ("15",)),
    Bad("device-name-with-slash", {"bridge": {"name": "../x"}}, "spec.bridge.name", ("../x",)),
    Bad("nat-without-addresses", {"overlay": {}, "egress": {"type": "NAT"}}, "spec.egress", ("needs a range",)),
    Bad("egress-word", network(egress={"type": "nat"}), "spec.egress.type", ("None", "NAT", "nat")),
    Bad("mtu-too-small", network(mtu=68), "spec.mtu", ("576", "68")),
    Bad("dns-is-a-name", network(dns=["dns.example.org"]), "spec.dns[0]", ("must be an IP address",)),
    Bad("unknown-field", network(ipv5={}), "spec.ipv5", ("unknown field",)),
)  # fmt: skip
