"""A guest that sends frames no stack makes: cut off, contradictory, tagged, too large, chained, overlapping."""

from __future__ import annotations

import random
import socket
import struct

import pytest

from tests.contract import hostile
from tests.contract import lan as lans
from tests.contract.hostile import (
    EVERYBODY,
    GATEWAY,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST,
    GUEST6,
    MAC,
    ROUTER6,
    Stage,
    ethernet,
    ip4,
    ip6,
    udp,
    udp6,
)
from tests.contract.lan import NODE_IP, NODE_IP6, POD_IP, POD_IP6

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60


def test_frames_that_are_cut_off_or_lie_about_themselves(stage: Stage) -> None:
    good, good6 = hostile.to_node(b"x" * 20), hostile.to_node6(b"x" * 20)
    lies = [
        good[:at] + value + good[at + len(value) :]
        for at, value in (
            (14, b"\x65"), (14, b"\x40"), (14, b"\x44"), (14, b"\x4f"), (14, b"\x00"),  # version and header length
            (16, b"\xff\xff"), (16, b"\x00\x00"), (16, b"\x00\x13"), (16, b"\x00\x14"),  # total length
            (24, b"\xde\xad"),  # checksum
            (38, b"\xff\xff"), (38, b"\x00\x03"),  # UDP's length
        )
    ]  # fmt: skip
    lies += [
        good6[:at] + value + good6[at + len(value) :]
        for at, value in ((14, b"\x45"), (14, b"\x00"), (18, b"\xff\xff"), (20, b"\x3b"), (21, b"\x00"))
    ]
    cut = [frame[:size] for frame in (good, good6) for size in range(14, len(frame), 3)]
    heard = stage.play(*cut, *lies)
    for frame in heard:  # what a pod could send as well may pass, in good order and under the pod's name
        assert frame[26:30] == socket.inet_aton(POD_IP) or frame[22:38] == socket.inet_pton(socket.AF_INET6, POD_IP6)
        assert frame[14] >> 4 == (4 if frame[12:14] == b"\x08\x00" else 6)
        assert hostile.frames.checksum(frame[14:34]) == 0 or frame[14] >> 4 == 6
    assert not [frame for frame in heard if frame[12:14] == b"\x08\x00" and frame[14] != 0x45]
    stage.works()


def test_noise(stage: Stage) -> None:
    noise = random.Random(4)
    kinds = (b"\x08\x00", b"\x86\xdd", b"\x08\x06", b"\x81\x00", b"\x88\xa8", b"\x00\x26")
    sent = [
        noise.choice((GATEWAY_MAC, EVERYBODY, noise.randbytes(6)))
        + MAC
        + noise.choice(kinds)
        + noise.choice((b"", b"\x45\x00", b"\x60\x00\x00\x00", ip4(GATEWAY, b"")[:19], ip6(ROUTER6, b"", GUEST6)[:39]))
        + noise.randbytes(noise.randrange(200))
        for _ in range(3000)
    ]
    assert stage.play(*sent) == []
    stage.works()


