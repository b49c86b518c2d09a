"""Two statuses become Events: new problems and changes of phase, nothing twice."""

from __future__ import annotations

from dataclasses import replace

from berth.plan.tell import tells
from tests.unit.plan.cluster_worlds import agent, bound, machine, pod, report, running, silent, told, up, world


def test_a_start_and_a_stop() -> None:
    waiting, runs = told(world(pod=bound(), agent=agent())), told(world(pod=up(), agent=agent(report())))
    (tell,) = tells(waiting, runs)
    assert (tell.reason, tell.warning) == ("Running", False)
    assert "node-1" in tell.message
    assert tells(runs, runs) == []
    (tell,) = tells(runs, told(world(machine=machine(power="Off"))))
    assert tell.reason == "Stopped"


def test_a_problem_is_told_once_with_its_next_step() -> None:
    said = ("Unschedulable", "0/1 nodes are available: 1 Insufficient memory.")
    fresh, wrong = told(world(pod=pod())), told(world(pod=pod(scheduling=said)))
    (tell,) = tells(fresh, wrong)
    assert (tell.reason, tell.warning) == ("InsufficientMemory", True)
    assert "Next:" in tell.message
    assert tells(wrong, wrong) == []


def test_a_machine_that_may_be_lost_is_a_warning() -> None:
    seen = running()
    lost = told(replace(seen, agent=silent(60)))
    assert [(t.reason, t.warning) for t in tells(seen.machine.status, lost)] == [
        ("AgentDown", True),
        ("AgentDown", True),
        ("Unknown", True),
    ]
