"""The rules around the tunnels between a machine's berths: the tunnels in, nftables out. Called by doorways.py; pure.

VXLAN has no password. Only what comes from the pod at the other end is let into a tunnel: a packet to its port from
anybody else goes to the guest like any other, and never meets the tunnel. Whoever can send under another pod's address
could put packets into a connection, as he could without a tunnel. The guest's own packets cannot get there: what it
sends to the berth is dropped, and its source address is checked at its tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from berth.effects import doors, nft
from berth.effects.rtroutes import Tunnel
from berth.effects.wiring import DEVICE, GUEST, GUEST6, UPLINK

TABLE: Final = ("inet", "berth_doors")
_ANY_DOOR: Final = "ct mark and 0xffffff00 == 0xbe00"


def build(tunnels: Sequence[Tunnel], uplink_mtu: int) -> nft.Tables:
    """``tunnels``: all that there are, to doors and away."""
    chains = [
        _chain("tunnels", "prerouting priority raw", _let_in(tunnels)),
        _chain("own", "output priority raw", _own(tunnels)),
        _chain("doors", "prerouting priority mangle", _mark(tunnels)),
        _set("hinted", "ip"),
        _set("hinted6", "ip6"),
        _chain("hints", "prerouting priority mangle + 1", _hints(tunnels, uplink_mtu)),
        _chain("through", "forward priority filter - 5", _through(tunnels)),
        _chain("sizes", "forward priority mangle", _sizes(tunnels, uplink_mtu)),
        _chain("unmark", "postrouting priority mangle", iter([f"oifname {_names(tunnels)} meta mark set 0"])),
        _chain("to_berth", "input priority filter - 5", iter([f"iifname {_names(tunnels)} drop"])),
    ]
    return nft.build([TABLE], f"table inet {TABLE[1]} {{\n\t{nft.COMMENT}\n{''.join(chains)}}}\n")


def _chain(name: str, hook: str, rules: Iterator[str]) -> str:
    lines = [f"type filter hook {hook}; policy accept;", *rules]
    return f"\tchain {name} {{\n" + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def _set(name: str, family: str) -> str:
    kind = f"typeof {family} saddr . tcp sport . {family} daddr . tcp dport"
    return f"\tset {name} {{\n\t\t{kind}\n\t\tsize 4096\n\t\tflags dynamic,timeout\n\t\ttimeout 1h\n\t}}\n"


def _names(tunnels: Sequence[Tunnel]) -> str:
    return "{ " + ", ".join(f'"{tunnel.name}"' for tunnel in tunnels) + " }"


def _let_in(tunnels: Sequence[Tunnel]) -> Iterator[str]:
    """Untracked, they are for the tunnel's socket; the rules of the pod's addresses do not see them."""
    for address in _callers(tunnels):
        yield f'iifname "{UPLINK}" {_family(address)} saddr {address} udp dport {doors.PORT} notrack'


def _own(tunnels: Sequence[Tunnel]) -> Iterator[str]:
    """What the kernel would tell neighbours of itself; there are none."""
    yield f"oifname {_names(tunnels)} icmpv6 type {{ 130-137, 143 }} drop"
    yield f'oifname "{UPLINK}" udp dport {doors.PORT} notrack'


def _mark(tunnels: Sequence[Tunnel]) -> Iterator[str]:
    """The berth that the guest came from passes on what came through the others for a while: those keep their marks."""
    for tunnel in tunnels:
        if tunnel.name != doors.AWAY:
            first = "ct mark 0 " if tunnel.note == doors.LAST else ""
            yield f'iifname "{tunnel.name}" {first}ct mark set {doors.mark(doors.number(tunnel.name)):#x}'
    yield f'iifname {{ "{DEVICE}", "{doors.AWAY}" }} {_ANY_DOOR} meta mark set ct mark'


def _hints(tunnels: Sequence[Tunnel], mtu: int) -> Iterator[str]:
    """Once in an hour a TCP connection hears that its packets are too big to go in one piece. Whoever heeds that is
    faster by far; whoever does not hear it, or not heed it, has lost one packet, and his go in two pieces from then on.
    """
    for tunnel in tunnels:
        if ":" in tunnel.local:
            continue  # nothing is cut there: each is refused that is too big
        if tunnel.name == doors.AWAY:
            coming = f'iifname "{UPLINK}" fib daddr type local'
            mark = doors.hint(0)
        else:
            number = doors.number(tunnel.name)
            coming, mark = f'iifname "{DEVICE}" meta mark {doors.mark(number):#x}', doors.hint(number)
        for name, family in (("hinted", "ip"), ("hinted6", "ip6")):
            ends = f"{family} saddr . tcp sport . {family} daddr . tcp dport"
            yield (
                f"{coming} meta length > {doors.uncut(mtu, tunnel.local)} {ends} != @{name} "
                f"add @{name} {{ {ends} }} meta mark set {mark:#x}"
            )


def _through(tunnels: Sequence[Tunnel]) -> Iterator[str]:
    """Through a tunnel goes what is to or from the guest, and nothing else. What belongs to a door that is not there
    must not leave by another way; and behind this pod's address what the guest sends would look like the tunnel's."""
    yield f"iifname {_names(tunnels)} ct state invalid drop"
    yield f'iifname "{doors.DOOR}*" ip daddr != {GUEST.ip} drop'
    yield f'iifname "{doors.DOOR}*" ip6 daddr != {GUEST6.ip} drop'
    yield f'iifname "{doors.AWAY}" ip saddr != {GUEST.ip} drop'
    yield f'iifname "{doors.AWAY}" ip6 saddr != {GUEST6.ip} drop'
    yield f'oifname "{UPLINK}" {_ANY_DOOR} drop'
    for address in _callers(tunnels):
        yield f'oifname "{UPLINK}" {_family(address)} daddr {address} udp dport {doors.PORT} drop'


def _sizes(tunnels: Sequence[Tunnel], mtu: int) -> Iterator[str]:
    for tunnel in tunnels:
        for family, inner in (("ipv4", 4), ("ipv6", 6)):
            size = doors.segment_size(mtu, tunnel.local, inner)
            syn = f"meta nfproto {family} tcp flags & (syn | rst) == syn tcp option maxseg size set {size}"
            yield f'iifname "{tunnel.name}" {syn}'
            yield f'oifname "{tunnel.name}" {syn}'


def _callers(tunnels: Sequence[Tunnel]) -> list[str]:
    return sorted({caller for tunnel in tunnels for caller in doors.callers(tunnel)})


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"
