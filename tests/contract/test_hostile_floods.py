"""A guest that never stops: it is answered a little, and another guest of the same agent as ever."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from berth.effects import frames
from berth.effects.berths import NodeBerths
from tests.contract import hostile, pods
from tests.contract import lan as lans
from tests.contract.hostile import (
    EVERYBODY,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    LINK_LOCAL,
    MAC,
    ROUTER6,
    Stage,
    arp,
    ethernet,
    icmp6,
    ip4,
    multicast6,
    udp,
    udp6,
)

DISCOVER = ethernet(
    0x0800,
    ip4(
        "255.255.255.255",
        udp(
            struct.pack("!BBBBIHH16s16s192s", 1, 1, 6, 0, 7, 0, 0, b"", MAC, b"") + b"\x63\x82\x53\x63\x35\1\1\xff",
            (68, 67),
        ),
        "0.0.0.0",
    ),
    to=EVERYBODY,
)
_SOLICIT = udp6(LINK_LOCAL, "ff02::1:2", b"\x01xid\0\1\0\4duid\0\3\0\x0c" + bytes(12), (546, 547))
SOLICIT = multicast6("ff02::1:2", _SOLICIT, LINK_LOCAL, 17, 64)
ROUTER_SOLICITATION = multicast6("ff02::2", icmp6(LINK_LOCAL, "ff02::2", b"\x85" + bytes(7)), LINK_LOCAL)
NEIGHBOUR_SOLICITATION = multicast6(
    "ff02::1:ff00:1", icmp6(LINK_LOCAL, "ff02::1:ff00:1", hostile.solicitation(ROUTER6, MAC)), LINK_LOCAL
)
PING = ethernet(
    0x0800, ip4(GATEWAY, b"\x08\x00" + frames.checksum(b"\x08\0\0\0ping").to_bytes(2, "big") + b"ping", protocol=1)
)
WHO_HAS = arp(1, (MAC, GUEST), (bytes(6), GATEWAY))
OTHER_VM = "0f5ffeef-0000-4c00-8437-8da47dfe23fa"


@contextmanager
def flood(stage: Stage, *sent: bytes) -> Iterator[list[int]]:
    """From another thread, as fast as it goes; how many there were."""
    stop, count = threading.Event(), [0]

    def work() -> None:
        while not stop.is_set():
            for frame in sent:
                with contextlib.suppress(BlockingIOError):
                    os.write(stage.bench.lan.wire, frame)
            count[0] += len(sent)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()


Kind = tuple[int, bytes]
"""What a frame has at some place."""
OFFERS: Kind = (34, b"\0\x43\0\x44")
ADVERTISEMENTS: Kind = (54, b"\x02\x23\x02\x22")
ROUTERS: Kind = (54, b"\x86\0")
NEIGHBOURS: Kind = (54, b"\x88\0")
MACS: Kind = (12, b"\x08\x06\0\1\x08\0\6\4\0\2")
PONGS: Kind = (38, b"ping")


def is_answer(frame: bytes, kind: Kind) -> bool:
    at, value = kind
    return frame[6:12] == GATEWAY_MAC and frame[at : at + len(value)] == value


def count_answers(line: socket.socket, kind: Kind, seconds: float) -> int:
    """The frames of that kind from the berth that arrive in that time."""
    deadline, found = time.monotonic() + seconds, 0
    while (left := deadline - time.monotonic()) > 0:
        line.settimeout(left)
        with contextlib.suppress(TimeoutError):
            found += is_answer(line.recv(2000), kind)
    return found


@pytest.mark.parametrize(
    ("sent", "kind", "burst", "rate"),
    [
        (DISCOVER, OFFERS, 40, 20),
        (SOLICIT, ADVERTISEMENTS, 40, 20),
        (ROUTER_SOLICITATION, ROUTERS, 20, 10),
        (NEIGHBOUR_SOLICITATION, NEIGHBOURS, 100, 50),
        (WHO_HAS, MACS, 100, 50),
        (PING, PONGS, 40, 20),
    ],
    ids=["dhcp", "dhcpv6", "router", "neighbour", "arp", "ping"],
)
def test_a_flood_is_answered_a_little(stage: Stage, sent: bytes, kind: Kind, burst: int, rate: int) -> None:
    start = time.monotonic()
    with stage.bench.lan.in_guest(lambda: lans.raw_socket("enp0")) as line, flood(stage, sent) as count:
        answers = count_answers(line, kind, 1.0)
        most = burst + rate * (time.monotonic() - start + 0.5)
    assert count[0] > 1000
    assert 1 <= answers <= most
    stage.works()


@pytest.mark.parametrize(
    "sent", [DISCOVER, SOLICIT, ROUTER_SOLICITATION, WHO_HAS], ids=["dhcp", "dhcpv6", "router", "arp"]
)
def test_another_guest_still_gets_its_lease(
    stage: Stage, start_pod: Callable[..., pods.FakePod], berths: NodeBerths, sent: bytes
) -> None:
    """The same thread answers both; the rules at the tap are taken away first: the thread alone has to cope."""
    other = hostile.find(start_pod, berths)
    other.network = stage.bench.network
    other.lan.up()
    other.lan.up6()
    other.lan.plug(other.network.create_taps(OTHER_VM, 0, other.nics)["default"])
    other.network.attach(OTHER_VM, other.berth, other.nics, "other")
    lans.run(stage.bench.lan.netns, "nft delete table netdev berth")
    try:
        with other.lan.in_guest(lambda: lans.raw_socket("enp0")) as line, flood(stage, sent) as count:
            pods.until(lambda: count[0] > 5000, what="the flood")
            for request, kind in ((DISCOVER, OFFERS), (SOLICIT, ADVERTISEMENTS)):
                os.write(other.lan.wire, request)
                while not is_answer(line.recv(2000), kind):
                    pass  # and not for longer than the socket waits
    finally:
        other.network.detach(OTHER_VM)
        other.lan.down()


def test_a_thread_under_a_flood_rests(stage: Stage) -> None:
    """Twenty packets a second of one guest's, not as many as it sends."""
    lans.run(stage.bench.lan.netns, "nft delete table netdev berth")
    thread = stage.bench.network.dhcp._thread
    assert thread is not None
    before = cpu_seconds(thread.native_id or 0)
    with flood(stage, DISCOVER, SOLICIT) as count:
        time.sleep(2)
    assert count[0] > 1000
    assert cpu_seconds(thread.native_id or 0) - before < 0.2


def cpu_seconds(task: int) -> float:
    """Of one thread, in user and kernel mode."""
    with open(f"/proc/self/task/{task}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
