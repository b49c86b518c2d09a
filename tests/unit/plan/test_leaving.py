"""Who would go where when a node is emptied."""

from __future__ import annotations

from typing import Any

import pytest

from berth.api.quantity import amount
from berth.plan import leaving
from berth.plan.method import SETUP_SECONDS

Json = dict[str, Any]
ABLE: Json = {"type": "Migratable", "status": "True", "message": "all is there"}


def vm(name: str, *, memory: str = "1Gi", able: bool = True, phase: str = "Running", **spec: Any) -> Json:
    local = {"type": "Migratable", "status": "False", "message": "Disk data is a file on the node."}
    return {
        "metadata": {"namespace": "lab", "name": name, "uid": name},
        "spec": {"memory": {"size": memory}, **spec},
        "status": {"node": "a", "phase": phase, "conditions": [ABLE if able else local]},
    }


def pod(owner: str, node: str, cpu: str = "100m", memory: str = "1Gi", phase: str = "Running") -> Json:
    asked = {"resources": {"requests": {"cpu": cpu, "memory": memory}}}
    return {
        "metadata": {"labels": {leaving.VM_UID_LABEL: owner}},
        "spec": {"nodeName": node, "containers": [asked]},
        "status": {"phase": phase},
    }


def node(name: str, memory: str = "4Gi", cpu: str = "2", **spec: Any) -> Json:
    gives = {"allocatable": {"cpu": cpu, "memory": memory}}
    return {"metadata": {"name": name, "labels": {"disk": name}}, "spec": spec, "status": gives}


MOVED: Json = {"status": {"phase": "Succeeded", "bytesPerSecond": 512 * 2**20}}


def told(*machines: Json, nodes: list[Json], pods: list[Json], moves: tuple[Json, ...] = (MOVED,)) -> dict[str, Any]:
    rows = leaving.forecast("a", machines, [node("a"), *nodes], pods, moves)
    return {row.name: row for row in rows}


def test_the_largest_finds_its_place_first_and_room_is_given_once() -> None:
    machines = [vm("small"), vm("large", memory="3Gi"), vm("second")]
    pods = [pod("small", "a"), pod("large", "a", memory="3Gi"), pod("second", "a")]
    rows = told(*machines, nodes=[node("b", "3Gi"), node("c", "1Gi")], pods=pods)
    assert (rows["large"].to, rows["large"].seconds) == ("b", SETUP_SECONDS + 6.0)
    assert sorted((rows["small"].does, rows["second"].does)) == ["Move", "Stays"]
    assert "room" in next(row.message for row in rows.values() if row.blocks)


def test_nodes_that_cannot_take_it_are_no_place_for_it() -> None:
    machine = vm("web")
    machine["status"]["incompatibleNodes"] = ["b"]
    pods = [pod("web", "a")]
    assert told(machine, nodes=[node("b", "8Gi"), node("c")], pods=pods)["web"].to == "c"
    assert told(machine, nodes=[node("b", "8Gi")], pods=pods)["web"].does == "Stays"


def test_what_cannot_or_shall_not_move() -> None:
    machines = [vm("local", able=False), vm("off", eviction="Shutdown"), vm("stays", eviction="Block")]
    rows = told(*machines, nodes=[node("b")], pods=[pod(name, "a") for name in ("local", "off", "stays")])
    assert {name: row.does for name, row in rows.items()} == {
        "local": "Shut down",
        "off": "Shut down",
        "stays": "Stays",
    }
    assert rows["local"].message == "Disk data is a file on the node."


def test_disks_that_are_copied_take_their_time() -> None:
    disks = [
        {"name": "data", "empty": {}, "size": "2Gi"},
        {"name": "root", "container": {"image": "i"}, "size": "1Gi"},
        {"name": "image", "container": {"image": "i"}},
        {"name": "cd", "container": {"image": "i"}, "size": "9Gi", "readOnly": True},
        {"name": "kept", "pvc": {"claimName": "c"}, "size": "9Gi"},
    ]
    assert told(vm("web", disks=disks), nodes=[node("b")], pods=[pod("web", "a")])["web"].seconds == 8.9


def test_nodes_that_take_nothing_are_no_place() -> None:
    tainted = node("b", taints=[{"key": "x", "effect": "NoSchedule"}])
    cordoned = node("c", unschedulable=True)
    assert told(vm("web"), nodes=[tainted, cordoned], pods=[pod("web", "a")])["web"].blocks
    soft = node("d", taints=[{"key": "x", "effect": "PreferNoSchedule"}])
    assert told(vm("web"), nodes=[tainted, soft], pods=[pod("web", "a")])["web"].to == "d"


def test_its_own_selector_and_what_is_booked_count() -> None:
    chosen = vm("web", placement={"nodeSelector": {"disk": "c"}})
    full = [pod("web", "a"), pod("other", "c", memory="3.5Gi")]
    assert told(chosen, nodes=[node("b"), node("c")], pods=full)["web"].blocks
    over = [pod("web", "a"), pod("other", "c", memory="3.5Gi", phase="Succeeded")]
    assert told(chosen, nodes=[node("b"), node("c")], pods=over)["web"].to == "c"


def test_times_are_told_only_when_they_are_known() -> None:
    rows = leaving.forecast("a", [vm("web"), vm("off", phase="Stopped")], [node("b")], [pod("web", "a")], [])
    assert [(row.name, row.seconds) for row in rows] == [("web", None)]
    assert leaving.together(rows, 2) is None
    known = leaving.forecast("a", [vm("web"), vm("two")], [node("b")], [pod("web", "a"), pod("two", "a")], [MOVED])
    assert leaving.together(known, 2) == pytest.approx(2.0 + SETUP_SECONDS)


def test_what_a_machine_changed_at_its_last_move_counts() -> None:
    def moved(vm: str, at: str, dirty: int) -> Json:
        status = {**MOVED["status"], "endedAt": at, "dirtyBytesPerSecond": dirty}
        return {"metadata": {"namespace": "lab"}, "spec": {"vm": vm}, "status": status}

    moves = (moved("busy", "2026-01-02", 128 * 2**20), moved("busy", "2026-01-01", 0), moved("calm", "2026-01-03", 0))
    rows = told(vm("busy"), vm("calm"), nodes=[node("b")], pods=[pod("busy", "a"), pod("calm", "a")], moves=moves)
    assert rows["calm"].seconds == pytest.approx(2.0 + SETUP_SECONDS)
    assert rows["busy"].seconds == pytest.approx(2.0 / (1 - 0.25) + SETUP_SECONDS, rel=0.05)


@pytest.mark.parametrize(("text", "value"), [("1500m", 1.5), ("2", 2.0), ("1.5Gi", 1.5 * 2**30), ("2e3", 2000.0)])
def test_quantities_of_the_api_server(text: str, value: float) -> None:
    assert amount(text) == pytest.approx(value)


def test_no_quantity() -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        amount("many")
