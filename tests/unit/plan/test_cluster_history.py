"""What a machine remembers of its past, and whether it is started again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from berth.api.order import Fate, FateReason, GuestState
from berth.plan.history import StartLater, StartNow, StayEnded, StayOff, Verdict, advance, verdict
from berth.plan.world import Object, World, parse_time
from tests.unit.plan.cluster_worlds import agent, ago, machine, over, pod, report, silent, up, world

RAN: Object = {"phase": "Running", "epoch": 1, "node": "node-1", "startedAt": "2026-03-01T11:58:00Z"}


def ended(reason: FateReason, code: int, status: Object = RAN, **spec: object) -> World:
    fate = Fate(reason=reason, exit_code=code, message="as told", at="2026-03-01T11:59:55Z")
    said = report(GuestState.ENDED, fate=fate, started_at="2026-03-01T11:58:00Z")
    return world(machine=machine(status=status, **spec), pod=over(code), agent=agent(said))


def judged(seen: World) -> Verdict:
    return verdict(seen, advance(seen))


@pytest.mark.parametrize(
    ("policy", "reason", "code", "wanted"),
    [
        ("Always", FateReason.GUEST_POWEROFF, 0, StartNow),
        ("Always", FateReason.GUEST_PANICKED, 1, StartLater),
        ("OnFailure", FateReason.GUEST_POWEROFF, 0, StayEnded),
        ("OnFailure", FateReason.QEMU_CRASHED, 1, StartLater),
        ("OnFailure", FateReason.SHUT_DOWN, 0, StartNow),  # its berth was evicted: not the guest's own will
        ("Never", FateReason.GUEST_POWEROFF, 0, StayEnded),
        ("Never", FateReason.KILLED, 1, StayEnded),
    ],
)
def test_policies(policy: str, reason: FateReason, code: int, wanted: type[Verdict]) -> None:
    assert isinstance(judged(ended(reason, code, restart=policy)), wanted)


def test_power_off_has_the_last_word() -> None:
    assert judged(ended(FateReason.GUEST_PANICKED, 1, power="Off")) == StayOff()
    assert judged(world(machine=machine(metadata={"deletionTimestamp": "2026-03-01T11:59:00Z"}))) == StayOff()


def test_the_agents_word_goes_before_the_exit_code() -> None:
    past = advance(ended(FateReason.FORCED_OFF, 0))
    assert past.last_exit is not None
    assert (past.last_exit.reason, past.last_exit.message, past.last_exit.epoch) == ("ForcedOff", "as told", 1)


@pytest.mark.parametrize(("deleted", "says"), [(None, "the pod's sandbox died"), (ago(2), "as told")])
def test_a_shutdown_that_only_the_node_asked_for_is_told_as_such(deleted: datetime | None, says: str) -> None:
    past = advance(replace(ended(FateReason.SHUT_DOWN, 0), pod=over(0, deleted=deleted)))
    assert past.last_exit is not None
    assert says in past.last_exit.message


@pytest.mark.parametrize(
    ("seen", "reason", "code"),
    [
        (world(machine=machine(status=RAN), pod=over(0)), "GuestPoweroff", 0),
        (world(machine=machine(status=RAN), pod=over(0, deleted=ago(2))), "ShutDown", 0),
        (world(machine=machine(status=RAN), pod=over(137)), "Unknown", 1),
        (world(machine=machine(status=RAN), pod=over(1, reason="Evicted", message="low on memory")), "Evicted", 1),
        (world(machine=machine(status={**RAN, "startedAt": None}), pod=over(128)), "BerthFailed", 1),
        (world(machine=machine(status=RAN)), "BerthLost", 1),
        (world(machine=machine(status=RAN), departed=up(), agent=silent(9)), "BerthLost", 1),
    ],
)
def test_without_a_word_the_berth_tells_how_it_ended(seen: World, reason: str, code: int) -> None:
    past = advance(seen)
    assert past.last_exit is not None
    assert (past.last_exit.reason, past.last_exit.exit_code) == (reason, code)


def test_the_same_end_is_described_the_same_again_and_again() -> None:
    for seen in (world(machine=machine(status=RAN, power="Off"), pod=over(1, ended=None)), ended(FateReason.KILLED, 1)):
        assert advance(seen) == advance(replace(seen, now=ago(-30)))


def test_ten_quiet_minutes_count_anew() -> None:
    busy = {**RAN, "restarts": 5}
    assert advance(ended(FateReason.KILLED, 1, busy)).restarts == 6
    quiet = world(machine=machine(status={**busy, "startedAt": "2026-03-01T11:00:00Z"}), pod=over(1))
    assert advance(quiet).restarts == 1
    calm = world(machine=machine(status={**busy, "startedAt": "2026-03-01T11:49:59Z"}), pod=up(), agent=silent(1))
    assert advance(calm).restarts == 0


def test_a_new_start_forgets_when_and_why_but_not_how_the_last_one_ended() -> None:
    old = {**RAN, "restarts": 2, "nextStartAt": "2026-03-01T11:59:00Z", "ending": 1,
           "lastExit": {"reason": "Killed", "exitCode": 1, "at": "2026-03-01T11:58:30Z", "epoch": 1}}  # fmt: skip
    past = advance(world(machine=machine(status=old), pod=pod(epoch=2)))
    assert (past.epoch, past.started_at, past.next_start_at, past.ending, past.restarts) == (2, None, None, None, 2)
    assert past.last_exit is not None
    assert not past.ended


def test_an_end_that_was_asked_for_is_no_matter_of_policy_even_if_the_wish_has_changed() -> None:
    off = world(machine=machine(status=RAN, power="Off", restart="Never"), pod=up(), agent=agent(report()))
    assert advance(off).ending == 1
    on_again = {**RAN, "ending": 1}
    seen = ended(FateReason.SHUT_DOWN, 0, on_again, restart="Never")
    past = advance(seen)
    assert past.last_exit is not None
    assert past.last_exit.epoch == 0
    assert isinstance(verdict(seen, past), StartNow)


def test_a_start_whose_guest_never_ran_may_vanish() -> None:
    fresh = world(machine=machine(status={"phase": "Starting", "epoch": 1}, restart="Never"))
    assert advance(fresh).last_exit is None
    assert isinstance(judged(fresh), StartNow)


def test_a_restart_that_is_asked_for_ends_a_back_off() -> None:
    stored = {**RAN, "phase": "Failed", "restarts": 3, "nextStartAt": "2026-03-01T12:05:00Z",
              "lastExit": {"reason": "Killed", "exitCode": 1, "at": "2026-03-01T11:59:00Z", "epoch": 1}}  # fmt: skip
    waits = world(machine=machine(status=stored))
    assert judged(waits) == StartLater(parse_time("2026-03-01T12:05:00Z"))  # type: ignore[arg-type]
    asked = machine(status=stored, metadata={"annotations": {"berth.dev/restartedAt": "2026-03-01T11:59:30Z"}})
    assert isinstance(judged(replace(waits, machine=asked)), StartNow)
