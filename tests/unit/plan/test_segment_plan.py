"""One Network: its number, its status, its finalizer, and who tells whom about whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from berth.api.network import NetworkStatus
from berth.plan import segment_plan
from berth.plan.segment import Segment, read
from berth.plan.segment_plan import FINALIZER, Neighbourhood, Place, SendMembers, SetFinalizers, WriteStatus
from tests.unit.plan.cluster_worlds import NOW, UID
from tests.unit.plan.segments import lease, network

KEPT = {"finalizers": [FINALIZER]}
HERE, THERE = Place(UID, "a", "192.0.2.1"), Place("uid-2", "b", "192.0.2.2")


def settled(segment: Segment, **seen: Any) -> Segment:
    """The Network with the status stored that its plan comes to."""
    return replace(segment, status=segment_plan.status(segment, seen.get("others", ()), NOW))


def around(**changes: Any) -> Neighbourhood:
    return Neighbourhood(NOW, **changes)


def names(segment: Segment, seen: Neighbourhood) -> list[str]:
    return [type(step).__name__ for step in segment_plan.plan(segment, seen)]


def told(segment: Segment, **seen: Any) -> NetworkStatus:
    return segment_plan.status(segment, seen.get("others", ()), NOW)


def test_a_new_network_is_kept_then_told_about_and_then_left_alone() -> None:
    fresh = read({"metadata": {"namespace": "d", "name": "n", "uid": "u"}, "spec": {"overlay": {}}})
    assert names(fresh, around()) == ["SetFinalizers"]
    kept = replace(fresh, finalizers=(FINALIZER,))
    (write,) = segment_plan.plan(kept, around())
    assert isinstance(write, WriteStatus)
    assert write.status.vni == segment_plan.FIRST_VNI
    assert [c.status for c in write.status.conditions] == ["True"]
    done = replace(kept, status=write.status, vni=write.status.vni)
    assert segment_plan.plan(done, around()) == []


def test_numbers_are_never_given_twice() -> None:
    first = network(name="a", metadata={"uid": "1"})
    second = replace(network(name="b", metadata={"uid": "2"}), vni=None, status=None)
    assert told(second, others=(first,)).vni == 4097
    wants = replace(second, spec=type(second.spec).model_validate({"overlay": {"vni": 4096}}))  # type: ignore[union-attr]
    refused = told(wants, others=(first,))
    assert refused.vni is None
    assert refused.conditions[0].reason == "VniTaken"
    assert "4096" in refused.message


def test_a_deleted_network_waits_for_its_machines_and_names_them() -> None:
    gone = {**KEPT, "deletionTimestamp": "2026-03-01T11:00:00Z"}
    used = network(lease(1), metadata=gone)
    (write,) = segment_plan.plan(used, around())
    assert isinstance(write, WriteStatus)
    assert write.status.conditions[0].reason == "InUse"
    assert "default/web" in write.status.message
    (free,) = segment_plan.plan(network(metadata=gone), around())
    assert free == SetFinalizers((), "no machine uses it")


def test_an_invalid_network_says_so_and_loses_no_lease() -> None:
    bad = network(lease(1), spec={"ipv4": {"range": "10.9.0.0/33"}}, metadata=KEPT)
    status = told(bad)
    assert (status.conditions[0].reason, len(status.leases)) == ("InvalidSpec", 1)
    assert "spec.ipv4.range" in status.message


def test_leases_that_this_version_cannot_read_do_not_hide_the_others() -> None:
    status = {"leases": [{"machine": 7}, {**lease(1).model_dump(), "colour": "red"}], "vni": "x"}
    found = read({"metadata": {"namespace": "d", "name": "n", "uid": "u"}, "spec": {"overlay": {}}, "status": status})
    assert [held.addresses for held in found.leases] == [["10.9.0.1"]]


def test_every_node_of_the_segment_hears_of_all_members_once() -> None:
    here = settled(network(lease(1), lease(2, uid="uid-2"), metadata=KEPT))
    seen = around(places=(HERE, THERE), reachable=frozenset("ab"))
    steps = segment_plan.plan(here, seen)
    assert [(s.node, [m.node_address for m in s.members]) for s in steps if isinstance(s, SendMembers)] == [
        ("a", ["192.0.2.1", "192.0.2.2"]), ("b", ["192.0.2.1", "192.0.2.2"]),
    ]  # fmt: skip
    members = steps[0].members  # type: ignore[union-attr]
    assert segment_plan.plan(here, replace(seen, sent={"a": members, "b": members})) == []


def test_a_node_that_was_left_hears_that_and_a_silent_one_later() -> None:
    here = settled(network(lease(1), metadata=KEPT))
    old = segment_plan.plan(here, around(places=(HERE,), reachable=frozenset("a")))[0].members  # type: ignore[union-attr]
    moved = replace(HERE, node="b", address="192.0.2.2")
    seen = around(places=(moved,), sent={"a": old}, reachable=frozenset("ab"))
    assert [(s.node, len(s.members)) for s in segment_plan.plan(here, seen)] == [("a", 0), ("b", 1)]  # type: ignore[union-attr]
    silent = replace(seen, reachable=frozenset("b"))
    assert [s.node for s in segment_plan.plan(here, silent)] == ["b"]  # type: ignore[union-attr]


def test_the_lease_of_a_machine_that_is_no_more_is_freed() -> None:
    here = settled(network(lease(1), lease(2, uid="uid-2"), metadata=KEPT))
    (write,) = segment_plan.plan(here, around(orphans=frozenset({"uid-2"})))
    assert isinstance(write, WriteStatus)
    assert [held.uid for held in write.status.leases] == [UID]


@pytest.mark.parametrize("spec", [{"bridge": {"name": "br0"}}, {"vlan": {"device": "eth1", "id": 7}}])
def test_only_overlays_need_members(spec: dict[str, Any]) -> None:
    here = network(lease(1), metadata=KEPT)
    here = replace(here, spec=type(here.spec).model_validate(spec), vni=None)  # type: ignore[union-attr]
    assert names(settled(here), around(places=(HERE,), reachable=frozenset("a"))) == []


def test_free_and_used_are_counted() -> None:
    status = told(network(lease(1), lease(2, uid="b"), metadata=KEPT))
    assert (status.used, status.available) == (2, 252)
    assert status.conditions[0].message == status.message == ""