def test_tags_and_other_protocols_lead_nowhere(stage: Stage) -> None:
    known = lans.run(stage.bench.lan.netns, "ip neigh show dev eth0; ip -o link show")
    inner, inner6 = hostile.to_node(b"tagged")[12:], hostile.to_node6(b"tagged")[12:]
    tags = [
        struct.pack("!HH", kind, number)
        for kind in (0x8100, 0x88A8, 0x9100)
        for number in (0, 1, 5, 0xE005, 4094, 4095)
    ]
    double = [outer + inner_tag for outer in tags for inner_tag in tags]
    discover = ethernet(0x0800, ip4("255.255.255.255", udp(bytes(300), (68, 67)), "0.0.0.0"), to=EVERYBODY)[12:]
    heard = stage.play(
        *(
            to + MAC + tag + what
            for to in (GATEWAY_MAC, EVERYBODY)
            for tag in (*tags, *double)
            for what in (inner, inner6)
        ),
        *(EVERYBODY + MAC + tag + discover for tag in tags),
        *(
            ethernet(kind, inner[2:], to=to)
            for to in (GATEWAY_MAC, EVERYBODY, bytes.fromhex("0180c2000000"), bytes.fromhex("01000ccccccd"))
            # Wake-on-LAN, Cisco's, RARP, IPX, MPLS, PPPoE, EAPOL, AoE, LLDP, MACsec, FCoE, loop, 802.3 with its LLC
            for kind in (
                0x0842,
                0x2000,
                0x8035,
                0x8137,
                0x8847,
                0x8863,
                0x888E,
                0x88A2,
                0x88CC,
                0x88E5,
                0x8906,
                0x9000,
                38,
            )
        ),
        bytes.fromhex("0180c2000000") + MAC + b"\x00\x26\x42\x42\x03" + bytes(35),  # a bridge's spanning tree
    )
    assert heard == []
    assert lans.run(stage.bench.lan.netns, "ip neigh show dev eth0; ip -o link show") == known
    stage.works()


def test_source_routes_are_not_followed(stage: Stage) -> None:
    hops = socket.inet_aton(NODE_IP)
    routes = [bytes([kind, 7, 4]) + hops + b"\0" for kind in (0x83, 0x89)]  # loose, strict
    heard = stage.play(
        *(ethernet(0x0800, ip4(to, udp(b"x"), options=route)) for route in routes for to in (GATEWAY, POD_IP, NODE_IP))
    )
    assert heard == []
    node = socket.inet_pton(socket.AF_INET6, NODE_IP6)
    chains = [bytes([17, 2, kind, 1]) + bytes(4) + node for kind in (0, 2, 3, 4)]
    heard = stage.play(
        *(
            ethernet(0x86DD, ip6(to, chain + udp6(GUEST6, NODE_IP6, b"x"), protocol=_ROUTING))
            for chain in chains
            for to in (GATEWAY6, ROUTER6, "ff02::1")
        )
    )
    assert heard == []
    stage.works()


def test_chains_of_extension_headers(stage: Stage) -> None:
    """However deep, what is in them is still no advertisement of anybody, and no socket of the berth's is reached."""
    padding = b"\x01\x04" + bytes(4)
    advert = hostile.icmp6(GUEST6, "ff02::1", hostile.advertisement(ROUTER6, MAC))
    rogue = hostile.icmp6(GUEST6, "ff02::1", b"\x86\0\0\0\x40\0\x07\x08" + bytes(8))
    before = stage.neighbours()

    def chain(length: int, first: int, last: int, inner: bytes) -> bytes:
        kinds = [first] + [_DESTINATION] * (length - 1) + [last]
        return b"".join(bytes([after, 0]) + padding for after in kinds[1:]) + inner

    frames = [
        ethernet(0x86DD, ip6(to, chain(length, first, 58, inner), protocol=first, hops=255))
        for length in (1, 2, 8, 60)
        for first in (_HOP_BY_HOP, _DESTINATION)
        for inner in (advert, rogue)
        for to in ("ff02::1", ROUTER6, GATEWAY6)
    ]
    endless = ethernet(0x86DD, ip6(GATEWAY6, chain(150, _DESTINATION, _DESTINATION, b""), protocol=_DESTINATION))
    again = bytes([_HOP_BY_HOP, 0]) + padding
    twice = ethernet(0x86DD, ip6(NODE_IP6, again + bytes([17, 0]) + padding, protocol=_HOP_BY_HOP))
    assert stage.play(*frames, endless, twice) == []
    assert stage.neighbours() == before
    assert "fe80::" not in lans.run(stage.bench.lan.netns, "ip -6 route show default")
    stage.works()


def fragment6(at: int, more: bool, data: bytes, identity: int, protocol: int = 17) -> bytes:
    head = struct.pack("!BBHI", protocol, 0, at | more, identity)
    return ethernet(0x86DD, ip6(NODE_IP6, head + data, protocol=_FRAGMENT))


