"""Limits as the kernel's token bucket filter takes them."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from berth.effects import tbf


def parts(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found[kind] = data[4:length]
        data = data[length:]
    return found


def test_a_limit_in_the_kernels_bytes() -> None:
    want = tbf.bucket(100_000_000, 625_000, 1500)
    assert want == tbf.Bucket(rate=12_500_000, burst=625_000, queue=1_250_000 + 625_000)
    told = parts(tbf.encode(want))
    assert told[4] == struct.pack("=Q", 12_500_000)
    assert told[6] == struct.pack("=I", 625_000)
    assert len(told[1]) == 36
    assert struct.unpack_from("=xBxxxxxxI", told[1]) == (1, 12_500_000)


def test_a_burst_lets_at_least_one_packet_through() -> None:
    assert tbf.bucket(8_000, 1, 9000).burst == 9018


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(68, 65535))
def test_every_limit_fits_and_is_recognized(bits: int, burst: int, mtu: int) -> None:
    want = tbf.bucket(bits, burst, mtu)
    assert tbf.matches(parts(tbf.encode(want)), want)
    assert want.queue > want.burst > mtu


@given(st.integers(8, 10**11), st.integers(20_000, 10**8), st.integers(1, 1000))
def test_another_limit_is_noticed(bits: int, burst: int, more: int) -> None:
    told = parts(tbf.encode(tbf.bucket(bits, burst, 1500)))
    assert not tbf.matches(told, tbf.bucket(bits, burst + more, 1500))
    assert not tbf.matches(told, tbf.bucket(bits + 8 * more, burst, 1500))


@given(st.dictionaries(st.integers(0, 9), st.binary(max_size=60), max_size=5))
def test_anything_told_is_survived(told: dict[int, bytes]) -> None:
    tbf.matches(told, tbf.Bucket(1, 2, 3))
