"""The Network kind: a layer 2 segment for machines, with addresses that stay.

A Network lives in a namespace, like what uses it; its owner names the other namespaces that may use it too. There is no
cluster-wide twin: one kind, one place to look, and the grant stands where the owner of the network writes.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from berth.api.addresses import AddressOrRange, IpAddress, RangeV4, RangeV6, family
from berth.api.base import Fixed, Live, Model, Rule, exactly_one
from berth.api.kubernetes import ObjectMeta
from berth.api.virtualmachine import Condition

KIND = "Network"
PLURAL = "networks"
DeviceName = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[A-Za-z0-9_.-]+$")]
"""A network device's name, as Linux has it."""


class Bridge(Model):
    """A Linux bridge that each node already has."""

    name: Annotated[DeviceName, Fixed] = Field(description="The bridge's name on the nodes, for example br0.")


class Vlan(Model):
    """A VLAN on a network card of the nodes; the agents make the VLAN device and a bridge of their own on it."""

    device: Annotated[DeviceName, Fixed] = Field(description="The card's name on the nodes, for example eth1.")
    id: Annotated[int, Fixed] = Field(ge=1, le=4094, description="The VLAN's number.")


class Overlay(Model):
    """VXLAN between the nodes, by unicast: needs nothing of the network between them but UDP."""

    vni: Annotated[int | None, Fixed] = Field(
        None, ge=1, le=16777215, description="The VXLAN network identifier. Default: a free one."
    )


class AddressesV4(Model):
    """IPv4 addresses that Berth gives out."""

    range: Annotated[RangeV4, Fixed] = Field(description="The segment's network.")
    gateway: Annotated[IpAddress | None, Fixed] = Field(
        None, description="The router's address. Default: the first one with egress NAT, else none."
    )
    exclude: Annotated[list[AddressOrRange], Live] = Field(
        default_factory=list, max_length=64, description="Addresses and networks that are never given out."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "the gateway must be in the range",
            "!has(self.gateway) || !isIP(self.gateway) || !isCIDR(self.range)"
            " || cidr(self.range).containsIP(self.gateway)",
            lambda pool: pool.gateway is None or _within(pool.gateway, pool.range),
            field="gateway",
        ),
    )


class AddressesV6(Model):
    """IPv6 addresses that Berth gives out."""

    range: Annotated[RangeV6, Fixed] = Field(description="The segment's network.")
    gateway: Annotated[IpAddress | None, Fixed] = Field(
        None, description="The router's address. Default: the first one with egress NAT, else none."
    )
    exclude: Annotated[list[AddressOrRange], Live] = Field(
        default_factory=list, max_length=64, description="Addresses and networks that are never given out."
    )

    rules: ClassVar[tuple[Rule, ...]] = AddressesV4.rules


class Egress(Model):
    """The way out of the segment."""

    type: Annotated[Literal["None", "NAT"], Fixed] = Field(
        "None",
        description="NAT: each machine's own berth is its gateway and sends what leaves the segment to the pod network,"
        " with the pod's identity: Services are reachable and NetworkPolicies hold. None: a router of yours, if any.",
    )


class NetworkSpec(Model):
    """What the segment is, and which addresses are on it."""

    bridge: Bridge | None = Field(None, description="A bridge that the nodes have.")
    vlan: Vlan | None = Field(None, description="A VLAN on a card of the nodes.")
    overlay: Overlay | None = Field(None, description="A VXLAN between the nodes.")
    ipv4: AddressesV4 | None = Field(
        None, description="IPv4 addresses. Left out: Berth gives none (a DHCP server on the segment may)."
    )
    ipv6: AddressesV6 | None = Field(
        None, description="IPv6 addresses. Left out: Berth gives none (a router on the segment may)."
    )
    dns: Annotated[list[IpAddress], Live] = Field(
        default_factory=list, max_length=3, description="Name servers. Default: the cluster's, with egress NAT."
    )
    search: Annotated[list[str], Live] = Field(
        default_factory=list, max_length=8, description="Domains that short names are looked up in."
    )
    mtu: Annotated[int | None, Fixed] = Field(
        None, ge=576, le=65535, description="The largest packet. Default: what the nodes' devices carry."
    )
    egress: Egress = Field(default_factory=Egress, description="The way out of the segment.")
    allowed_namespaces: Annotated[list[str], Live] = Field(
        default_factory=list,
        max_length=256,
        description='Other namespaces whose machines may use it; "*" allows all.',
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("bridge", "vlan", "overlay"),
        Rule(  # oldSelf: the API server checks it at a change only, and here nothing is known of what was
            "bridge, vlan and overlay cannot take each other's place: make a new Network",
            "has(self.bridge) == has(oldSelf.bridge) && has(self.vlan) == has(oldSelf.vlan)",
            lambda spec: True,
        ),
        Rule(
            "egress NAT needs a range of addresses: give ipv4 or ipv6",
            "!has(self.egress) || self.egress.type != 'NAT' || has(self.ipv4) || has(self.ipv6)",
            lambda spec: spec.egress.type != "NAT" or spec.ipv4 is not None or spec.ipv6 is not None,
            field="egress",
        ),
    )


class Lease(Model):
    """Addresses that one interface of one machine keeps for as long as it exists."""

    machine: str = Field(description="Namespace and name of the machine.", max_length=317)
    uid: str = Field(description="The machine's uid.", max_length=64)
    nic: str = Field(description="The interface's name.", max_length=32)
    mac: str = Field(description="Its MAC address.", max_length=17)
    addresses: list[str] = Field(default_factory=list, description="Its IP addresses.", max_length=2)


class NetworkStatus(Model):
    """What Berth has to say. Written by the controller alone."""

    observed_generation: int = Field(0, description="The generation of the spec that this status speaks of.")
    message: str = Field("", description="What is wrong and what to do next, when there is anything to say.")
    vni: int | None = Field(None, description="The overlay's VXLAN network identifier.")
    used: int = Field(0, description="Interfaces that have a lease.")
    available: int | None = Field(None, description="Addresses that are free, of the family that has fewer.")
    leases: list[Lease] = Field(default_factory=list, description="Who has which addresses.")
    conditions: list[Condition] = Field(
        default_factory=list,
        description="True is good.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Network(Model):
    """A layer 2 segment for machines, with addresses that stay."""

    api_version: Literal["berth.dev/v1alpha1"] = "berth.dev/v1alpha1"
    kind: Literal["Network"] = "Network"
    metadata: ObjectMeta
    spec: NetworkSpec = Field(description="What you want.")
    status: NetworkStatus | None = Field(None, description="What Berth has to say.")


def _within(address: str, network: str) -> bool:
    found: Any = ipaddress.ip_network(network)
    return family(address) == found.version and ipaddress.ip_address(address) in found
