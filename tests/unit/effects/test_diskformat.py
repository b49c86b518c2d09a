"""Verdicts on disk images by their first bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.effects.diskformat import Qcow2, Raw, Unsuitable, inspect


def qcow2(version: int = 3, backing: tuple[int, int] = (0, 0), bits: int = 16, size: int = 1 << 30, crypt: int = 0,
          incompatible: int = 0) -> bytes:  # fmt: skip
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, *backing, bits, size, crypt)
    return head.ljust(72, b"\0") + struct.pack(">Q", incompatible) + bytes(432)


def test_a_qcow2_image_by_itself_is_fine() -> None:
    assert inspect(qcow2(), 10_000) == Qcow2(1 << 30)
    assert inspect(qcow2(version=2), 10_000) == Qcow2(1 << 30)
    assert inspect(qcow2(incompatible=1), 10_000) == Qcow2(1 << 30)  # dirty: QEMU repairs it


@pytest.mark.parametrize(
    ("header", "reason", "words"),
    [
        (qcow2(backing=(512, 11)), "ImageUnsafe", "backing file"),
        (qcow2(backing=(0, 11)), "ImageUnsafe", "backing file"),
        (qcow2(incompatible=4), "ImageUnsafe", "another file"),
        (qcow2(crypt=2), "ImageUnsafe", "encrypted"),
        (qcow2(version=1), "ImageCorrupt", "version 1"),
        (qcow2(bits=40), "ImageCorrupt", "cluster bits 40"),
        (qcow2(size=0), "ImageCorrupt", "0 bytes"),
        (qcow2()[:60], "ImageCorrupt", "cut off"),
        (b"\x1f\x8b" + bytes(600), "ImageCorrupt", "gzip"),
        (b"\xfd7zXZ\0" + bytes(600), "ImageCorrupt", "xz"),
        (b"<!DOCTYPE html>" + bytes(600), "ImageCorrupt", "web page"),
        (bytes(257) + b"ustar" + bytes(600), "ImageCorrupt", "tar archive"),
        (b"vhdxfile" + bytes(600), "ImageCorrupt", "VHDX"),
        (b"", "ImageCorrupt", "0 bytes"),
        (bytes(600), "ImageCorrupt", "whole sectors"),
    ],
)
def test_what_cannot_be_run_is_named(header: bytes, reason: str, words: str) -> None:
    verdict = inspect(header, len(header))
    assert isinstance(verdict, Unsuitable)
    assert verdict.reason == reason
    assert words in verdict.what


def test_anything_else_in_whole_sectors_is_raw() -> None:
    assert inspect(bytes(510) + b"\x55\xaa" + bytes(512), 1024) == Raw()


@given(st.binary(max_size=700), st.integers(0, 1 << 40))
def test_any_bytes_get_a_verdict(tail: bytes, size: int) -> None:
    inspect(tail, size)
    inspect(b"QFI\xfb" + tail, size)


@given(st.binary(min_size=104, max_size=104))
def test_no_qcow2_that_passes_names_a_file(tail: bytes) -> None:
    header = b"QFI\xfb" + tail
    if isinstance(inspect(header, 10_000), Qcow2):
        assert header[8:20] == bytes(12)
        assert struct.unpack_from(">I", header, 4)[0] == 2 or not header[79] & 4
