"""How memory is sent, from what is known beforehand; and how long the same rounds say that it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from berth.domain.observed import Pace, Survey
from berth.plan import method
from berth.plan.method import Facts, Kind, Method

MIB = 1 << 20
CALM = Facts(memory=1024 * MIB, rate=1000 * MIB, dirty=20 * MIB)
BUSY = replace(CALM, dirty=900 * MIB)
SLOW = Facts(memory=4096 * MIB, rate=100 * MIB, dirty=10 * MIB, free_cpus=8)

TABLE = [
    # what is known, kind, connections, first throttle, pause allowed at first, a piece of the reason
    (CALM, Kind.PRECOPY, 0, 20, 100, "20 MiB/s of its memory change, 2 % of what the way carries (1000 MiB/s)"),
    (replace(CALM, dirty=0), Kind.PRECOPY, 0, 20, 100, "less than 1 MiB/s of its memory change"),
    (replace(CALM, dirty=499 * MIB), Kind.PRECOPY, 0, 20, 100, "not slowed down"),
    (replace(CALM, dirty=500 * MIB), Kind.CONVERGE, 0, 20, 300, "50 % of what the way carries"),
    (BUSY, Kind.CONVERGE, 0, 22, 300, "slowed down by 22 %, then 10 % more"),
    (replace(BUSY, busy=0.4), Kind.CONVERGE, 0, 22, 300, "slowed down by 22 %"),
    (replace(CALM, dirty=2000 * MIB), Kind.CONVERGE, 0, 65, 300, "200 % of what the way carries"),
    (replace(CALM, dirty=99_000 * MIB), Kind.CONVERGE, 0, 90, 300, "slowed down by 90 %"),
    (replace(CALM, dirty=None), Kind.CONVERGE, 0, 20, 300, "how fast its memory changes is not known"),
    (replace(CALM, rate=None), Kind.CONVERGE, 0, 20, 300, "what the way carries is not known"),
    (replace(CALM, downtime_ms=50), Kind.PRECOPY, 0, 20, 50, ""),
    (SLOW, Kind.MULTIFD, 4, 20, 100, "8 CPUs here are free: 4 connections, compressed by zstd; 10 MiB/s"),
    (replace(SLOW, free_cpus=4), Kind.MULTIFD, 2, 20, 100, "2 connections"),
    (replace(SLOW, dirty=300 * MIB), Kind.MULTIFD, 4, 53, 300, ""),
    (replace(SLOW, dirty=None), Kind.MULTIFD, 4, 20, 300, ""),
    (replace(SLOW, free_cpus=3), Kind.PRECOPY, 0, 20, 100, ""),  # others need them
    (replace(SLOW, rate=200 * MIB), Kind.PRECOPY, 0, 20, 100, ""),  # fast enough as it is
    (replace(SLOW, memory=256 * MIB), Kind.PRECOPY, 0, 20, 100, ""),  # over before it would pay
]


@pytest.mark.parametrize(("known", "kind", "channels", "throttle", "pause", "why"), TABLE)
def test_the_choice(known: Facts, kind: Kind, channels: int, throttle: int, pause: int, why: str) -> None:
    chosen = method.choose(known)
    assert (chosen.kind, chosen.channels, chosen.throttle, chosen.downtime_ms) == (kind, channels, throttle, pause)
    assert why in chosen.why
    assert chosen.words.startswith(f"{kind.value}: ")


def test_facts_are_those_of_the_survey_under_the_migrations_cap() -> None:
    survey = Survey("m1", Pace(70, 5, 0.5, 20), link=1000, free_cpus=3)
    assert method.facts(survey, 100, None, 300) == Facts(70, 1000, 5, 3, 300, 0.5, 20)
    assert method.facts(replace(survey, pace=None), 100, None, 300) == Facts(100, 1000, None, 3, 300, 1.0)
    assert method.facts(survey, 100, 400, 300).rate == 400
    assert method.facts(survey, 100, 4000, 300).rate == 1000
    assert method.facts(replace(survey, link=None), 100, 400, 300).rate == 400
    assert method.facts(None, 100, None, 50) == Facts(100, None, None, 0, 50)


def test_a_calm_guests_estimate_is_its_memory_by_the_rate() -> None:
    foretold = method.estimate(replace(CALM, dirty=0))
    assert foretold is not None
    assert foretold.seconds == pytest.approx(1.024, abs=0.001)
    assert foretold.throttle == 0
    assert method.estimate(replace(CALM, rate=None)) is None


def test_what_changes_meanwhile_is_sent_again() -> None:
    """At a fifth of the rate: 1 + 1/5 + 1/25 … of the first round, until what is left fits into the pause."""
    foretold = method.estimate(Facts(1000 * MIB, 100 * MIB, 20 * MIB))
    assert foretold is not None
    assert foretold.seconds == pytest.approx(10 * 1.25, rel=0.01)
    assert foretold.throttle == 0


@pytest.mark.parametrize("share", [0.6, 0.9, 1.0, 2.0, 8.0])
def test_a_busy_guest_is_slowed_down_until_it_ends(share: float) -> None:
    rate = 100 * MIB
    foretold = method.estimate(Facts(1000 * MIB, rate, int(share * rate)))
    assert foretold is not None
    assert 10 < foretold.seconds < 400
    assert foretold.throttle >= 20


def test_a_guest_that_is_slowed_down_already_takes_less() -> None:
    known = Facts(1000 * MIB, 100 * MIB, 150 * MIB)
    chosen = method.choose(known)
    fresh, slowed = method.estimate(known, chosen), method.estimate(known, chosen, throttle=80)
    assert fresh is not None
    assert slowed is not None
    assert slowed.seconds < fresh.seconds


def test_what_a_guest_does_not_use_it_does_not_miss() -> None:
    assert [method.slowed(1.0, at) for at in (0, 20, 99)] == pytest.approx([1.0, 0.8, 0.01])
    assert [method.slowed(0.5, at) for at in (0, 50, 75)] == pytest.approx([1.0, 1.0, 0.5])
    assert method.slowed(0.0, 90) == 1.0


def test_what_is_changed_again_and_again_is_sent_once_a_round() -> None:
    """300 MiB at 100 MiB/s in a first round of ten seconds, but never more than 100 MiB of pages."""
    anywhere = Facts(1000 * MIB, 100 * MIB, 30 * MIB)
    wide, narrow = method.estimate(anywhere), method.estimate(replace(anywhere, working=100 * MIB))
    assert wide is not None
    assert narrow is not None
    assert wide.seconds == pytest.approx(10 / 0.7, rel=0.02)
    assert narrow.seconds == pytest.approx(10 + 0.95 + 0.25 + 0.07, rel=0.02)


def test_compressed_it_is_expected_to_be_faster() -> None:
    plain, packed = method.estimate(replace(SLOW, free_cpus=0)), method.estimate(SLOW)
    assert plain is not None
    assert packed is not None
    assert packed.seconds < plain.seconds / 1.5


def test_a_move_that_does_not_end_may_pause_for_longer_once() -> None:
    now = Method(Kind.PRECOPY, "because", 100)
    assert method.escalate(now, method.PATIENT_ROUNDS, 300) is None
    more = method.escalate(now, method.PATIENT_ROUNDS + 1, 300)
    assert more is not None
    assert more.downtime_ms == 300
    assert "may stand still for 300 ms now" in more.words
    assert method.escalate(more, 50, 300) is None
    assert method.escalate(now, 50, 80) is None
