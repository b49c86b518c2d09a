"""DHCPv6 in bytes: what a guest may send, and what it is told."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.effects import dhcp, dhcpv6
from berth.effects.dhcpv6 import Kind, Lease, Message, Option, Status

SERVER_MAC = bytes.fromhex("02000a000201")
SERVER = b"\x00\x03\x00\x01" + SERVER_MAC
CLIENT = b"\x00\x01\x00\x01anything"
ADDRESS = ipaddress.IPv6Address("fd00:10:0:2::2")
OTHER = ipaddress.IPv6Address("fd00::77")
DNS = ipaddress.IPv6Address("fd00:10:96::a")
LEASE = Lease(ADDRESS, SERVER_MAC, "web", (DNS,), ("ns.svc.cluster.local", "svc.cluster.local"))
FOR_EVER = b"\xff" * 4


def option(code: int, value: bytes) -> bytes:
    return struct.pack("!HH", code, len(value)) + value


def association(identity: bytes = b"\0\0\0\1", *addresses: ipaddress.IPv6Address) -> bytes:
    inner = b"".join(option(Option.ADDRESS, address.packed + bytes(8)) for address in addresses)
    return option(Option.ADDRESSES, identity + bytes(8) + inner)


def message(kind: int, *options: bytes, client: bytes | None = CLIENT, server: bytes | None = None) -> bytes:
    found = option(Option.CLIENT, client) if client is not None else b""
    found += option(Option.SERVER, server) if server is not None else b""
    return bytes([kind]) + b"xid" + found + b"".join(options)


def told(data: bytes, lease: Lease = LEASE) -> Message:
    reply = dhcpv6.answer(data, lease)
    assert reply is not None
    found = dhcpv6.parse(reply)
    assert found is not None
    assert found.transaction == b"xid"
    assert found.first(Option.SERVER) == SERVER
    return found


def granted(found: Message) -> list[tuple[ipaddress.IPv6Address, bytes]]:
    """The addresses of all associations, with their valid lifetimes."""
    out = []
    for value in found.every(Option.ADDRESSES):
        for code, inner in dhcpv6.parse_options(value[12:]) or ():
            if code == Option.ADDRESS:
                out.append((ipaddress.IPv6Address(inner[:16]), inner[20:24]))
    return out


def status(value: bytes) -> int:
    return int.from_bytes(value[:2], "big")


def test_solicit_is_offered_the_address_for_ever() -> None:
    found = told(message(Kind.SOLICIT, association()))
    assert found.kind == Kind.ADVERTISE
    assert found.first(Option.CLIENT) == CLIENT
    assert found.first(Option.PREFERENCE) == b"\xff"
    assert granted(found) == [(ADDRESS, FOR_EVER)]
    [value] = found.every(Option.ADDRESSES)
    assert value[:12] == b"\0\0\0\1" + FOR_EVER * 2
    assert found.first(Option.DNS) == DNS.packed
    assert found.first(Option.SEARCH) == dhcp.encode_search(LEASE.search)
    assert found.first(Option.FQDN) is None


def test_in_two_messages_for_those_in_a_hurry() -> None:
    found = told(message(Kind.SOLICIT, association(), option(Option.RAPID_COMMIT, b"")))
    assert found.kind == Kind.REPLY
    assert found.first(Option.RAPID_COMMIT) == b""


@pytest.mark.parametrize(("kind", "server"), [(Kind.REQUEST, SERVER), (Kind.RENEW, SERVER), (Kind.REBIND, None)])
def test_the_address_is_granted_and_another_taken_back(kind: Kind, server: bytes | None) -> None:
    found = told(message(kind, association(b"\0\0\0\1", OTHER, ADDRESS), server=server))
    assert found.kind == Kind.REPLY
    assert granted(found) == [(ADDRESS, FOR_EVER), (OTHER, bytes(4))]


def test_there_is_one_address_and_no_prefix() -> None:
    temporary, prefix = option(Option.TEMPORARY, b"tmp1"), option(Option.PREFIXES, b"pre1" + bytes(8))
    found = told(message(Kind.SOLICIT, association(), association(b"\0\0\0\2"), temporary, prefix))
    assert granted(found) == [(ADDRESS, FOR_EVER)]
    second = dhcpv6.parse_options(found.every(Option.ADDRESSES)[1][12:])
    assert second
    assert (second[0][0], status(second[0][1])) == (Option.STATUS, Status.NO_ADDRESS)
    assert status((found.first(Option.TEMPORARY) or b"")[8:]) == Status.NO_ADDRESS
    assert status((found.first(Option.PREFIXES) or b"")[16:]) == Status.NO_PREFIX


def test_confirm_tells_right_from_wrong_addresses() -> None:
    for held, expected in (([ADDRESS], Status.SUCCESS), ([OTHER], Status.NOT_ON_LINK), ([ADDRESS, OTHER], 4)):
        found = told(message(Kind.CONFIRM, association(b"\0\0\0\1", *held)))
        assert status(found.first(Option.STATUS) or b"") == expected
        assert found.every(Option.ADDRESSES) == []
    assert dhcpv6.answer(message(Kind.CONFIRM, association()), LEASE) is None


@pytest.mark.parametrize("kind", [Kind.RELEASE, Kind.DECLINE])
def test_what_is_given_back_is_noted(kind: Kind) -> None:
    found = told(message(kind, association(b"\0\0\0\1", ADDRESS), server=SERVER))
    assert (found.kind, status(found.first(Option.STATUS) or b"")) == (Kind.REPLY, Status.SUCCESS)


def test_information_without_an_address() -> None:
    for client, server in ((CLIENT, None), (None, None), (CLIENT, SERVER)):
        found = told(message(Kind.INFORMATION, client=client, server=server))
        assert found.first(Option.DNS) == DNS.packed
        assert found.first(Option.CLIENT) == client
        assert granted(found) == []


def test_who_tells_its_name_is_told_ours() -> None:
    found = told(message(Kind.SOLICIT, association(), option(Option.FQDN, b"\x01\x07localhost")))
    assert found.first(Option.FQDN) == b"\x04\x03web"


def test_silence_for_others_and_for_what_needs_no_answer() -> None:
    for data in (
        b"",
        b"\x01xi",
        message(Kind.SOLICIT, association(), client=None),
        message(Kind.SOLICIT, association(), server=SERVER),
        message(Kind.SOLICIT, association(), client=b""),
        message(Kind.SOLICIT, association(), client=bytes(131)),
        message(Kind.SOLICIT, association(), option(Option.CLIENT, b"another")),
        message(Kind.REQUEST, association()),
        message(Kind.REQUEST, association(), server=SERVER[:-1] + b"\x09"),
        message(Kind.RENEW, association(), server=SERVER, client=None),
        message(Kind.REBIND, association(), server=SERVER),
        message(Kind.RELEASE, association()),
        message(Kind.INFORMATION, association()),
        message(Kind.INFORMATION, server=b"another"),
        message(Kind.ADVERTISE, association()),
        message(Kind.REPLY, association(), server=SERVER),
        message(12, association()),  # relayed
        message(99),
        message(Kind.SOLICIT, association()) + b"\0",
        message(Kind.SOLICIT, association())[:-1],
    ):
        assert dhcpv6.answer(data, LEASE) is None, data


def test_what_does_not_fit_is_left_out_and_the_rest_is_there() -> None:
    long = Lease(ADDRESS, SERVER_MAC, "web", (DNS,), tuple("d" * 60 for _ in range(30)))
    found = told(message(Kind.SOLICIT, association()), long)
    assert found.first(Option.SEARCH) is None
    assert granted(found) == [(ADDRESS, FOR_EVER)]


@given(st.binary(max_size=600))
def test_any_bytes_are_survived(data: bytes) -> None:
    dhcpv6.answer(data, LEASE)


@given(
    st.sampled_from(list(Kind)),
    st.lists(st.tuples(st.sampled_from([*Option, 6, 8, 16]), st.binary(max_size=80)), max_size=30),
    st.sampled_from([None, SERVER]),
)
def test_any_options_are_survived_and_only_the_address_is_granted(
    kind: Kind, options: list[tuple[int, bytes]], server: bytes | None
) -> None:
    data = message(kind, association(), *(option(code, value) for code, value in options), server=server)
    reply = dhcpv6.answer(data, LEASE)
    if reply is not None:
        assert len(reply) <= 1232
        found = dhcpv6.parse(reply)
        assert found is not None
        assert {address for address, seconds in granted(found) if any(seconds)} <= {ADDRESS}
