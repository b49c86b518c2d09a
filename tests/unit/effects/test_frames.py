"""Frames: what is read of a guest's, and what is written for it."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from berth.effects import frames
from berth.effects.frames import ICMPV6, UDP

GUEST, ROUTER = bytes.fromhex("525400123456"), bytes.fromhex("02000a000201")
MACS = GUEST, ROUTER
V4 = ipaddress.IPv4Address("10.0.2.2"), ipaddress.IPv4Address("10.0.2.1")
V6 = ipaddress.IPv6Address("fe80::2"), ipaddress.IPv6Address("fe80::1")
PORTS = 68, 67


@given(st.binary(max_size=300), st.tuples(st.integers(0, 65535), st.integers(0, 65535)))
def test_what_is_written_is_read(payload: bytes, ports: tuple[int, int]) -> None:
    four = frames.parse(frames.udp4(MACS, V4, ports, payload))
    assert four == frames.Packet(GUEST, *V4, UDP, *ports, 64, payload)
    six = frames.parse(frames.udp6(MACS, V6, ports, payload))
    assert six == frames.Packet(GUEST, *V6, UDP, *ports, 64, payload)


@given(st.binary(min_size=4, max_size=300))
def test_icmpv6_is_written_and_read(message: bytes) -> None:
    message = message[:2] + b"\0\0" + message[4:]
    packet = frames.parse(frames.icmpv6(MACS, V6, message))
    assert packet is not None
    assert (packet.protocol, packet.hop_limit, packet.payload[:2]) == (ICMPV6, 255, message[:2])
    assert packet.payload[4:] == message[4:]


@given(st.binary(max_size=300))
def test_checksums_add_up(payload: bytes) -> None:
    """With its checksum in it, what a checksum is over sums up to nothing."""
    four = frames.udp4(MACS, V4, PORTS, payload)
    assert frames.checksum(four[14:34]) == 0
    six = frames.udp6(MACS, V6, PORTS, payload)
    pseudo = V6[0].packed + V6[1].packed + struct.pack("!II", len(six) - 54, UDP)
    assert frames.checksum(pseudo + six[54:]) == 0
    assert six[60:62] != b"\0\0"


def test_a_known_packet() -> None:
    head = frames.udp4((ROUTER, GUEST), (V4[1], V4[0]), (67, 68), b"hi")
    assert head[:14] == GUEST + ROUTER + b"\x08\x00"
    assert head[14:24].hex() == "4500001e000040004011"
    assert head[26:34] == V4[1].packed + V4[0].packed
    assert head[34:] == b"\0\x43\0\x44\0\x0a\0\0hi"


def test_multicast_macs() -> None:
    assert frames.multicast_mac(ipaddress.IPv6Address("ff02::1:ff00:1")).hex() == "3333ff000001"
    assert frames.multicast_mac(ipaddress.IPv4Address("255.255.255.255")) == b"\xff" * 6


def test_what_contradicts_itself_is_nothing() -> None:
    good4, good6 = frames.udp4(MACS, V4, PORTS, bytes(20)), frames.udp6(MACS, V6, PORTS, bytes(20))
    assert frames.parse(good4)
    assert frames.parse(good6)
    for frame, at, value in (
        (good4, 12, b"\x81\x00"),  # a tag
        (good4, 14, b"\x55"),  # another version
        (good4, 14, b"\x41"),  # a header shorter than any
        (good4, 14, b"\x4f"),  # options that leave no room for UDP
        (good4, 16, b"\xff\xff"),  # longer than the frame
        (good4, 16, b"\x00\x10"),  # shorter than its header
        (good4, 20, b"\x20\x00"),  # a fragment
        (good4, 20, b"\x00\x01"),
        (good4, 23, b"\x06"),  # TCP
        (good4, 38, b"\x00\x07"),  # UDP shorter than its header
        (good4, 38, b"\xff\xff"),
        (good6, 14, b"\x45"),
        (good6, 18, b"\xff\xff"),
        (good6, 20, b"\x00"),  # an extension header
        (good6, 20, b"\x2c"),  # a fragment
        (good6, 58, b"\x00\x07"),
    ):
        assert frames.parse(frame[:at] + value + frame[at + len(value) :]) is None, (frame[12:14], at, value)
    for frame in (good4, good6):
        assert all(frames.parse(frame[:size]) is None for size in range(len(frame)))


@given(st.binary(max_size=200), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00", b""]))
def test_any_bytes_are_survived(data: bytes, kind: bytes) -> None:
    packet = frames.parse(bytes(6) + GUEST + kind + data)
    if packet is not None:
        assert len(packet.payload) <= len(data)
