"""`berth snapshot`, `snapshots` and `revert` against a stand-in for the API server, which also plays the controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from berth.api import validate
from berth.api.snapshot import Snapshot
from berth.plan.world import REVERT
from tests.unit.cli.server import SNAPSHOTS, VMS, Server, serve

Json = dict[str, Any]
Run = Callable[..., int]
READY: Json = {"phase": "Ready", "size": "90Mi", "pauseMs": 120, "takenAt": "2026-01-01T00:00:00Z"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as running:
        running.put("web", status={"phase": "Running", "observedGeneration": 1, "node": "n1"})
        yield running


def put(server: Server, name: str, status: Json | None = None, vm: str = "web") -> None:
    meta = {"name": name, "namespace": "lab", "creationTimestamp": "2026-01-01T00:00:00Z"}
    server.objects[f"{SNAPSHOTS}/{name}"] = {"metadata": meta, "spec": {"vm": vm}, "status": status or {}}


def story(name: str, *told: Json) -> Callable[[Server], None]:
    """A controller: each look at the Snapshot finds the next status."""
    rest = list(told)

    def on_look(server: Server) -> None:
        if rest:
            server.objects[f"{SNAPSHOTS}/{name}"]["status"] = rest.pop(0)

    return on_look


def test_it_makes_a_valid_snapshot(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("snapshot", "web", "before", "--disks-only") == 0
    made = server.objects[f"{SNAPSHOTS}/before"]
    found = validate.check(made)
    assert isinstance(found, Snapshot), found
    assert made["spec"] == {"vm": "web", "memory": False}
    assert "before" in capsys.readouterr().out


def test_it_finds_a_name_of_its_own(server: Server, run: Run) -> None:
    assert run("snapshot", "web") == 0
    [made] = [path for path in server.objects if path.startswith(SNAPSHOTS)]
    assert made.startswith(f"{SNAPSHOTS}/web-20")


def test_waiting_tells_how_it_goes(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server.on_look = story("before", {}, {"phase": "Saving"}, {"phase": "Copying", "percent": 40}, READY)
    assert run("snapshot", "web", "before", "--wait") == 0
    lines = [line.split(" s  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["Pending", "Saving", "Copying  40%", "Ready  90Mi in its volume; the guest stood still for 120 ms"]


def test_one_that_fails_ends_with_its_reason(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server.on_look = story("before", {"phase": "Failed", "reason": "VolumeFull", "message": "no space is left"})
    assert run("snapshot", "web", "before", "--wait") == 1
    assert "was not taken (VolumeFull): no space is left" in capsys.readouterr().err


def test_the_same_name_twice_is_refused(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    put(server, "before")
    assert run("snapshot", "web", "before") == 1
    assert "already exists" in capsys.readouterr().err


def test_why_tells_of_one_that_is_under_way_and_of_a_revert(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put(server, "half", {"phase": "Copying", "percent": 40})
    put(server, "old", READY)
    put(server, "others", {"phase": "Copying"}, vm="db")
    asked = {"type": "Reverted", "status": "False", "reason": "SnapshotMissing", "message": "None. Next: look again."}
    ready = {"type": "Ready", "status": "True", "reason": "Ready"}
    server.objects[f"{VMS}/web"]["status"]["conditions"] = [ready, asked]
    assert run("why", "web") == 1
    out = capsys.readouterr().out
    assert "half" in out
    assert "40%" in out
    assert "old" not in out
    assert "others" not in out
    assert "Next: look again." in out


def test_the_list(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    put(server, "before", READY)
    put(server, "others", {"phase": "Failed", "message": "no"}, vm="db")
    assert run("snapshots", "web") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["NAME", "VM", "STATUS", "MEMORY", "SIZE", "TAKEN", "AGE", "MESSAGE"]
    assert "before" in out
    assert "others" not in out
    assert run("snapshots", "nobody") == 0
    assert "no Snapshots of nobody" in capsys.readouterr().err


def test_going_back_asks_the_machine(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    put(server, "before", READY)

    def obey(server: Server) -> None:
        vm = server.objects[f"{VMS}/web"]
        vm["status"]["revert"] = {"request": vm["metadata"]["annotations"][REVERT], "done": True}

    server.on_patch = obey
    assert run("revert", "web", "before", "--wait") == 0
    request = server.objects[f"{VMS}/web"]["metadata"]["annotations"][REVERT]
    assert request.startswith("before@20")
    assert run("revert", "web", "before") == 0
    assert server.objects[f"{VMS}/web"]["metadata"]["annotations"][REVERT] != request, "another request"


@pytest.mark.parametrize(
    ("snapshot", "words"),
    [
        ("missing", "there is no Snapshot 'missing'"),
        ("half", "is Copying, and only one that is Ready"),
        ("foreign", "is one of db, not of web"),
    ],
)
def test_what_cannot_be_gone_back_to(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str], snapshot: str, words: str
) -> None:
    put(server, "half", {"phase": "Copying"})
    put(server, "foreign", READY, vm="db")
    assert run("revert", "web", snapshot) == 1
    assert words in capsys.readouterr().err
    assert REVERT not in server.objects[f"{VMS}/web"]["metadata"].get("annotations", {})
