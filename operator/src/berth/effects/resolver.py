"""The pod's resolv.conf in, the name servers and search domains that its guest is told out. Called by network.py."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resolver:
    """What a resolv.conf says; ``dns`` the servers with IPv4 addresses, ``dns6`` those with IPv6 addresses."""

    dns: tuple[ipaddress.IPv4Address, ...] = ()
    search: tuple[str, ...] = ()
    dns6: tuple[ipaddress.IPv6Address, ...] = ()


def parse(text: str) -> Resolver:
    """Three name servers of each family at most, as in resolv.conf(5), and the last search list."""
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = []
    search: tuple[str, ...] = ()
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    found.append(ipaddress.ip_address(address))
                except ValueError:
                    continue
            case ["search" | "domain", *domains]:
                search = tuple(domains)
    return of(found, search)


def of(servers: list[ipaddress.IPv4Address | ipaddress.IPv6Address], search: tuple[str, ...]) -> Resolver:
    """A server on the pod's own link, or in the pod itself, is none that the guest could reach."""
    usable = [s for s in servers if not (s.is_loopback or (s.version == 6 and s.is_link_local))]
    return Resolver(
        tuple(server for server in usable if isinstance(server, ipaddress.IPv4Address))[:3],
        search,
        tuple(server for server in usable if isinstance(server, ipaddress.IPv6Address))[:3],
    )
