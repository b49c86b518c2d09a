"""How full memory is and how fast it changes, of this very process."""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections.abc import Iterator

import pytest

from berth.effects import qemu_memory

SIZE = (37 << 20) + 4096  # of nothing else
PAGES = SIZE // 4096
MAPS = """\
55e0c0000000-55e0c0100000 r-xp 00000000 08:01 1 /usr/bin/qemu
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
7f0010000000-7f0011000000 rw-p 00000000 00:00 0 [heap]
"""


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as made:
        made.madvise(mmap.MADV_DONTFORK)  # as QEMU's: one with flags of its own is not joined with its neighbours
        yield made


def fill(memory: mmap.mmap, pages: range, byte: int) -> None:
    for page in pages:
        memory[page * 4096 + page % 4096] = byte


def test_the_mapping_is_the_one_that_is_as_large() -> None:
    assert qemu_memory.mapping(MAPS, 256 << 20) == 0x7F0000000000
    assert qemu_memory.mapping(MAPS, 1 << 20) is None  # the program itself is not written to
    assert qemu_memory.mapping(MAPS, 16 << 20) == 0x7F0010000000


def test_what_was_never_touched_or_holds_nothing_is_empty(memory: mmap.mmap) -> None:
    found = qemu_memory.pace(os.getpid(), SIZE, 1, 0)
    assert found is not None
    assert (found.memory, found.dirty) == (0, 0)
    fill(memory, range(PAGES), 0)
    fill(memory, range(PAGES // 4), 1)
    found = qemu_memory.pace(os.getpid(), SIZE, 1, 0)
    assert found is not None
    assert found.memory == pytest.approx(SIZE / 4, rel=0.15)
    assert found.dirty == 0


def test_what_changes_between_two_looks_is_counted(memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([range(PAGES // 4), range(PAGES // 4, PAGES // 2)])
    monkeypatch.setattr(qemu_memory.time, "sleep", lambda _: fill(memory, next(looks), 7))
    clock = iter([100.0, 100.5, 101.5, 102.0])
    monkeypatch.setattr(qemu_memory.time, "monotonic", lambda: next(clock))
    found = qemu_memory.pace(os.getpid(), SIZE, 1, 2)
    assert found is not None
    assert found.memory == pytest.approx(SIZE / 2, rel=0.1)
    assert found.dirty == pytest.approx(SIZE / 2 / 2, rel=0.1)  # in two seconds


def test_how_fast_and_within_how_much() -> None:
    """Of writes that fall anywhere into 100 pages: as many as it takes for so many of them to be hit."""
    for rate in (20.0, 80.0, 200.0):
        hit = [100 * (1 - math.exp(-rate * seconds / 100)) for seconds in (1, 2)]
        found, working = qemu_memory.spread(hit[0], hit[1], 1)
        assert found == pytest.approx(rate)
        assert working == pytest.approx(100)
    assert qemu_memory.spread(50, 100, 0.5) == (100, None)
    assert qemu_memory.spread(0, 0, 1) == (0, None)
    assert qemu_memory.spread(50, 120, 1) == (50, None)  # it became faster
    still, working = qemu_memory.spread(50, 50, 1)
    assert working == pytest.approx(50, rel=0.06)
    assert 50 < still < 200


def test_how_busy_it_is(memory: mmap.mmap) -> None:
    over = threading.Event()
    working = threading.Thread(target=lambda: [None for _ in iter(over.is_set, True)])
    working.start()
    found = qemu_memory.pace(os.getpid(), SIZE, 4, 0.5)
    over.set()
    working.join()
    assert found is not None
    assert 0 < found.busy <= 1


def test_a_process_that_is_not_there_has_no_pace() -> None:
    assert qemu_memory.pace(1 << 22, SIZE, 1, 0) is None
