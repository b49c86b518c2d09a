"""`berth migrate` against a stand-in for the API server, which also plays the controller; what `why` says of a move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.api import validate
from berth.api.migration import Migration
from tests.unit.cli.server import MIGRATIONS, Server, serve

Json = dict[str, Any]
Run = Callable[..., int]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as running:
        running.put("web", status={"phase": "Running", "observedGeneration": 1, "node": "n1"})
        yield running


def moves(server: Server) -> list[Json]:
    return [obj for path, obj in server.objects.items() if path.startswith(f"{MIGRATIONS}/")]


def put(server: Server, name: str, status: Json | None = None, vm: str = "web") -> Json:
    obj: Json = {"metadata": {"name": name, "namespace": "lab"}, "spec": {"vm": vm}}
    if status is not None:
        obj["status"] = status
    server.objects[f"{MIGRATIONS}/{name}"] = obj
    return obj


def story(*told: Json) -> Callable[[Server], None]:
    """A controller: each look at the Migration finds the next status."""
    rest = list(told)

    def on_look(server: Server) -> None:
        if rest:
            moves(server)[0]["status"] = rest.pop(0)

    return on_look


ENDS: Json = {"source": {"node": "n1", "berth": "a"}, "target": {"node": "n2", "berth": "b"}}


def test_it_makes_a_valid_migration(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate", "web", "--to", "n2", "--deadline", "10m", "--bandwidth", "1G") == 0
    (made,) = moves(server)
    found = validate.check(made)
    assert isinstance(found, Migration), found
    assert made["spec"] == {"vm": "web", "target": {"nodeName": "n2"}, "deadline": "10m", "bandwidth": "1G"}
    assert made["metadata"]["name"] in capsys.readouterr().out


def test_a_machine_that_is_not_there_is_told(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate", "other") == 1
    assert "there is no VirtualMachine" in capsys.readouterr().err
    assert moves(server) == []


def test_watching_tells_of_trouble_and_of_the_pause(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on_look = story(
        {},
        {"phase": "Scheduling", "message": "No node fits: Insufficient memory."},
        {"phase": "Preparing", "percent": 0, "etaSeconds": 9, "method": "precopy: it is calm", **ENDS},
        {
            "phase": "Running",
            "percent": 40,
            "method": "precopy: it is calm",
            "bytesPerSecond": 52428800,
            "etaSeconds": 3,
            **ENDS,
        },
        {"phase": "Succeeded", "percent": 100, "pauseMs": 87, "totalBytes": 268435456, "message": "It runs.", **ENDS},
    )
    assert run("migrate", "web", "--watch") == 0
    out = capsys.readouterr().out
    assert "Insufficient memory" in out
    assert out.count("precopy: it is calm") == 1
    assert "stood still for 87 ms; 256Mi in all" in out
    assert "n1 → n2" in out


def test_watching_one_that_fails_ends_with_its_reason(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on_look = story({"phase": "Failed", "reason": "SameNode", "message": "web is on node n1 already."})
    assert run("migrate", "web", "--to", "n1", "--watch") == 1
    assert "failed (SameNode): web is on node n1 already." in capsys.readouterr().err


def test_cancelling_gives_up_all_that_are_not_over(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put(server, "done", {"phase": "Succeeded"})
    put(server, "others", {"phase": "Running"}, vm="db")
    put(server, "waits")
    put(server, "goes", {"phase": "Running"})
    assert run("migrate", "web", "--cancel") == 0
    asked = {m["metadata"]["name"] for m in moves(server) if m["spec"].get("cancel")}
    assert asked == {"waits", "goes"}
    assert "Migration goes is being given up" in capsys.readouterr().out


def test_cancelling_nothing_is_told(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    put(server, "done", {"phase": "Succeeded"})
    assert run("migrate", "web", "--cancel") == 1
    assert "no move of web is under way" in capsys.readouterr().err


def test_a_cancelled_move_that_is_watched_ends_well(server: Server, run: Run) -> None:
    put(server, "goes", {"phase": "Running"})
    server.on_look = story({"phase": "Cancelled", "message": "It was cancelled: web stays where it is."})
    assert run("migrate", "web", "--cancel", "--watch") == 0


def test_why_tells_of_a_move(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    conditions = [
        {"type": "Ready", "status": "True", "reason": "Ready", "message": ""},
        {"type": "Migratable", "status": "False", "reason": "QuotaExceeded", "message": "Migration m: exceeded quota."},
    ]
    server.put("web", status={"phase": "Migrating", "observedGeneration": 1, "conditions": conditions})
    put(server, "m", {"phase": "Running", "progress": "40%, 3 s left", **ENDS})
    put(server, "old", {"phase": "Failed"})
    assert run("why", "web") == 0
    out = capsys.readouterr().out
    assert "n1 → n2  40%, 3 s left" in out
    assert "QuotaExceeded" in out
    assert "old" not in out
