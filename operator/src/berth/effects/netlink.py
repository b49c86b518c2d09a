"""Network devices, as netlink, sysctl and nft know them: observed as wiring.Observed, changed one Change at a time.

Called by network.py. Every function works in the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError

from berth.effects import firewall, wiring
from berth.errors import HostFault

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_IFF_UP = 1
_NUD_PERMANENT = 0x80
_SYSCTL = Path("/proc/sys")


def make_tap(name: str) -> None:
    """A tap device that outlives this call, for libvirt to open. One that is there already is left alone."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
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


def remove_by_prefix(prefix: str) -> None:
    with IPRoute() as ip:
        for link in ip.get_links():
            if str(link.get_attr("IFLA_IFNAME")).startswith(prefix):
                ip.link("del", index=link["index"])


def remove(index: int) -> None:
    with IPRoute() as ip:
        ip.link("del", index=index)


def move(index: int, netns_fd: int, name: str) -> None:
    """Into another namespace, under a name that is free there (were it not, the kernel would move and not rename)."""
    try:
        with IPRoute() as ip:
            ip.link("set", index=index, net_ns_fd=netns_fd, ifname=name)
    except NetlinkError as error:
        raise HostFault(f"{name} cannot be moved into the pod: {error}", reason="NetworkFailed") from error


@dataclass(frozen=True, slots=True)
class Inside:
    """One visit to a berth's namespace, over one netlink socket."""

    ip: IPRoute

    def links(self) -> dict[str, wiring.Link]:
        return {str(link.get_attr("IFLA_IFNAME")): _link(link) for link in self.ip.get_links()}

    def observe(self, want: wiring.Wiring, link: wiring.Link, *, fresh: bool) -> wiring.Observed:
        """A device that was just moved in can have no rules: they are not asked for."""
        addresses = self.ip.get_addr(index=link.index, family=2)
        return wiring.Observed(
            link,
            frozenset(f"{a.get_attr('IFA_ADDRESS')}/{a['prefixlen']}" for a in addresses),
            _neighbour(self.ip, link.index, str(want.guest.ip)),
            {name: value for name in want.sysctls if (value := _read_sysctl(name)) is not None},
            not fresh and firewall.build(want).same_as(list_rules()),
        )

    def apply(self, change: wiring.Change, want: wiring.Wiring) -> None:
        try:
            match change:
                case wiring.WriteSysctl(name, value):
                    _write_sysctl(name, value)
                case wiring.LoadRules():
                    load_rules(firewall.build(want).script)
                case _:
                    _apply_netlink(self.ip, change)
        except NetlinkError as error:
            raise HostFault(f"network: {change} failed: {error}", reason="NetworkFailed") from error


@contextmanager
def open_inside() -> Iterator[Inside]:
    try:
        with IPRoute() as ip:
            yield Inside(ip)
    except NetlinkError as error:  # a device went away while it was looked at: the pod is being taken down
        raise HostFault(f"the pod's network cannot be read: {error}", reason="NetworkFailed") from error


def _link(message: object) -> wiring.Link:
    get = message.get_attr  # type: ignore[attr-defined]
    up = bool(message["flags"] & _IFF_UP)  # type: ignore[index]
    return wiring.Link(message["index"], get("IFLA_ADDRESS"), get("IFLA_MTU"), up)  # type: ignore[index]


def _neighbour(ip: IPRoute, index: int, address: str) -> str | None:
    for entry in ip.get_neighbours(ifindex=index, family=2):
        if entry.get_attr("NDA_DST") == address and entry["state"] & _NUD_PERMANENT:
            return str(entry.get_attr("NDA_LLADDR"))
    return None


def _apply_netlink(ip: IPRoute, change: wiring.Change) -> None:
    match change:
        case wiring.SetLink(name, mac, mtu):
            ip.link("set", index=index_of(name), address=mac, mtu=mtu)
        case wiring.AddAddress(name, address):
            ip.addr(
                "replace", index=index_of(name), address=address.split("/")[0], prefixlen=int(address.split("/")[1])
            )
        case wiring.RemoveAddress(name, address):
            ip.addr("del", index=index_of(name), address=address.split("/")[0], prefixlen=int(address.split("/")[1]))
        case wiring.LinkUp(name):
            ip.link("set", index=index_of(name), state="up")
        case wiring.SetNeighbour(name, address, mac):
            ip.neigh("replace", ifindex=index_of(name), dst=address, lladdr=mac, state=_NUD_PERMANENT)
        case _:
            raise HostFault(f"{change} is no change of the berth's namespace", reason="NetworkFailed")


def _read_sysctl(name: str) -> str | None:
    try:
        return (_SYSCTL / name).read_text().strip()
    except FileNotFoundError:
        return None


def _write_sysctl(name: str, value: str) -> None:
    try:
        (_SYSCTL / name).write_text(value)
    except FileNotFoundError as error:
        if "ipv6" not in name:  # a kernel without IPv6 has nothing to switch off
            raise HostFault(f"sysctl {name} is not there", reason="NetworkFailed") from error
    except OSError as error:
        message = f"sysctl {name} cannot be set to {value}: {error.strerror}; is the agent privileged?"
        raise HostFault(message, reason="NetworkFailed") from error


def list_rules() -> firewall.Ruleset:
    texts = [_nft("list", "table", family, "berth") for family in ("ip", "netdev")]
    return firewall.parse("".join(done.stdout for done in texts if done.returncode == 0))


def load_rules(script: str) -> None:
    done = _nft("-f", "-", text=script)
    if done.returncode:
        message = f"nft refused the berth's rules: {done.stderr.strip()[-500:]}"
        raise HostFault(message, reason="FirewallFailed")


def _nft(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostFault(f"nft cannot be run: {error}; the agent's image holds it", reason="FirewallFailed") from error
