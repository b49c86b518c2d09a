"""Several connections together keep to one rate."""

from __future__ import annotations

import threading

from berth.effects.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_what_goes_through_takes_as_long_as_the_rate_allows() -> None:
    clock = Clock()
    pace = Pace(1000, lambda: clock.now, clock.sleep)
    for _ in range(5):
        assert bytes(pace.passage(memoryview(b"x" * 500))) == b"x" * 500
    assert clock.now - 100 == 2.0  # the first goes at once, each other waits for the one before


def test_a_limit_that_is_lifted_holds_nobody_who_comes_or_waits() -> None:
    pace, over = Pace(1), threading.Event()
    pace.passage(memoryview(b"x" * 100_000))
    waits = threading.Thread(target=lambda: (pace.passage(memoryview(b"x")), over.set()), daemon=True)
    waits.start()
    pace.lift()
    assert over.wait(10)
    assert bytes(pace.passage(memoryview(b"more"))) == b"more"


def test_nothing_is_saved_up_while_nothing_goes() -> None:
    clock = Clock()
    pace = Pace(1000, lambda: clock.now, clock.sleep)
    pace.passage(memoryview(b"x" * 1000))
    clock.now += 60
    for _ in range(3):
        pace.passage(memoryview(b"x" * 1000))
    assert clock.slept == [1.0, 1.0]
