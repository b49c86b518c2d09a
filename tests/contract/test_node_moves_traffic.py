"""What the way through a door costs, and who counts what goes there."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from berth.api.order import LimitOrder
from berth.effects.berths import NodeBerths
from tests.contract import pods
from tests.contract.lan import NICS, VM, run
from tests.contract.moving_lab import CLIENT, Town
from tests.contract.test_node_moves import echo_says, from_guest, to_guest


@pytest.fixture
def town(start_pod: Callable[..., pods.FakePod], berths: NodeBerths) -> Iterator[Town]:
    made = Town()
    made.up()
    for _ in range(3):
        made.stop_at(start_pod(), berths)
    yield made
    made.down()


def test_throughput_through_a_door(town: Town) -> None:
    """Told, not judged: the machine that runs this may be busy. The guest's end is a veth, as fast as pods' are."""
    a, b, _ = town.stops
    town.start(a)
    old = [to_guest(town, a.ip) for _ in range(4)]
    town.move(a, b)
    town.in_guest_by_veth(b)
    results = {}
    for name, ip in (("direct", b.ip), ("door", a.ip), ("direct, IPv6", b.ip6), ("door, IPv6", a.ip6)):
        client, guest = to_guest(town, ip)
        results[f"{name}, to the guest"] = rate(client, guest)
        client, guest = to_guest(town, ip)
        results[f"{name}, from the guest"] = rate(guest, client)
    for stop in (a, b):  # nobody hears that its packets are too big
        run(stop.netns, "nft insert rule inet berth_doors hints accept")
    results["door, a connection from before, cut in two, to the guest"] = rate(*old[0])
    results["door, a connection from before, cut in two, from the guest"] = rate(*old[1][::-1])
    b.attach()
    a.network.prepare_departure("", a.berth, a.forward(b, town.stops))
    results["door, a connection from before, to the guest"] = rate(*old[2])
    results["door, a connection from before, from the guest"] = rate(*old[3][::-1])
    print("\n" + "\n".join(f"  {name}: {value:.0f} Mbit/s" for name, value in results.items()))
    assert min(results.values()) > 1


def test_what_the_guest_sends_is_counted_once(town: Town) -> None:
    """At 4 Mbit/s: a second of it through the door takes no longer than without, and what comes in is not limited."""
    a, b, _ = town.stops
    limit = LimitOrder(bits_per_second=4_000_000, burst_bytes=20_000)
    for stop in town.stops:
        stop.nics = (NICS[0].model_copy(update={"outbound": limit}),)
    town.start(a)
    old, other = to_guest(town, a.ip), to_guest(town, a.ip)
    before = run(a.netns, "tc qdisc show dev eth0")
    town.move(a, b)
    assert "tbf" not in run(a.netns, "tc qdisc show dev eth0")
    assert "tbf" in run(b.netns, "tc qdisc show dev eth0")
    out, inward = rate(*old[::-1], seconds=2), rate(*other, seconds=1)
    print(f"\n  limited to 4 Mbit/s: {out:.1f} from the guest, {inward:.0f} to it")
    assert 2 < out < 5
    assert inward > 8
    a.network.stay("", a.berth, a.nics)
    assert run(a.netns, "tc qdisc show dev eth0") == before


class Killed(Exception):
    pass


def test_killed_at_every_change_and_done_again(town: Town) -> None:
    """Whatever was the last that an agent did: the next one comes to the same end."""
    a, b, _ = town.stops
    town.start(a)
    b.doors = (a.door(),)
    town._plug(b)
    client, guest = to_guest(town, a.ip)
    steps = {
        "attach": lambda: b.network.attach(VM, b.berth, b.nics, "web", doors=b.doors, silent=True),
        "prepare": lambda: a.network.prepare_departure("x", a.berth, a.forward(b)),
        "depart": lambda: a.depart(b),
        "stay": lambda: a.network.stay("x", a.berth, a.nics),
        "depart again": lambda: a.depart(b),
        "close": lambda: b.network.attach(VM, b.berth, b.nics, "web"),
    }
    killed = 0
    for step in steps.values():
        for after in range(1, 40):
            left = [after]

            def on_change(vm: str, change: object, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed

            for stop in (a, b):
                stop.restart_agent()
                stop.network.on_change = on_change
            try:
                step()
            except Killed:
                killed += 1
                continue
            break
        for stop in (a, b):
            stop.restart_agent()
        step()
    assert killed > 10
    assert "door" not in run(b.netns, "ip link; ip rule; nft list tables")
    a.network.stay("x", a.berth, a.nics)
    assert "away" not in run(a.netns, "ip link")
    assert "berth_doors" not in run(a.netns, "nft list tables")
    assert a.attach() == []
    echo_says(client, b"on", guest)
    assert from_guest(town, CLIENT)


@pytest.mark.parametrize("versions", [(4,), (6,)])
def test_pods_of_one_family(
    start_pod: Callable[..., pods.FakePod], berths: NodeBerths, versions: tuple[int, ...]
) -> None:
    """Between pods that have IPv6 only, big packets are refused with a word, and it goes on with smaller ones."""
    town = Town()
    town.up()
    for _ in range(2):
        town.stop_at(start_pod(), berths, ipv4=4 in versions, ipv6=6 in versions)
    a, b = town.stops
    try:
        town.start(a)
        ip = a.ip if 4 in versions else a.ip6
        client, guest = to_guest(town, ip)
        town.move(a, b)
        for first, last in ((client, guest), (guest, client)):
            echo_says(first, b"small", last)
            first.sendall(bytes(200_000))
            last.settimeout(5)
            total = 0
            while total < 200_000:
                total += len(last.recv(65536))
        assert b.attach() == []
    finally:
        town.down()


def rate(first: socket.socket, last: socket.socket, seconds: float = 1.0) -> float:
    done, chunk = threading.Event(), bytes(1 << 16)
    first.settimeout(2)

    def send() -> None:
        try:
            while not done.is_set():
                first.send(chunk)
        except OSError:
            return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    last.settimeout(2)
    end, total, start = time.monotonic() + seconds, 0, time.monotonic()
    while time.monotonic() < end:
        total += len(last.recv(1 << 18))
    spent = time.monotonic() - start
    done.set()
    last.close()
    thread.join()
    first.close()
    return total * 8 / spent / 1e6
