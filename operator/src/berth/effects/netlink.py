"""Network devices, as netlink, sysctl and nft know them: observed as wiring.Observed, changed one Change at a time.

Called by network.py. Every function works in the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from berth.effects import firewall, nft, wiring
from berth.effects.rtnetlink import PERMANENT, NetlinkError, Route
from berth.errors import HostFault

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
_SYSCTL = Path("/proc/sys")


def make_tap(name: str, *, queues: int = 1) -> None:
    """A tap device that outlives this call, for libvirt to open. One that is there already is left alone.

    Whether it can have several queues is settled when it is made: libvirt must find it as it is going to open it.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except OSError as error:
        if error.errno != errno.EBUSY:  # EBUSY: it is there, and a QEMU has it open
            raise HostFault(f"tap device {name} cannot be made: {error.strerror}", reason="TapFailed") from error
    finally:
        os.close(fd)


def index_of(name: str) -> int | None:
    """Without a netlink socket: this is asked often."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def names() -> list[str]:
    """Of all devices here; as cheap as index_of."""
    return [name for _, name in socket.if_nameindex()]


def remove_by_prefix(prefix: str) -> None:
    with Route() as route:
        for link in route.links():
            if link.name.startswith(prefix):
                route.delete_link(link.index)


def remove(index: int) -> None:
    with Route() as route:
        route.delete_link(index)


def move(index: int, netns_fd: int, name: str) -> None:
    """Into another namespace, under a name that is free there (were it not, the kernel would move and not rename)."""
    try:
        with Route() as route:
            route.move_link(index, netns_fd, name)
    except NetlinkError as error:
        raise HostFault(f"{name} cannot be moved into the pod: {error}", reason="NetworkFailed") from error


@dataclass(frozen=True, slots=True)
class Inside:
    """One visit to a berth's namespace, over one netlink socket."""

    route: Route

    def links(self) -> dict[str, wiring.Link]:
        return {link.name: wiring.Link(link.index, link.mac, link.mtu, link.up) for link in self.route.links()}

    def families(self, link: wiring.Link) -> frozenset[int]:
        """4, 6 or both: of which the link has an address that others can call it by."""
        found = (ipaddress.ip_interface(address).ip for address in self.route.addresses(link.index))
        return frozenset(address.version for address in found if address.version == 4 or not address.is_link_local)

    def observe(self, want: wiring.Wiring, link: wiring.Link, *, fresh: bool) -> wiring.Observed:
        """A device that was just moved in can have no rules: they are not asked for."""
        names = [*want.sysctls, want.uplink_accepts]
        return wiring.Observed(
            link,
            frozenset(self.route.addresses(link.index)),
            {n.address: n.mac for n in self.route.neighbours(link.index) if n.state & PERMANENT},
            {name: value for name in names if (value := read_sysctl(name)) is not None},
            not fresh and firewall.build(want).same_as(list_rules()),
        )

    def apply(self, change: wiring.Change, want: wiring.Wiring) -> None:
        try:
            match change:
                case wiring.WriteSysctl(name, value):
                    write_sysctl(name, value)
                case wiring.LoadRules():
                    load_rules(firewall.build(want).script)
                case _:
                    apply_to_link(self.route, change)
        except NetlinkError as error:
            raise HostFault(f"network: {change} failed: {error}", reason="NetworkFailed") from error


@contextmanager
def open_inside() -> Iterator[Inside]:
    try:
        with Route() as route:
            yield Inside(route)
    except NetlinkError as error:  # a device went away while it was looked at: the pod is being taken down
        raise HostFault(f"the pod's network cannot be read: {error}", reason="NetworkFailed") from error


def apply_to_link(route: Route, change: wiring.Change) -> None:
    match change:
        case wiring.SetLink(name, mac, mtu):
            route.set_link(known_index(name), mac=mac, mtu=mtu)
        case wiring.AddAddress(name, address):
            route.add_address(known_index(name), address)
        case wiring.RemoveAddress(name, address):
            route.delete_address(known_index(name), address)
        case wiring.LinkUp(name):
            route.set_link(known_index(name), up=True)
        case wiring.SetNeighbour(name, address, mac):
            route.set_neighbour(known_index(name), address, mac)
        case _:
            raise HostFault(f"{change} is no change of the berth's namespace", reason="NetworkFailed")


def known_index(name: str) -> int:
    index = index_of(name)
    if index is None:
        raise NetlinkError(errno.ENODEV, f"{name} is not there any more")
    return index


def read_sysctl(name: str) -> str | None:
    try:
        return (_SYSCTL / name).read_text().strip()
    except FileNotFoundError:
        return None


def write_sysctl(name: str, value: str) -> None:
    try:
        (_SYSCTL / name).write_text(value)
    except FileNotFoundError as error:
        if "ipv6" not in name:  # a kernel without IPv6 has nothing to switch off
            raise HostFault(f"sysctl {name} is not there", reason="NetworkFailed") from error
    except OSError as error:
        message = f"sysctl {name} cannot be set to {value}: {error.strerror}; is the agent privileged?"
        raise HostFault(message, reason="NetworkFailed") from error


def list_rules() -> firewall.Ruleset:
    texts = [nft.run("list", "table", family, "berth") for family in ("inet", "netdev")]
    return firewall.parse("".join(done.stdout for done in texts if done.returncode == 0))


def load_rules(script: str) -> None:
    done = nft.run("-f", "-", text=script)
    if done.returncode:
        message = f"nft refused the berth's rules: {done.stderr.strip()[-500:]}"
        raise HostFault(message, reason="FirewallFailed")
