"""Who can put packets into the tunnel between a machine's berths, and what it carries."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from berth.effects import doors
from berth.effects.berths import NodeBerths
from tests.contract import pods
from tests.contract.lan import raw_socket
from tests.contract.moving_lab import CLIENT, Stop, Town
from tests.contract.test_node_moves import echo_says, from_guest, to_guest


@pytest.fixture
def moved(start_pod: Callable[..., pods.FakePod], berths: NodeBerths) -> Iterator[Town]:
    """From the first pod to the second; the third is a stranger's."""
    town = Town()
    town.up()
    for _ in range(3):
        town.stop_at(start_pod(), berths)
    town.start(town.stops[0])
    town.move(town.stops[0], town.stops[1])
    yield town
    town.down()


def ip_packet(source: str, target: str, payload: bytes, protocol: int = 17) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(target))  # fmt: skip
    total = sum(struct.unpack("!10H", head))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + payload


def in_tunnel(stop: Stop, inner: bytes, *, towards_door: bool) -> bytes:
    """As the tunnel of this door would carry it."""
    macs = ("02:00:0a:00:02:11", "02:00:0a:00:02:12")
    to, by = macs if towards_door else macs[::-1]
    frame = bytes.fromhex((to + by).replace(":", "")) + b"\x08\x00" + inner
    return struct.pack("!BxxxI", 8, doors.vni(stop.door()) << 8) + frame


def datagram(port: int, data: bytes) -> bytes:
    return struct.pack("!HHHH", 4000, port, 8 + len(data), 0) + data


def listener(port: int) -> socket.socket:
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.bind(("", port))
    line.settimeout(0.5)
    return line


def test_a_stranger_s_packet_goes_to_the_guest_like_any_other(moved: Town) -> None:
    a, b, _ = moved.stops
    forged = in_tunnel(a, ip_packet(CLIENT, "10.0.2.2", datagram(9000, b"forged")), towards_door=False)
    with moved.in_guest(lambda: listener(9000)) as inner, moved.in_guest(lambda: listener(doors.PORT)) as outer:
        with moved.in_client(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
            for ip in (a.ip, b.ip):
                line.sendto(forged, (ip, doors.PORT))
                assert outer.recvfrom(2000)[0] == forged  # it is the guest's port as well as any
        with pytest.raises(TimeoutError):
            inner.recv(100)


def test_the_guest_cannot_speak_through_the_door_by_itself(moved: Town) -> None:
    """Behind its pod's address its packets would look like the tunnel's."""
    a, b, _ = moved.stops
    forged = in_tunnel(a, ip_packet("10.0.2.2", CLIENT, datagram(9000, b"forged")), towards_door=True)
    with moved.in_client(lambda: listener(9000)) as client:
        with moved.in_guest(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
            for ip in (a.ip, b.ip, "10.0.2.1"):
                line.sendto(forged, (ip, doors.PORT))
        with pytest.raises(TimeoutError):
            client.recv(100)
        berth = socket.socket  # the same bytes from the berth itself do get there: it is the rules that hold them back
        with _in(b, lambda: berth(socket.AF_INET, socket.SOCK_DGRAM)) as line:
            line.sendto(forged, (a.ip, doors.PORT))
        data, peer = client.recvfrom(100)
        assert (data, peer[0]) == (b"forged", a.ip)


def _in(stop: Stop, work: Callable[[], socket.socket]) -> socket.socket:
    from berth.effects import namespaces

    return namespaces.in_network(stop.netns, work)


def test_what_comes_through_a_tunnel_reaches_the_guest_and_nothing_else(moved: Town) -> None:
    a, b, c = moved.stops
    for target in (b.ip, "10.0.2.1", "10.77.3.5", "127.0.0.1"):
        forged = in_tunnel(a, ip_packet(CLIENT, target, datagram(9000, b"forged")), towards_door=False)
        with _in(b, lambda: listener(9000)) as berth, _in(c, lambda: listener(9000)) as other:
            with _in(a, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
                line.sendto(forged, (b.ip, doors.PORT))
            for line in (berth, other):
                line.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    line.recv(100)


def test_only_the_guest_s_addresses_come_back(moved: Town) -> None:
    a, b, _ = moved.stops
    with moved.in_client(lambda: listener(9000)) as client:
        for source in (a.ip, b.ip, CLIENT, "10.0.2.77", "8.8.8.8"):
            forged = in_tunnel(a, ip_packet(source, CLIENT, datagram(9000, b"forged")), towards_door=True)
            with _in(b, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
                line.sendto(forged, (a.ip, doors.PORT))
            with pytest.raises(TimeoutError):
                client.recv(100)


def test_the_guest_s_own_bounds_stay(moved: Town) -> None:
    """Behind the door it can claim nobody's address, on old connections or new ones."""
    client, guest = to_guest(moved, moved.stops[0].ip)
    mac = bytes.fromhex("52:54:00:12:34:56".replace(":", ""))
    with moved.in_client(lambda: listener(9000)) as line:
        with moved.in_guest(lambda: raw_socket("enp0")) as wire:
            for source in ("10.0.2.77", moved.stops[0].ip, moved.stops[1].ip):
                packet = ip_packet(source, CLIENT, datagram(9000, b"spoof"))
                wire.send(bytes.fromhex("02000a000201") + mac + b"\x08\x00" + packet)
        with pytest.raises(TimeoutError):
            line.recv(100)
    echo_says(client, b"on", guest)


def test_big_packets_pass_and_new_connections_need_no_cutting(moved: Town) -> None:
    """What was agreed on before the move fills a whole packet of the pods' network; the tunnel's header is on top."""
    a, b, _ = moved.stops
    client, guest = to_guest(moved, a.ip)
    sizes = [end.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for end in (client, guest)]
    assert max(sizes) <= 1500 - 50 - 40
    other, out = to_guest(moved, b.ip), from_guest(moved, CLIENT)
    assert other[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 1410
    with moved.in_client(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as line:
        line.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: never in pieces
        with moved.in_guest(lambda: listener(9100)) as inner:
            for size in (1422, 1423, 1472):
                line.sendto(bytes(size), (a.ip, 9100))
                data, peer = inner.recvfrom(2000)
                assert len(data) == size
                inner.sendto(data, peer)
                line.settimeout(2)
                assert len(line.recv(2000)) == size
    assert out
