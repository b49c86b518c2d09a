"""The ways between a machine's berths, made and switched in one berth's network namespace. Called by handing.py.

Level-based: the tunnels, rules and routes that are there are observed, and only the difference is made. All that there
is to know is in the kernel (a device's alias holds what it does not tell itself), so an agent that starts over goes on.
A machine has departed when the guest's address is routed away: until ``stay`` nothing else of its berth is touched.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berth.api.handover import DoorOrder, Flow, Forward
from berth.effects import conntrack, door_rules, doors, netlink, nft, wiring
from berth.effects.conntrack import Conntrack
from berth.effects.rtnetlink import NetlinkError
from berth.effects.rtroutes import Routes, Tunnel
from berth.errors import HostFault

Told = Callable[[wiring.Change], None]
_GUESTS: Final[dict[int, conntrack.Address]] = {4: wiring.GUEST.ip, 6: wiring.GUEST6.ip}
_LOCAL: Final = (wiring.GATEWAY.ip, wiring.GATEWAY6.ip, wiring.ROUTER6.ip)
"""Who speaks with the guest from within its berth, and cannot come along."""
_FILTER: Final = "net/ipv4/conf/{}/rp_filter"
_LIBERAL: Final = "net/netfilter/nf_conntrack_tcp_be_liberal"


@dataclass(frozen=True, slots=True)
class Doorways:
    """One visit to a berth's namespace: to be made and used in a thread that is in it."""

    routes: Routes
    told: Told

    def departed(self) -> bool:
        found = self._tunnels().get(doors.AWAY)
        away = self.routes.host_routes(found.index) if found is not None else set()
        return any(str(guest) in away for guest in _GUESTS.values())

    def open(self, orders: Sequence[DoorOrder]) -> None:
        """These lead here, and no others."""
        seen = self._tunnels()
        if not orders and not seen:
            return
        uplink = self._uplink()
        want = doors.to_doors(orders, uplink)
        away = [tunnel for tunnel in seen.values() if tunnel.name == doors.AWAY]
        closing = [t for name, t in seen.items() if t not in away and (name not in want or not _stays(t, want[name]))]
        for tunnel in closing:
            self._forget(tunnel)
        for tunnel in (t for t in closing if t.name in want):  # another door has its number
            self._remove(tunnel)
        self._make([*want.values(), *away], uplink)
        for tunnel in (t for t in closing if t.name not in want):
            self._remove(tunnel)  # last: where there is no tunnel, nothing else is looked for

    def lead_away(self, forward: Forward) -> None:
        """Everything but the switch."""
        seen, uplink = self._tunnels(), self._uplink()
        want, old = doors.away(forward, uplink), seen.pop(doors.AWAY, None)
        if old is not None and not doors.same(old, want):
            self._remove(old)
        self._make([*seen.values(), want], uplink)

    def ready(self, forward: Forward) -> bool:
        """Whether all that ``lead_away`` does has been done: one look, for the guest stands still meanwhile."""
        found = self._tunnels().get(doors.AWAY)
        want = doors.away(forward, self._uplink())
        return found is not None and found.up and (found.remote, found.note) == (want.remote, want.note)

    def switch(self) -> None:
        """What comes for the guest goes away from here."""
        index = self._tunnels()[doors.AWAY].index
        there = self.routes.host_routes(index)
        for version in self._versions():
            if (guest := str(_GUESTS[version])) not in there:
                self.routes.add_gateway(index, doors.GATEWAYS[version], to=guest)
                self.told(wiring.AddRoute(doors.AWAY, guest))

    def hint(self) -> None:
        """The guest's connections hear of smaller packets here, too; not in the time that the guest stands still."""
        tunnel, uplink = self._tunnels()[doors.AWAY], self._uplink()
        for version in self._versions():
            self._lead(version, tunnel, doors.hint(0), doors.uncut(uplink.mtu, tunnel.local))

    def switch_back(self) -> None:
        """Stays here; the tunnel goes."""
        seen = self._tunnels()
        away = seen.pop(doors.AWAY, None)
        if away is None:
            return
        there = self.routes.host_routes(away.index)
        for version, guest in _GUESTS.items():
            if str(guest) in there:
                self.routes.delete_gateway(away.index, doors.GATEWAYS[version], to=str(guest))
                self.told(wiring.RemoveRoute(doors.AWAY, str(guest)))
        for version in (4, 6):
            self.routes.delete_mark(version, doors.hint(0), doors.PREFERENCE)
        self._load(list(seen.values()), self._uplink())
        self._remove(away)

    def numbers(self) -> set[int]:
        """Of the doors that lead here."""
        return {doors.number(name) for name in self._tunnels() if name != doors.AWAY}

    def _tunnels(self) -> dict[str, Tunnel]:
        found = self.routes.tunnels()
        return {name: t for name, t in found.items() if name == doors.AWAY or name.startswith(doors.DOOR)}

    def _uplink(self) -> doors.Uplink:
        link = next((link for link in self.routes.links() if link.name == wiring.UPLINK), None)
        if link is None:
            message = f"the pod has no {wiring.UPLINK}: its network is not set up (yet)"
            raise HostFault(message, reason="PodNetworkMissing")
        found = [ipaddress.ip_interface(address).ip for address in self.routes.addresses(link.index)]
        return doors.Uplink(link.mtu, tuple(str(address) for address in found if not address.is_link_local))

    def _versions(self) -> list[int]:
        """Of the families that guests have here."""
        return sorted({ipaddress.ip_address(address).version for address in self._uplink().addresses})

    def _make(self, want: Sequence[Tunnel], uplink: doors.Uplink) -> None:
        """The rules are there before the first device is up."""
        seen = self._tunnels()
        for tunnel in want:
            if tunnel.name not in seen:
                work = functools.partial(self.routes.add_tunnel, tunnel, doors.PORT)
                self._change(f"make {tunnel.name} to {tunnel.remote}", work)
        self._load(want, uplink)
        for tunnel in want:
            self._finish(tunnel, uplink)

    def _load(self, want: Sequence[Tunnel], uplink: doors.Uplink) -> None:
        if not want:
            nft.delete([door_rules.TABLE])
            self.told(wiring.RemoveRules(door_rules.TABLE[1]))
            return
        rules = door_rules.build(sorted(want, key=lambda tunnel: tunnel.name), uplink.mtu)
        if not nft.stand(rules):
            nft.load(rules)
            self.told(wiring.LoadRules())

    def _finish(self, want: Tunnel, uplink: doors.Uplink) -> None:
        """Its sysctls, the other end's MAC address, the way through it; and up."""
        found = self._tunnels()[want.name]
        if found.mtu != want.mtu:
            self.routes.set_link(found.index, mtu=want.mtu)
        for name, value in self._sysctls(want.name).items():
            if netlink.read_sysctl(name) not in (value, None):
                netlink.write_sysctl(name, value)
                self.told(wiring.WriteSysctl(name, value))
        if not found.up:
            self._change(f"raise {want.name}", lambda: self.routes.set_link(found.index, up=True))
        known = {n.address: n.mac for n in self.routes.neighbours(found.index)}
        for version in self._versions():
            gateway = doors.GATEWAYS[version]
            if known.get(gateway) != doors.other_mac(want):
                self.routes.set_neighbour(found.index, gateway, doors.other_mac(want))
                self.told(wiring.SetNeighbour(want.name, gateway, doors.other_mac(want)))
            if want.name != doors.AWAY:
                number = doors.number(want.name)
                self._lead(version, found, doors.mark(number))
                self._lead(version, found, doors.hint(number), doors.uncut(uplink.mtu, want.local))
        if (found.remote, found.note) != (want.remote, want.note):  # last: who sees it sees all of it done
            self._change(f"lead {want.name} to {want.remote}", lambda: self.routes.redirect_tunnel(found.index, want))

    def _lead(self, version: int, tunnel: Tunnel, mark: int, mtu: int = 0) -> None:
        """From a mark to its table, from there into the tunnel."""
        self.routes.add_gateway(tunnel.index, doors.GATEWAYS[version], table=mark, mtu=mtu)
        if (version, mark) not in self.routes.marks(doors.PREFERENCE):
            self._change(f"route {mark:#x}", lambda: self.routes.add_mark(version, mark, doors.PREFERENCE))

    def _sysctls(self, device: str) -> dict[str, str]:
        """What comes through a door has the client's address, which is routed elsewhere: no reverse path filter. That
        of all devices would count too, so the others get it each."""
        every = netlink.read_sysctl(_FILTER.format("all")) or "0"
        others = (p.name for p in Path("/proc/sys/net/ipv4/conf").iterdir() if p.name not in ("all", device))
        values = {_FILTER.format(name): netlink.read_sysctl(_FILTER.format(name)) or "0" for name in others}
        kept = {name: every for name, value in values.items() if every > value and doors.DOOR not in name}
        v6 = f"net/ipv6/conf/{device}"
        told = {f"{v6}/accept_ra": "0", f"{v6}/accept_dad": "0", f"{v6}/addr_gen_mode": "1", f"{v6}/disable_ipv6": "0"}
        return kept | {_FILTER.format("all"): "0", _FILTER.format(device): "0", _LIBERAL: "1"} | told

    def _forget(self, tunnel: Tunnel) -> None:
        """The connections first: nothing of them goes by another way, or through the next door of that number."""
        mark = doors.mark(doors.number(tunnel.name))
        with Conntrack() as known:
            known.forget(mark)
        for version in (4, 6):
            for each in (mark, doors.hint(doors.number(tunnel.name))):
                self.routes.delete_mark(version, each, doors.PREFERENCE)

    def _remove(self, tunnel: Tunnel) -> None:
        work = functools.partial(self.routes.delete_link, tunnel.index)
        self._change(f"remove {tunnel.name}", work)

    def _change(self, what: str, work: Callable[[], None]) -> None:
        try:
            work()
        except NetlinkError as error:
            hint = "; load the kernel module vxlan" if error.errno == errno.EOPNOTSUPP else ""
            raise HostFault(f"door: cannot {what}: {error}{hint}", reason="DoorFailed") from error
        self.told(wiring.ChangeDoor(what))


def flows(own: int) -> tuple[Flow, ...]:
    """The guest's connections; those that came by the berth's own addresses are its own door's."""
    with Conntrack() as known:
        found = known.of(_GUESTS.values())
    told = (one.flow(_GUESTS.values(), doors.door_of(one.mark) or own) for one in found)
    return tuple(flow for flow in told if flow is not None and not _is_local(flow))


def take(arrived: Iterable[Flow]) -> int:
    """How many of them were news."""
    with Conntrack() as known:
        return sum(known.add(flow, doors.mark(flow.door)) for flow in arrived)


def open_connections() -> int:
    """Through the berth's own addresses."""
    return sum(1 for flow in flows(0) if flow.door == 0 and conntrack.is_open(flow))


def _is_local(flow: Flow) -> bool:
    return ipaddress.ip_address(flow.peer) in (*_LOCAL, *_GUESTS.values())


def _stays(seen: Tunnel, want: Tunnel) -> bool:
    """A door's other end never changes: another one is another door."""
    return doors.same(seen, want) and seen.remote == want.remote
