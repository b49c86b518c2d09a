"""DHCP in bytes: what a guest may send, and what it is told."""

from __future__ import annotations

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from berth.effects import dhcp
from berth.effects.dhcp import Kind, Lease, Option

MAC = bytes.fromhex("525400123456")
ADDRESS = ipaddress.IPv4Address("10.0.2.2").packed
SERVER = ipaddress.IPv4Address("10.0.2.1").packed
LEASE = Lease(
    mac=MAC,
    address=ipaddress.IPv4Interface("10.0.2.2/24"),
    router=ipaddress.IPv4Address("10.0.2.1"),
    mtu=1450,
    hostname="web",
    dns=(ipaddress.IPv4Address("10.96.0.10"),),
    search=("ns.svc.cluster.local", "svc.cluster.local"),
)


def request(
    kind: int, *options: tuple[int, bytes], mac: bytes = MAC, flags: int = 0, client: bytes = bytes(4), op: int = 1
) -> bytes:
    fixed = struct.pack("!BBBBIHH4s12s16s192s", op, 1, 6, 0, 0xABCD, 0, flags, client, b"", mac, b"")
    body = b"".join(bytes([code, len(value)]) + value for code, value in [(53, bytes([kind])), *options])
    return fixed + b"\x63\x82\x53\x63" + body + b"\xff"


def told(data: bytes, lease: Lease = LEASE) -> tuple[bytes, dict[int, bytes], str]:
    """The address given, the options, and where the reply goes."""
    reply = dhcp.answer(data, lease)
    assert reply is not None
    assert reply.data[:4] == b"\x02\x01\x06\x00"
    assert reply.data[4:8] == b"\x00\x00\xab\xcd"
    assert reply.data[28:34] == MAC
    assert len(reply.data) >= 300
    return reply.data[16:20], dhcp._parse_options(reply.data[240:]), reply.destination


def test_discover_is_offered_the_address_for_ever() -> None:
    address, options, to = told(request(Kind.DISCOVER))
    assert (address, to) == (ADDRESS, "10.0.2.2")
    assert options == {
        Option.KIND: bytes([Kind.OFFER]),
        Option.SERVER: SERVER,
        Option.LEASE_TIME: b"\xff\xff\xff\xff",
        Option.MASK: b"\xff\xff\xff\x00",
        Option.ROUTER: SERVER,
        Option.MTU: b"\x05\xaa",
        Option.DNS: b"\x0a\x60\x00\x0a",
        Option.HOSTNAME: b"web",
        Option.DOMAIN: b"ns.svc.cluster.local",
        Option.SEARCH: b"\x02ns\x03svc\x07cluster\x05local\x00\x03svc\x07cluster\x05local\x00",
    }


def test_request_for_the_address_is_granted_in_every_state_of_the_client() -> None:
    selecting = request(Kind.REQUEST, (Option.REQUESTED, ADDRESS), (Option.SERVER, SERVER))
    rebooting = request(Kind.REQUEST, (Option.REQUESTED, ADDRESS))
    renewing = request(Kind.REQUEST, client=ADDRESS)
    for data in (selecting, rebooting, renewing):
        address, options, to = told(data)
        assert (address, options[Option.KIND], to) == (ADDRESS, bytes([Kind.ACK]), "10.0.2.2")


def test_request_for_another_address_is_refused_to_all() -> None:
    for data in (
        request(Kind.REQUEST, (Option.REQUESTED, b"\x0a\0\0\x05")),
        request(Kind.REQUEST, client=b"\x0a\0\0\x05"),
    ):
        address, options, to = told(data)
        assert (address, to) == (bytes(4), "255.255.255.255")
        assert options == {
            Option.KIND: bytes([Kind.NAK]),
            Option.SERVER: SERVER,
            Option.MESSAGE: b"this machine's address is 10.0.2.2",
        }


def test_inform_is_told_all_but_an_address() -> None:
    address, options, _ = told(request(Kind.INFORM, client=ADDRESS))
    assert address == bytes(4)
    assert Option.LEASE_TIME not in options
    assert options[Option.DNS] == b"\x0a\x60\x00\x0a"


def test_broadcast_flag_is_honoured_until_the_client_has_an_address() -> None:
    assert told(request(Kind.DISCOVER, flags=0x8000))[2] == "255.255.255.255"
    assert told(request(Kind.REQUEST, flags=0x8000, client=ADDRESS))[2] == "10.0.2.2"


def test_client_identifier_is_echoed() -> None:
    assert told(request(Kind.DISCOVER, (Option.CLIENT, b"\xffabc")))[1][Option.CLIENT] == b"\xffabc"


def test_silence_for_others_and_for_what_needs_no_answer() -> None:
    for data in (
        request(Kind.DISCOVER, mac=bytes(6)),
        request(Kind.REQUEST, (Option.REQUESTED, ADDRESS), (Option.SERVER, b"\x0a\0\0\x09")),
        request(Kind.RELEASE),
        request(Kind.DECLINE),
        request(Kind.OFFER),
        request(99),
        request(Kind.DISCOVER, op=2),
        request(Kind.DISCOVER)[:239],
        b"",
    ):
        assert dhcp.answer(data, LEASE) is None


def test_what_does_not_fit_the_clients_size_is_left_out_and_the_rest_is_there() -> None:
    long = Lease(**{f: getattr(LEASE, f) for f in Lease.__slots__} | {"search": tuple("d" * 60 for _ in range(30))})
    reply = dhcp.answer(request(Kind.DISCOVER), long)
    assert reply is not None
    assert len(reply.data) <= 548
    options = dhcp._parse_options(reply.data[240:])
    assert Option.SEARCH not in options
    assert options[Option.ROUTER] == SERVER


def test_a_long_search_list_is_split_and_joined() -> None:
    long = Lease(**{f: getattr(LEASE, f) for f in Lease.__slots__} | {"search": tuple("d" * 60 for _ in range(6))})
    _, options, _ = told(request(Kind.DISCOVER, (Option.MAX_SIZE, (1500).to_bytes(2, "big"))), long)
    assert len(options[Option.SEARCH]) == 6 * 62


@given(st.binary(max_size=600))
def test_any_bytes_are_survived(data: bytes) -> None:
    dhcp.answer(data, LEASE)


@given(st.binary(max_size=400), st.sampled_from(list(Kind)), st.integers(0, 0xFFFF), st.binary(min_size=4, max_size=4))
def test_any_options_are_survived_and_nobody_else_gets_an_answer(
    tail: bytes, kind: Kind, flags: int, client: bytes
) -> None:
    reply = dhcp.answer(request(kind, flags=flags, client=client)[:-1] + tail, LEASE)
    if reply is not None:
        assert reply.destination in ("10.0.2.2", "255.255.255.255")
        assert reply.data[16:20] in (ADDRESS, bytes(4))
        assert 300 <= len(reply.data) <= 1472


@given(st.lists(st.text(max_size=80), max_size=8))
def test_any_search_list_is_encodable(domains: list[str]) -> None:
    encoded = dhcp.encode_search(tuple(domains))
    assert encoded == b"" or encoded.endswith(b"\0")
