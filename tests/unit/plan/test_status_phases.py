"""The lifecycle's table is total, and the picture in the docs is made from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from berth.api.order import GuestState
from berth.api.virtualmachine import Phase
from berth.plan.history import StartLater, StartNow, StayEnded, StayOff
from berth.plan.phases import MOVES, TABLE, Life, Place, diagram, life, phase, place, resting
from berth.plan.world import World
from tests.unit.plan.cluster_worlds import NOW, agent, ago, bound, over, pod, report, running, silent, told, up, world

START = StartNow("Start", "")


def test_every_place_with_a_living_berth_has_every_life() -> None:
    assert set(TABLE) == set(Place) - {Place.NONE, Place.OVER}
    assert all(set(row) == set(Life) for row in TABLE.values())


@pytest.mark.parametrize(
    ("verdict", "wanted"),
    [
        (StayOff(), Phase.STOPPED),
        (StayEnded(failed=False), Phase.STOPPED),
        (StayEnded(failed=True), Phase.FAILED),
        (StartLater(NOW), Phase.FAILED),
        (START, Phase.PENDING),
    ],
)
def test_at_rest(verdict: StayOff | StayEnded | StartLater | StartNow, wanted: Phase) -> None:
    assert resting(verdict) is wanted
    assert phase(world(), verdict) is wanted


SEEN: list[tuple[World, Place, Life, Phase]] = [
    (world(pod=pod()), Place.WAITING, Life.UNSEEN, Phase.PENDING),
    (world(pod=bound(), agent=agent()), Place.BOUND, Life.UNSEEN, Phase.STARTING),
    (world(pod=up(), agent=agent(report(GuestState.PREPARING))), Place.UP, Life.COMING, Phase.STARTING),
    (world(pod=up(), agent=agent(report())), Place.UP, Life.RUNNING, Phase.RUNNING),
    (world(pod=up(), agent=agent(report(GuestState.PAUSED))), Place.UP, Life.PAUSED, Phase.PAUSED),
    (world(pod=up(deleted=ago(-9)), agent=agent(report())), Place.LEAVING, Life.RUNNING, Phase.STOPPING),
    (world(pod=up(), agent=agent(report(GuestState.FAILED))), Place.UP, Life.FAILED, Phase.STARTING),
    (world(pod=up(), agent=silent(10, report())), Place.UP, Life.RUNNING, Phase.RUNNING),
    (world(pod=up(), agent=silent(40, report())), Place.UP, Life.SILENT, Phase.UNKNOWN),
    (world(pod=up(), agent=agent(report(pod_uid="older"))), Place.UP, Life.UNSEEN, Phase.STARTING),
    (world(pod=over(), agent=agent(report(GuestState.ENDED))), Place.OVER, Life.ENDED, Phase.PENDING),
]


@pytest.mark.parametrize(("seen", "where", "how", "wanted"), SEEN)
def test_observed(seen: World, where: Place, how: Life, wanted: Phase) -> None:
    assert place(seen.berth) is where
    assert life(seen) is how
    assert phase(seen, START) is wanted


def test_a_machine_that_is_switched_off_is_stopped_once_its_berth_is_gone() -> None:
    assert phase(world(pod=over()), StayOff()) is Phase.STOPPING


def test_a_new_controller_trusts_the_status_until_the_agent_speaks() -> None:
    seen = replace(running(), agent=silent(2))
    assert told(seen).phase is Phase.RUNNING
    assert told(replace(seen, agent=silent(31))).phase is Phase.UNKNOWN


def test_the_picture_shows_every_phase_and_every_move() -> None:
    picture = diagram()
    assert picture.startswith("stateDiagram-v2\n")
    for old, new, _ in MOVES:
        assert f"    {old} --> {new}: " in picture
    assert {p for old, new, _ in MOVES for p in (old, new)} == set(Phase)
    assert len({(old, new) for old, new, _ in MOVES}) == len(MOVES)
