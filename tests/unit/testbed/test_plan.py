"""(desired units, facts) → steps, for every state a testbed can be found in."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import settings, topology
from testbed.cluster import desired, plan, units
from testbed.cluster.current import Facts
from testbed.cluster.processes import Running

SHAPE = topology.parse((settings.REPOSITORY / "kind-config.yaml").read_text())
TOOLS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"),
    *("containerd", "provisioner", "dns", "metrics-server"),
)
ALL_NODES = frozenset(node.name for node in SHAPE.nodes)


def wanted() -> tuple[units.Unit, ...]:
    where = settings.Settings(Path("/s"), Path("/d"), Path("/c"))
    binaries = {tool: Path(f"/c/bin/x/{tool}") for tool in TOOLS}
    parts = [f"{part}@{node.name}" for node in SHAPE.nodes for part in units.NODE_COMPONENTS]
    return desired.units(units.Inputs(where, SHAPE, binaries, dict.fromkeys([*parts, "dns", "policy"], "text")))


def facts(*without: str, nodes: frozenset[str] = ALL_NODES, **digests: str) -> Facts:
    running = {u.name: Running(7, u.digest) for u in wanted() if u.name not in without}
    running |= {name.replace("_", "-"): Running(8, digest) for name, digest in digests.items()}
    return Facts(running, nodes, ALL_NODES)


NOTHING = Facts({}, frozenset(), frozenset())


def steps(found: Facts) -> tuple[plan.Step, ...]:
    return plan.plan(wanted(), SHAPE.nodes, found)


def names(found: Facts) -> list[str]:
    """What changes something: waiting for what runs already does not."""
    return [step.name for step in steps(found) if not isinstance(step, plan.Await)]


def test_the_names_of_units_are_known_without_making_them() -> None:
    assert {unit.name for unit in wanted()} == set(units.names(SHAPE))


def test_a_healthy_cluster_only_repeats_what_is_harmless() -> None:
    assert names(facts()) == ["host", "objects"]


def test_from_nothing_everything_is_made_and_started() -> None:
    found = names(NOTHING)
    assert set(found) >= {"host", "objects", "node@berth-worker", "node@berth-worker2", *units.names(SHAPE)}


def test_a_dead_process_is_started_and_nothing_else_is_touched() -> None:
    assert names(facts("kube-scheduler")) == ["host", "kube-scheduler", "objects"]


def test_a_node_without_the_pause_image_gets_it_whoever_started_its_containerd() -> None:
    found = facts()
    assert names(Facts(found.running, found.nodes, frozenset({"berth-worker2"}))) == [
        "host",
        "pause@berth-worker",
        "objects",
    ]


def test_what_runs_already_is_waited_for_before_others_start() -> None:
    """An earlier run may have been killed between starting the API server and its being ready."""
    found = {step.name: step for step in steps(facts("kube-controller-manager"))}
    assert isinstance(found["kube-apiserver"], plan.Await)
    assert found["kube-controller-manager"].after == ("host", "kube-apiserver")


def test_a_changed_configuration_restarts_its_process() -> None:
    found = steps(facts(kube_apiserver="old"))
    assert names(facts(kube_apiserver="old")) == ["stop kube-apiserver", "host", "kube-apiserver", "objects"]
    assert found[0].reason == "its configuration changed"


def test_a_process_nobody_wants_is_stopped() -> None:
    assert names(facts(leftover="x"))[0] == "stop leftover"


def test_a_broken_node_loses_its_processes_before_it_is_made_anew() -> None:
    found = steps(facts(nodes=frozenset({"berth-worker"})))
    stopped = {step.unit for step in found if isinstance(step, plan.Stop)}
    assert stopped == {f"{part}@berth-worker2" for part in units.NODE_COMPONENTS}
    host = next(step for step in found if isinstance(step, plan.MakeHost))
    assert set(host.after) == {f"stop {name}" for name in stopped}
    assert not any(isinstance(step, plan.Start) and step.unit.node == "berth-worker" for step in found)


@pytest.mark.parametrize("found", [NOTHING, facts("kubelet@berth-worker"), facts(etcd="old")])
def test_every_step_waits_only_for_steps_of_its_own_plan(found: Facts) -> None:
    made = steps(found)
    known = {step.name for step in made}
    assert all(set(step.after) <= known for step in made)


def test_kubelet_waits_for_its_containerd_the_pause_image_and_the_api_server() -> None:
    kubelet = next(s for s in steps(NOTHING) if s.name == "kubelet@berth-worker")
    wanted = {"host", "node@berth-worker", "kube-apiserver", "containerd@berth-worker", "pause@berth-worker"}
    assert set(kubelet.after) == wanted


def test_a_digest_follows_argv_and_configuration() -> None:
    one = units.Unit("x", ("x",), units.Http("u"), configuration="a")
    assert one.digest != units.Unit("x", ("x",), units.Http("u"), configuration="b").digest
    assert one.digest != units.Unit("x", ("x", "-v"), units.Http("u"), configuration="a").digest
    assert one.digest == units.Unit("x", ("x",), units.Http("other"), configuration="a").digest