def test_fragments_that_overlap_or_never_end(stage: Stage) -> None:
    more = 0x2000
    whole = udp(b"A" * 56)
    evil = [
        [  # the second writes over the first
            ethernet(0x0800, ip4(NODE_IP, whole[:32], fragment=more, identity=10)),
            ethernet(0x0800, ip4(NODE_IP, b"B" * 40, fragment=2, identity=10)),
        ],
        [  # past the end of what a packet may be: the ping of death
            ethernet(0x0800, ip4(NODE_IP, whole[:32], fragment=more, identity=11)),
            ethernet(0x0800, ip4(NODE_IP, b"B" * 800, fragment=0x1FFF, identity=11)),
        ],
        [ethernet(0x0800, ip4(NODE_IP, b"", fragment=more | 1, identity=12))],
        [  # IPv6: nothing that overlaps may be put together (RFC 5722)
            fragment6(0, True, udp6(GUEST6, NODE_IP6, b"A" * 56)[:32], 20),
            fragment6(16, False, b"B" * 48, 20),
        ],
        [fragment6(0, True, b"A" * 13, 21), fragment6(0xFFF8, False, b"B" * 64, 22)],
        [fragment6(0, True, b"", 23), fragment6(0, True, bytes([58, 0]) + bytes(6), 24, _DESTINATION)],
    ]
    for number in range(500):  # first parts without second ones
        evil.append([ethernet(0x0800, ip4(NODE_IP, whole[:32], fragment=more, identity=1000 + number))])
        evil.append([fragment6(0, True, whole[:32], 1000 + number)])
    assert stage.play(*(frame for frames in evil for frame in frames)) == []
    stage.works()


@pytest.mark.parametrize("node", [NODE_IP, NODE_IP6])
def test_fragments_in_order_do_pass(stage: Stage, node: str) -> None:
    family = socket.AF_INET6 if ":" in node else socket.AF_INET
    lan = stage.bench.lan

    def listen() -> socket.socket:
        line = socket.socket(family, socket.SOCK_DGRAM)
        line.bind((node, 5005))
        line.settimeout(3)
        return line

    def send() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as line:
            line.sendto(b"large" * 1000, (node, 5005))

    with lan.in_node(listen) as line:
        lan.in_guest(send)
        assert line.recv(65536) == b"large" * 1000


def test_frames_larger_than_the_network(stage: Stage) -> None:
    """What may not be divided comes back with the largest size; nothing goes out that the pod's network can't carry."""
    large = [
        ethernet(0x0800, ip4(NODE_IP, udp(bytes(size)), fragment=0x4000)) for size in (1400, 2000, 9000, 30000, 60000)
    ]
    large += [
        ethernet(0x86DD, ip6(NODE_IP6, udp6(GUEST6, NODE_IP6, bytes(size))))
        for size in (1400, 2000, 9000, 30000, 60000)
    ]
    with stage.bench.lan.in_guest(lambda: lans.raw_socket("enp0")) as line:
        assert stage.play(*large) == []
        found = set()
        while len(found) < 2:
            frame = line.recv(2000)
            if frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[34:36] == b"\x03\x04":
                assert frame[40:42] == (1400).to_bytes(2, "big")
                found.add(4)
            if frame[12:14] == b"\x86\xdd" and frame[20] == 58 and frame[54] == 2:
                assert frame[58:62] == (1400).to_bytes(4, "big")
                found.add(6)
    stage.works()


def test_large_frames_that_may_be_divided_are(stage: Stage) -> None:
    heard = stage.play(ethernet(0x0800, ip4(NODE_IP, udp(bytes(5000)))))
    assert len(heard) == 4
    assert max(map(len, heard)) <= 1414
    assert GUEST not in {socket.inet_ntoa(frame[26:30]) for frame in heard}
