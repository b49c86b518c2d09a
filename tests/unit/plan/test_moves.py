"""Whose turn it is among many moves, what a pod that is moved to looks like, and which of a machine's pods is which."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from berth.api.devices import Disk
from berth.api.duration import to_ms
from berth.api.handover import MigrationReport, MigrationState
from berth.api.order import GuestState, Report
from berth.plan import berths, doors, incoming, migratable, moves
from berth.plan.berthpod import berth_pod
from berth.plan.berths import Owner
from berth.plan.moves import Limits, Move
from berth.plan.world import Agent, Cluster, Object, Pod, World, read_pod, read_spec
from tests.unit.plan.cluster_worlds import machine

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def move(name: str = "m", phase: str = "Pending", source: str = "", to: str = "", age: int = 0, **spec: Any) -> Move:
    status: Object = {"phase": phase}
    status |= {"source": {"node": source}} if source else {}
    status |= {"target": {"node": to}} if to else {}
    created = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    meta = {"namespace": "default", "name": name, "uid": f"uid-{name}", "creationTimestamp": created}
    return moves.read({"metadata": meta, "spec": {"vm": "web", **spec}, "status": status})


def pod(name: str = "berth-web", epoch: int = 1, migration: str = "", **more: Any) -> Pod:
    return Pod("default", name, f"uid-{name}", "u", "Running", epoch=epoch, migration=migration, **more)


# turns


def test_the_cluster_takes_so_many_at_a_time() -> None:
    others = [move(f"o{n}", "Running", f"n{n}", f"t{n}") for n in range(5)]
    assert "5 machines move now, and 5 may" in moves.turn(move(), "a", others, Limits())
    assert moves.turn(move(), "a", others[:4], Limits()) == ""


def test_a_node_takes_so_many_at_a_time_from_it_and_to_it() -> None:
    others = [move("o1", "Running", "a", "b"), move("o2", "Preparing", "c", "a")]
    assert "from or to node a" in moves.turn(move(), "a", others, Limits())
    assert moves.turn(move(), "b", others, Limits()) == ""


def test_what_is_finished_or_waits_takes_no_place() -> None:
    others = [move(f"o{n}", "Succeeded", "a", "b") for n in range(9)] + [move(f"w{n}", "Pending") for n in range(3)]
    assert moves.turn(move(age=60), "a", others, Limits()) == ""


@pytest.mark.parametrize(
    ("mine", "other", "first"),
    [
        ({}, {"priority": "Drain"}, False),
        ({"priority": "Drain"}, {"age": 100}, True),
        ({"priority": "Rebalance", "age": 100}, {}, False),
        ({"age": 10}, {"age": 20}, False),
        ({"age": 20}, {"age": 10}, True),
    ],
)
def test_priority_goes_before_age(mine: Any, other: Any, first: bool) -> None:
    limits = Limits(per_node=5, per_cluster=1)
    assert (moves.turn(move("mine", **mine), "a", [move("other", **other)], limits) == "") is first


def test_a_migration_that_cannot_be_read_keeps_its_machine_and_its_problem() -> None:
    found = move(deadline="0s")
    assert found.spec is None
    assert found.of == ("default", "web")
    assert "spec.deadline" in found.problem


# pods


def owner(berth: str | None = "berth-web", epoch: int = 1) -> Owner:
    return Owner("u", "berth-web", berth, epoch)


def test_the_status_says_which_pod_is_the_machines() -> None:
    first, second, third = pod(), pod("b2", 2, "m1"), pod("b3", 3, "m2")
    before = berths.sort(owner(), [second, first])
    assert (before.active, before.incoming, before.former) == (first, second, ())
    after = berths.sort(owner("b2", 2), [third, first, second])
    assert (after.active, after.incoming, after.former) == (second, third, (first,))


def test_a_start_of_which_the_status_does_not_tell_yet() -> None:
    fresh = pod(epoch=4)
    assert berths.sort(owner(None, 3), [fresh]).active == fresh
    assert berths.sort(owner("berth-web", 3), [fresh]).active == fresh
    assert berths.sort(owner(None, 0), [pod(epoch=0)]).active is not None  # its annotation was spoiled


def test_what_a_controller_that_was_behind_made_is_never_the_machines() -> None:
    here, stray = pod("b2", 2, "m1"), pod("berth-web", 2)
    found = berths.sort(owner("b2", 2), [stray, here])
    assert (found.active, found.former) == (here, (stray,))
    world = World(NOW, replace(machine(), uid="u"), Cluster(), pod=here, former=(stray,))
    assert "behind" in doors.why_close(world, stray)


def test_a_door_that_has_the_locks_name_is_not_taken_for_a_start() -> None:
    door = pod("berth-web", 1)
    assert berths.sort(owner(None, 2), [door]).active is None
    assert berths.sort(owner(None, 2), [door]).former == (door,)


def test_somebody_elses_pod_is_in_the_way_and_no_more() -> None:
    other = replace(pod(), owner_uid="x")
    found = berths.sort(owner(None, 0), [other])
    assert (found.active, found.former) == (other, ())


def test_names_of_incoming_pods_fit_and_differ() -> None:
    names = {berths.incoming_name("w" * 253, uid, epoch) for uid in "ab" for epoch in (1, 2, 11)}
    assert len(names) == 6
    assert all(len(name) <= 63 for name in names)


def test_doors_have_numbers_from_1_to_255() -> None:
    assert {doors.number(epoch) for epoch in range(1, 1000)} == set(range(1, 256))


# the incoming pod


def manifest(placement: Object | None = None, target: Object | None = None, **world: Any) -> Object:
    made = berth_pod(machine(placement=placement or {}), 3, Cluster("i"))
    made["metadata"]["uid"] = "p"
    source = replace(read_pod(made), node="n1", restart_request="2026-01-01T00:00:00.123Z")
    changed = machine(placement=placement or {}, memory={"size": "7Gi"}, metadata={"labels": {"app": "shop"}})
    found = incoming.pod(
        World(NOW, changed, Cluster("i"), pod=source, **world),
        move(**({"target": target} if target else {})),
        source,
    )
    assert found is not None
    return found


def test_it_is_made_from_the_running_berth_and_never_lands_on_its_node() -> None:
    made = manifest()
    view = read_pod({**made, "metadata": {**made["metadata"], "uid": "x"}})
    assert (view.epoch, view.migration, view.came_from, view.gated) == (4, "uid-m", ("n1", 3), True)
    assert view.restart_request == "2026-01-01T00:00:00.123Z"
    assert "7Gi" not in view.machine
    assert made["metadata"]["labels"]["app"] == "shop"
    affinity = made["spec"]["affinity"]["nodeAffinity"]
    assert affinity == {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}]
        }
    }


def test_the_machines_own_affinity_holds_in_every_term() -> None:
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    given = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term, term]}},
        "podAntiAffinity": {"x": []},
    }
    made = manifest({"affinity": given, "nodeSelector": {"disk": "ssd"}}, {"nodeSelector": {"zone": "b"}})
    affinity = made["spec"]["affinity"]
    terms = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert all(t["matchExpressions"] == term["matchExpressions"] and len(t["matchFields"]) == 1 for t in terms)
    assert len(terms) == 2
    assert affinity["podAntiAffinity"] == {"x": []}
    assert {"disk": "ssd", "zone": "b"}.items() <= made["spec"]["nodeSelector"].items()
    assert "matchFields" not in term


def test_a_named_node_is_the_only_one_and_doors_are_rather_avoided() -> None:
    left = pod("old", 1, node="n0")
    made = manifest(target={"nodeName": "n2"}, former=(left,))
    affinity = made["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [(f["operator"], f["values"]) for f in term["matchFields"]] == [("NotIn", ["n1"]), ("In", ["n2"])]
    (rather,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert rather["preference"]["matchFields"] == [{"key": "metadata.name", "operator": "NotIn", "values": ["n0"]}]


# what can move


@pytest.mark.parametrize(
    ("disk", "reason"),
    [
        ({"empty": {}, "size": "1Gi"}, "CopiesDisks"),
        ({"container": {"image": "i"}}, "CopiesDisks"),
        ({"container": {"image": "i"}, "readOnly": True}, "Movable"),
        ({"pvc": {"claimName": "c"}}, "SharedClaims"),
    ],
)
def test_disks_decide(disk: Object, reason: str) -> None:
    Disk.model_validate({"name": "x", **disk})
    spec, problem = read_spec({"boot": {"kernel": {"image": "k"}}, "disks": [{"name": "x", **disk}]})
    assert spec is not None, problem
    assert migratable.of_spec(spec).reason == reason
    assert migratable.answer(spec, Cluster(nodes=("a",))).able is False
    assert migratable.answer(spec, Cluster()).reason == reason


def test_it_is_told_which_disks_are_copied_and_how_much_that_is_at_most() -> None:
    disks = [
        {"name": "root", "container": {"image": "i"}},
        {"name": "data", "empty": {}, "size": "1Gi"},
        {"name": "more", "container": {"image": "i"}, "size": "2Gi"},
        {"name": "cd", "container": {"image": "i"}, "readOnly": True},
        {"name": "kept", "pvc": {"claimName": "c"}},
    ]
    spec, problem = read_spec({"disks": disks})
    assert spec is not None, problem
    found = migratable.of_spec(spec)
    assert (found.able, found.reason) == (True, "CopiesDisks")
    assert found.message == (
        "Copied to the other node while it runs: root (as large as its image), data (1Gi), more (2Gi);"
        " at most 3Gi and the image. If several nodes can mount its claims at a time (ReadWriteMany, or read-only): c."
    )
    assert [disk.name for disk in migratable.copied(spec)] == ["root", "data", "more"]


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({"claim": {}}, "SavedStateClaim"),
        ({"claim": {"accessMode": "ReadWriteMany"}}, "Movable"),
        ({"pvc": {"claimName": "states"}}, "SharedClaims"),
    ],
)
def test_the_volume_for_saved_states_decides_too(where: Object, reason: str) -> None:
    spec, problem = read_spec({"boot": {"kernel": {"image": "k"}}, "savedState": where})
    assert spec is not None, problem
    assert migratable.of_spec(spec).reason == reason


@pytest.mark.parametrize(("text", "ms"), [("300ms", 300), ("90s", 90_000), ("10m", 600_000), ("24h", 86_400_000)])
def test_lengths_of_time(text: str, ms: int) -> None:
    assert to_ms(text) == ms


@pytest.mark.parametrize("text", ["", "10", "0s", "-1s", "1.5h", "1h30m", "10 m"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="not a length of time"):
        to_ms(text)


@pytest.mark.parametrize(
    ("state", "pause", "power", "arrived"),
    [
        (GuestState.STARTING, None, "On", False),
        (GuestState.PAUSED, None, "On", False),  # it is about to be let run
        (GuestState.PAUSED, 80, "On", True),  # it ran, and was stopped since, by a full disk
        (GuestState.PAUSED, None, "Paused", True),
        (GuestState.RUNNING, None, "On", True),
        (GuestState.ENDED, None, "On", True),
    ],
)
def test_a_guest_has_arrived_when_it_runs_or_is_to_stand_still(
    state: GuestState, pause: int | None, power: str, arrived: bool
) -> None:
    here = pod("b2", 2, "m1", node="n2")
    said = MigrationReport(uid="m1", epoch=2, state=MigrationState.ARRIVED, pause_ms=pause)
    told = Report(uid="u", namespace="default", name="web", epoch=2, pod_uid=here.uid, state=state, migration=said)
    agent = Agent("n2", exists=True, connected=True, report=told, present=True)
    vm = replace(machine(power=power), uid="u")
    world = World(NOW, vm, Cluster(), pod=here, agent=agent, agents={"n2": agent})
    assert berths.arrived(world, here) is arrived
    assert berths.arriving(world) is not arrived
