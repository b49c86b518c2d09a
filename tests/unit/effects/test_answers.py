"""What guests are answered, frame by frame, and router advertisements to the byte."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from berth.effects import answers, dhcp, dhcpv6, frames, ra
from berth.effects.answers import Guest

MAC, ROUTER_MAC = bytes.fromhex("525400123456"), bytes.fromhex("02000a000201")
V4 = ipaddress.IPv4Interface("10.0.2.2/24")
DNS = ipaddress.IPv6Address("fd00:10:96::a")
LINK_LOCAL = ipaddress.IPv6Address("fe80::5054:ff:fe12:3456")
GUEST = Guest(
    MAC,
    ROUTER_MAC,
    dhcp.Lease(MAC, V4, ipaddress.IPv4Address("10.0.2.1"), 1400, "web"),
    dhcpv6.Lease(ipaddress.IPv6Address("fd00:10:0:2::2"), ROUTER_MAC, "web"),
    ra.Advertisement(ROUTER_MAC, 1400, dns=(DNS,), search=("cluster.local",)),
)
NOWHERE, EVERYWHERE = ipaddress.IPv4Address("0.0.0.0"), ipaddress.IPv4Address("255.255.255.255")
SERVERS6, ROUTERS6 = ipaddress.IPv6Address("ff02::1:2"), ipaddress.IPv6Address("ff02::2")


def discover(mac: bytes = MAC, flags: int = 0) -> bytes:
    fixed = struct.pack("!BBBBIHH16s16s192s", 1, 1, 6, 0, 7, 0, flags, b"", mac, b"")
    return fixed + b"\x63\x82\x53\x63\x35\x01\x01\xff"


def solicit() -> bytes:
    return b"\x01xid\0\1\0\4duid\0\3\0\x0c" + bytes(12)


def dhcp4(mac: bytes = MAC, flags: int = 0) -> bytes:
    return frames.udp4((mac, b"\xff" * 6), (NOWHERE, EVERYWHERE), (68, 67), discover(flags=flags))


def dhcp6(mac: bytes = MAC, source: ipaddress.IPv6Address = LINK_LOCAL) -> bytes:
    return frames.udp6((mac, frames.multicast_mac(SERVERS6)), (source, SERVERS6), (546, 547), solicit())


def solicitation(mac: bytes = MAC) -> bytes:
    return frames.icmpv6((mac, frames.multicast_mac(ROUTERS6)), (LINK_LOCAL, ROUTERS6), b"\x85" + bytes(7))


def test_dhcpv4_goes_to_the_guest_or_to_all_when_it_says_so() -> None:
    for flags, mac, address in ((0, MAC, V4.ip), (0x8000, b"\xff" * 6, EVERYWHERE)):
        frame = answers.answer(dhcp4(flags=flags), GUEST)
        assert frame is not None
        assert frame[:12] == mac + ROUTER_MAC
        packet = frames.parse(frame)
        assert packet is not None
        assert (packet.source, packet.destination) == (ipaddress.IPv4Address("10.0.2.1"), address)
        assert (packet.source_port, packet.destination_port) == (67, 68)
        assert frame[40:42] == b"\0\0"  # no checksum, rather than one that is left to hardware


def test_dhcpv6_goes_to_the_address_that_asked() -> None:
    frame = answers.answer(dhcp6(), GUEST)
    assert frame is not None
    assert frame[:12] == MAC + ROUTER_MAC
    packet = frames.parse(frame)
    assert packet is not None
    assert (packet.source, packet.destination) == (ra.ROUTER, LINK_LOCAL)
    assert (packet.source_port, packet.destination_port, packet.payload[0]) == (547, 546, dhcpv6.Kind.ADVERTISE)


def test_an_advertisement_to_the_byte() -> None:
    frame = answers.answer(solicitation(), GUEST)
    assert frame is not None
    assert frame == answers.advertise(GUEST)
    packet = frames.parse(frame)
    assert packet is not None
    assert frame[:14].hex() == "33330000000102000a00020186dd"
    assert (packet.source, packet.destination, packet.hop_limit) == (ra.ROUTER, ra.ALL_NODES, 255)
    assert packet.payload[4:].hex() == (
        "40c0ffff" + "00" * 8  # hop limit 64; addresses and the rest by DHCPv6; a router for 18 hours
        + "010102000a000201"  # its MAC
        + "0501000000000578"  # the MTU: 1400
        + "19030000ffffffff" + DNS.packed.hex()
        + "1f030000ffffffff" + "07636c7573746572056c6f63616c0000"
    )  # fmt: skip


def test_prefixes_that_need_no_router() -> None:
    told = ra.message(ra.Advertisement(ROUTER_MAC, 0, 0, prefixes=(ipaddress.IPv6Network("fd12::/64"),)))
    assert told[6:8] == b"\0\0"  # no router
    assert told[24:].hex() == "03044080" + "ff" * 8 + "00000000" + "fd12" + "00" * 14


def test_a_router_that_is_none_any_more_says_so() -> None:
    frame = answers.retract(GUEST)
    assert frame is not None
    packet = frames.parse(frame)
    assert packet is not None
    assert packet.payload[6:8] == b"\0\0"
    assert answers.retract(replace(GUEST, advertisement=None)) is None


def test_silence_for_other_macs_and_for_what_was_not_ordered() -> None:
    other = bytes.fromhex("525400999999")
    for frame in (dhcp4(other), dhcp6(other), solicitation(other)):
        assert answers.answer(frame, GUEST) is None
    nothing = Guest(MAC, ROUTER_MAC)
    for frame in (dhcp4(), dhcp6(), solicitation()):
        assert answers.answer(frame, nothing) is None


def test_silence_for_solicitations_that_came_from_afar_and_for_unusable_addresses() -> None:
    near = solicitation()
    assert answers.answer(near[:21] + b"\x40" + near[22:], GUEST) is None  # a router forwarded it
    assert answers.answer(dhcp6(source=ipaddress.IPv6Address("fd00::9")), GUEST) is None
    assert answers.answer(dhcp6(source=ipaddress.IPv6Address("::")), GUEST) is None


@given(st.lists(st.text(max_size=90), max_size=40), st.integers(0, 9))
def test_any_advertisement_fits_and_adds_up(search: list[str], servers: int) -> None:
    frame = answers.advertise(replace(GUEST, advertisement=ra.Advertisement(ROUTER_MAC, 1400, dns=(DNS,) * servers,
                                                                            search=tuple(search))))  # fmt: skip
    assert frame is not None
    assert len(frame) <= 14 + 1280
    at = 14 + 40 + 16
    while at < len(frame):
        assert frame[at + 1] > 0
        at += frame[at + 1] * 8
    assert at == len(frame)


@given(st.binary(max_size=400), st.sampled_from([dhcp4(), dhcp6(), solicitation(), b""]), st.integers(0, 400))
def test_any_frame_is_survived_and_only_the_guest_is_answered(data: bytes, start: bytes, keep: int) -> None:
    frame = start[:keep] + data
    reply = answers.answer(frame, GUEST)
    if reply is not None:
        assert frame[6:12] == MAC
        assert reply[6:12] == ROUTER_MAC
        assert reply[:6] in (MAC, b"\xff" * 6, frames.multicast_mac(ra.ALL_NODES))


@given(st.data())
def test_any_change_of_a_good_frame_is_survived(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from([dhcp4(), dhcp6(), solicitation()])))
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    if answers.answer(bytes(frame), GUEST) is not None:
        assert bytes(frame[6:12]) == MAC
