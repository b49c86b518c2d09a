"""Limits on a real device: `tc` sees them, packets obey them, and what is right is left alone."""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Iterator

import pytest

from berth.api.order import LimitOrder
from berth.effects import namespaces, shaping
from berth.errors import HostFault
from tests.contract import lan as lans

LIMIT = LimitOrder(bits_per_second=8_000_000, burst_bytes=20_000)


@pytest.fixture
def netns() -> Iterator[int]:
    """a0 -- b0, a0 with an address and a neighbour that is not there."""
    fd = lans.new_namespace()
    lans.run(fd, "ip link add a0 type veth peer name b0; ip link set a0 up; ip link set b0 up")
    lans.run(fd, "ip addr add 10.9.0.1/24 dev a0; ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev a0")
    yield fd
    os.close(fd)


def shape(netns: int, limit: LimitOrder | None) -> bool:
    return namespaces.in_network(netns, lambda: shaping.shape("a0", limit))


def qdisc(netns: int) -> str:
    return lans.run(netns, "tc qdisc show dev a0")


def test_a_limit_comes_changes_and_goes(netns: int) -> None:
    before = qdisc(netns)
    assert shape(netns, LIMIT)
    assert "tbf" in qdisc(netns)
    assert "rate 8Mbit burst 20000b" in qdisc(netns)
    assert not shape(netns, LIMIT)
    assert shape(netns, LimitOrder(bits_per_second=8_000_000, burst_bytes=20_001))
    assert shape(netns, LimitOrder(bits_per_second=50_000_000_000, burst_bytes=1_000_000))
    assert "rate 50Gbit" in qdisc(netns)
    assert not shape(netns, LimitOrder(bits_per_second=50_000_000_000, burst_bytes=1_000_000))
    assert shape(netns, None)
    assert qdisc(netns) == before
    assert not shape(netns, None)


def test_what_others_put_there_stays_until_a_limit_is_ordered(netns: int) -> None:
    lans.run(netns, "tc qdisc add dev a0 root tbf rate 1mbit burst 10000 limit 10000")
    before = qdisc(netns)
    assert not shape(netns, None)
    assert qdisc(netns) == before
    assert shape(netns, LIMIT)
    assert "rate 8Mbit" in qdisc(netns)


def test_packets_obey(netns: int) -> None:
    """300 kB at 1 MB/s, 20 kB of them at once: a quarter of a second at least, whatever else the machine does."""
    shape(netns, LIMIT)

    def send() -> float:
        with lans.raw_socket("b0") as line, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            start, got = time.monotonic(), 0
            while got < 300_000:
                out.sendto(bytes(1000), ("10.9.0.2", 9))
                line.settimeout(0.002)
                with_frame = functools.partial(line.recv, 2000)
                try:
                    got += len(with_frame())
                except TimeoutError:
                    continue
            return time.monotonic() - start

    took = namespaces.in_network(netns, send)
    assert 0.25 < took < 3


def test_no_device_is_named(netns: int) -> None:
    with pytest.raises(HostFault, match="zz is not there"):
        namespaces.in_network(netns, lambda: shaping.shape("zz", LIMIT))
