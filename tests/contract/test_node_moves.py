"""Connections of a guest that moves from pod to pod, on a real kernel."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from berth.effects import namespaces
from berth.effects.berths import NodeBerths
from tests.contract import pods
from tests.contract.lan import run
from tests.contract.moving_lab import CLIENT, CLIENT6, Step, Town, killed_between, once
from tests.contract.streams import Stream


@pytest.fixture
def town(start_pod: Callable[..., pods.FakePod], berths: NodeBerths) -> Iterator[Town]:
    made = Town()
    made.up()
    for _ in range(3):
        made.stop_at(start_pod(), berths)
    yield made
    made.down()


def to_guest(town: Town, ip: str, port: int = 8080, where: int | None = None) -> tuple[socket.socket, socket.socket]:
    """A connection to one of the guest's pod addresses: the client's end and the guest's."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    any_address = "::" if ":" in ip else "0.0.0.0"
    server = town.in_guest(lambda: socket.create_server((any_address, port), family=family, reuse_port=True))
    with server:
        client = namespaces.in_network(where or town.client, lambda: socket.create_connection((ip, port), timeout=3))
        return client, server.accept()[0]


def from_guest(town: Town, ip: str, port: int = 8081) -> tuple[socket.socket, socket.socket]:
    """One that the guest makes."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with town.in_client(lambda: socket.create_server((ip, port), family=family, reuse_port=True)) as server:
        guest = town.in_guest(lambda: socket.create_connection((ip, port), timeout=3))
        return guest, server.accept()[0]


def datagrams(town: Town, ip: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Of a client with the guest, through one of its pod addresses."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    guest = town.in_guest(lambda: socket.socket(family, socket.SOCK_DGRAM))
    client = town.in_client(lambda: socket.socket(family, socket.SOCK_DGRAM))
    guest.bind(("", port))
    client.connect((ip, port))
    client.send(b"hello")
    guest.settimeout(3)
    guest.connect(guest.recvfrom(100)[1])
    return client, guest


def datagrams_out(town: Town, ip: str, port: int) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    guest = town.in_guest(lambda: socket.socket(family, socket.SOCK_DGRAM))
    client = town.in_client(lambda: socket.socket(family, socket.SOCK_DGRAM))
    client.bind((ip, port))
    guest.connect((ip, port))
    guest.send(b"hello")
    client.settimeout(3)
    client.connect(client.recvfrom(100)[1])
    return guest, client


def dropped(netns: int) -> int:
    """What a tap had no room for."""
    return int(json.loads(run(netns, "ip -s -j link show vm0"))[0]["stats64"]["tx"]["dropped"])


def echo_says(line: socket.socket, word: bytes, back: socket.socket) -> None:
    line.sendall(word)
    back.settimeout(5)
    assert back.recv(100) == word


@pytest.mark.parametrize("step", [once, killed_between])
@pytest.mark.parametrize("back", [False, True])
def test_every_byte_of_every_stream_arrives(town: Town, step: Step, back: bool) -> None:
    """A→B→C, and A→B→A: a pod of its own on the node of the first, whose agent is the same."""
    a, b, c = town.stops
    if back:
        c.network = a.network
    town.start(a)
    lines = {
        "in": Stream(to_guest(town, a.ip)),
        "in, IPv6": Stream(to_guest(town, a.ip6)),
        "in, big": Stream(to_guest(town, a.ip), size=20000, pause=0.02),
        "from the node": Stream(to_guest(town, a.ip, where=town.router)),
        "out": Stream(from_guest(town, CLIENT)),
        "out, IPv6": Stream(from_guest(town, CLIENT6)),
    }
    udp = {
        "in": Stream(datagrams(town, a.ip, 5000)),
        "in, IPv6": Stream(datagrams(town, a.ip6, 5001)),
        "out": Stream(datagrams_out(town, CLIENT, 5002)),
    }
    quiet = [
        to_guest(town, a.ip, 8090),
        to_guest(town, a.ip6, 8091),
        from_guest(town, CLIENT),
        from_guest(town, CLIENT6),
    ]
    for stream in (*lines.values(), *udp.values()):
        stream.start()
    time.sleep(0.3)
    pauses = [town.move(a, b, step)]
    lines["second, in"] = Stream(to_guest(town, b.ip)).start()
    lines["second, out"] = Stream(from_guest(town, CLIENT)).start()
    lines["by the old door"] = Stream(to_guest(town, a.ip6)).start()
    time.sleep(0.3)
    pauses.append(town.move(b, c, step))
    time.sleep(0.5)
    for at, (one, other) in enumerate(quiet):
        first, last = (other, one) if at % 2 else (one, other)
        echo_says(first, b"still here", last)
        echo_says(last, b"so am I", first)
    for name, stream in lines.items():
        for way in stream.finish():
            assert (way.broken, way.lost, way.doubled) == ("", 0, 0), name
            assert way.numbers == sorted(way.numbers), name
    lost = 0
    for name, stream in udp.items():
        for way, sent in zip(stream.finish(2), stream.sent[::-1], strict=True):
            assert way.doubled == 0, name
            lost += sent - len(way.numbers)
    full = sum(dropped(stop.netns) for stop in town.stops)
    assert (
        lost <= town.unread + full
    )  # what the source's QEMU had been given already, and what the target's had no room for
    largest = {name: max(way.gap for way in stream.ways) for name, stream in lines.items()}
    print(f"\n{step.__name__}: guest stood still {[f'{p * 1000:.0f} ms' for p in pauses]}, largest gap of a TCP stream")
    print("  " + ", ".join(f"{name} {gap * 1000:.0f} ms" for name, gap in largest.items()))
    datagrams_sent = sum(sum(stream.sent) for stream in udp.values())
    print(f"  UDP: {datagrams_sent} datagrams, {lost} lost; {town.unread} frames unread, {full} too many")


def test_the_guest_speaks_first(town: Town) -> None:
    """Nothing came through the door before: only what the source told says where it goes."""
    a, b, _ = town.stops
    town.start(a)
    lines = [to_guest(town, ip) for ip in (a.ip, a.ip6)] + [from_guest(town, ip)[::-1] for ip in (CLIENT, CLIENT6)]
    udp = [datagrams(town, ip, port) for ip, port in ((a.ip, 5000), (a.ip6, 5001))]
    town.move(a, b)
    for client, guest in [*lines, *udp]:
        echo_says(guest, b"first", client)
        echo_says(client, b"then", guest)


def test_a_failed_migration_leaves_no_trace(town: Town) -> None:
    a, b, _ = town.stops
    town.start(a)
    client, guest = to_guest(town, a.ip)
    before = [state(stop.netns) for stop in (a, b)]
    for _ in range(3):
        town.expect(a, b, once)
        town.pause()
        a.depart(b)
        a.restart_agent()
        a.network.stay("", a.berth, a.nics)
        a.network.stay("", a.berth, a.nics)
        town.resume_here()
        assert a.attach() == []
        echo_says(client, b"on", guest)
        echo_says(guest, b"and on", client)
        b.doors = ()
        b.attach()
        run(b.netns, "ip link del vm0")
    assert state(a.netns) == before[0]


def state(netns: int) -> str:
    """What may leak: devices, rules, routes, neighbours for ever, tables."""
    look = "ip -br link | sed 's/@.*//' | cut -d' ' -f1; ip rule; ip -6 rule; ip route show table all; "
    look += "ip -6 route show table all | sed 's/expires [^ ]*//'; ip neigh show nud permanent; nft list tables"
    return "\n".join(line.replace(" linkdown", "").rstrip() for line in run(netns, look).splitlines())


@pytest.mark.timeout(300)  # a kernel takes its time to give so much back on a busy machine
def test_twenty_moves_leave_nothing_behind(town: Town) -> None:
    """There and back: the source departs, the target takes over, its door is closed, the source stays after all."""
    a, b, _ = town.stops
    town.start(a)
    b.network.create_taps("x", 0, ())
    seen = []
    for _ in range(21):
        b.doors = (a.door(),)
        town._plug(b)
        b.attach(silent=True)
        flows = a.depart(b)
        b.network.arrive("", b.berth, flows)
        b.doors = ()
        b.attach()
        a.network.stay("", a.berth, a.nics)
        run(b.netns, "ip link del vm0")
        seen.append((state(a.netns), state(b.netns)))
    assert seen[-1] == seen[0]
    assert "door" not in seen[0][1]


def test_the_second_time_changes_nothing(town: Town) -> None:
    a, b, _ = town.stops
    town.start(a)
    client, guest = to_guest(town, a.ip)
    town.move(a, b)
    assert b.attach() == []
    before = state(a.netns), state(b.netns)
    a.changes.clear()
    first = a.depart(b, town.stops)
    assert a.changes == []
    assert {(f.protocol, f.guest_port, f.peer, f.peer_port, f.door) for f in first} >= {
        (6, 8080, CLIENT, client.getsockname()[1], 1)
    }
    assert a.attach() == []  # a berth that was left is left alone
    b.network.arrive("", b.berth, first)
    assert (state(a.netns), state(b.netns)) == before
    echo_says(client, b"on", guest)


def test_a_door_that_closes_takes_its_own_connections(town: Town) -> None:
    a, b, c = town.stops
    town.start(a)
    by_a = to_guest(town, a.ip)
    town.move(a, b)
    by_b = to_guest(town, b.ip)
    assert (a.network.connections("", a.berth), b.network.connections("", b.berth)) == (1, 1)
    town.move(b, c)
    by_c = to_guest(town, c.ip)
    for line in (by_a, by_b, by_c):
        echo_says(line[0], b"here", line[1])
    c.doors = c.doors[1:]
    c.attach()
    assert c.attach() == []
    for line in (by_b, by_c):
        echo_says(line[1], b"here", line[0])
    by_a[1].send(b"lost")
    by_a[0].settimeout(0.5)
    with pytest.raises(TimeoutError):
        by_a[0].recv(10)
    number = b.door().model_copy(update={"number": 1, "pod_uid": "another"})  # the first one's number, given again
    c.doors = (*c.doors, number)
    c.attach()
    with pytest.raises(TimeoutError):
        by_a[0].recv(10)
    for line in (by_b, by_c):
        echo_says(line[0], b"here", line[1])
    for end in by_b:
        end.close()
    pods.until(lambda: b.network.connections("", b.berth) == 0, what="the end of the last connection")


def test_until_an_earlier_door_hears_of_it_the_last_one_passes_on(town: Town) -> None:
    """And what began meanwhile does not hang on that one for ever."""
    a, b, c = town.stops
    town.start(a)
    old = to_guest(town, a.ip)
    town.move(a, b)
    b.network.prepare_departure("", b.berth, b.forward(c))
    a.network.depart("", a.berth, a.nics, a.forward(b, town.stops))  # a hears which pods there will be
    town.move(b, c, lead_on=False)
    young = to_guest(town, a.ip6)
    for client, guest in (old, young):
        echo_says(guest, b"from the guest", client)
        echo_says(client, b"to the guest", guest)
    a.network.depart("", a.berth, a.nics, a.forward(c, town.stops))
    for client, guest in (old, young):
        echo_says(client, b"straight", guest)
    c.doors = (c.doors[0],)  # the one that passed on is gone
    c.attach()
    for client, guest in (old, young):
        echo_says(guest, b"and back", client)


class Echo:
    """Echo requests of one identifier, numbered, and which of them were answered."""

    def __init__(self, ip: str) -> None:
        self.ip, self.answered, self.sent = ip, set[int](), 0
        v6 = ":" in ip
        self.types = (128, 129) if v6 else (8, 0)
        family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
        self.line = socket.socket(family, socket.SOCK_RAW, protocol)
        self.line.settimeout(0.05)

    def run(self, times: int) -> None:
        for self.sent in range(1, times + 1):
            body = struct.pack("!BBHHH", self.types[0], 0, 0, 77, self.sent)
            total = sum(struct.unpack("!4H", body))
            self.line.sendto(body[:2] + struct.pack("!H", ~((total >> 16) + total) & 0xFFFF) + body[4:], (self.ip, 0))
            self.hear(0.02)
        self.hear(1)

    def hear(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                data = self.line.recv(200)[0 if ":" in self.ip else 20 :]
                kind, _, _, identifier, number = struct.unpack_from("!BBHHH", data)
                if (kind, identifier) == (self.types[1], 77):
                    self.answered.add(number)


def test_echoes_go_on(town: Town) -> None:
    """Both ways and in both families."""
    a, b, _ = town.stops
    town.start(a)
    echoes = [town.in_client(functools.partial(Echo, ip)) for ip in (a.ip, a.ip6)]
    echoes += [town.in_guest(functools.partial(Echo, ip)) for ip in (CLIENT, CLIENT6)]
    threads = [threading.Thread(target=echo.run, args=(100,), daemon=True) for echo in echoes]
    for thread in threads:
        thread.start()
    pods.until(lambda: all(len(echo.answered) > 5 for echo in echoes), what="the first answers")
    before = [len(echo.answered) for echo in echoes]
    town.move(a, b)
    for thread in threads:
        thread.join()
    print(f"\necho: answered before the move {before}, in all {[len(echo.answered) for echo in echoes]} of 100 each")
    assert all(max(echo.answered) == 100 for echo in echoes)
    assert 400 - sum(len(echo.answered) for echo in echoes) <= town.unread
