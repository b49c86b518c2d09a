"""How long it takes until the next try."""

from __future__ import annotations

from berth.plan.backoff import restart_delay, retry_seconds


def test_crashes_wait_twice_as_long_each_time_up_to_five_minutes() -> None:
    waits = [restart_delay(n, orderly=False).total_seconds() for n in range(8)]
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    assert restart_delay(10**6, orderly=False).total_seconds() == 300


def test_a_guest_that_ended_in_order_starts_again_at_once_but_not_in_a_loop() -> None:
    assert [restart_delay(n, orderly=True).total_seconds() for n in range(4)] == [0, 10, 20, 40]


def test_retries() -> None:
    assert [retry_seconds(n) for n in (0, 1, 2, 3, 9)] == [1, 1, 2, 4, 60]
    assert retry_seconds(10**6) == 60
