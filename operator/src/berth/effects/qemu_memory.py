"""How full a guest's memory is and how fast it changes it, from a sample of its pages. Called by qemu_process.py.

QEMU's own dirty-rate calculation (libvirt's startDirtyRateCalc) looks at 512 pages in each GiB: of a small guest that
is a guess, where one page more or less is 2 MiB a second. This one takes as many samples of every guest. The guest does
not notice: its pages are read where they are, and those that it never touched are left alone.
"""

from __future__ import annotations

import math
import os
import random
import re
import struct
import time
import zlib
from pathlib import Path
from typing import Final

from berth.domain.observed import Pace

SAMPLES: Final = 8192
LEAST_LEFT: Final = 0.05
MOST_LEFT: Final = 0.95
"""Nearer to all than this is chance."""
_PAGE: Final = 4096
_THERE: Final = 0b11 << 62  # of a pagemap entry: in memory, or swapped out
_EMPTY: Final = bytes(_PAGE)
_MAPPING: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw", re.MULTILINE)


def pace(pid: int, memory_bytes: int, cpus: int, seconds: float) -> Pace | None:
    """Watch it for so long. None when the process is gone, or has no such memory."""
    try:
        start = mapping(Path(f"/proc/{pid}/maps").read_text(), memory_bytes)
        return None if start is None else _watch(pid, start, memory_bytes, cpus, seconds)
    except OSError:
        return None


def mapping(maps: str, memory_bytes: int) -> int | None:
    """Where the guest's memory begins. QEMU has it in one piece, and nothing else is exactly as large; it has flags of
    its own, so that the kernel does not join it with its neighbours.
    """
    ranges = ((int(first, 16), int(last, 16)) for first, last in _MAPPING.findall(maps))
    return next((first for first, last in ranges if last - first == memory_bytes), None)


def _watch(pid: int, start: int, memory_bytes: int, cpus: int, seconds: float) -> Pace:
    count = memory_bytes // _PAGE
    many = min(SAMPLES, count)
    pages = [start // _PAGE + int((at + random.random()) * count / many) for at in range(many)]
    began, used = time.monotonic(), _cpu_seconds(pid)
    looks = [_look(pid, pages)]
    for half in (1, 2):
        time.sleep(max(seconds * half / 2 - (time.monotonic() - began), 0))
        looks.append(_look(pid, pages))
    took = time.monotonic() - began
    busy = (_cpu_seconds(pid) - used) / took / max(cpus, 1)
    share = memory_bytes / many
    full = sum(page is not None for page in looks[-1])
    once = sum(first != second for first, second, _ in zip(*looks, strict=True))
    twice = sum(first != second or second != third for first, second, third in zip(*looks, strict=True))
    rate, working = spread(once * share, twice * share, took / 2)
    return Pace(int(full * share), int(rate), min(max(busy, 0.0), 1.0), None if working is None else int(working))


def spread(once: float, twice: float, seconds: float) -> tuple[float, float | None]:
    """What changed in so many seconds, and in twice that → how fast, and within how much.

    Writes that fall anywhere into a working set hit the more pages for the second time the more of it they have hit
    already: what is new of the second half is to the first as what was left of the set to all of it.
    """
    if not once or not seconds:
        return 0.0, None
    left = max(twice / once - 1, LEAST_LEFT)
    if left > MOST_LEFT:
        return once / seconds, None
    working = once / (1 - left)
    return -working * math.log(left) / seconds, working


def _look(pid: int, pages: list[int]) -> list[int | None]:
    """What each page holds, as a number; None where it holds nothing."""
    table = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return [_content(table, memory, page) for page in pages]
        finally:
            os.close(memory)
    finally:
        os.close(table)


def _content(table: int, memory: int, page: int) -> int | None:
    (entry,) = struct.unpack("Q", os.pread(table, 8, page * 8))
    if not entry & _THERE:
        return None
    data = os.pread(memory, _PAGE, page * _PAGE)
    return None if data == _EMPTY else zlib.crc32(data)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
