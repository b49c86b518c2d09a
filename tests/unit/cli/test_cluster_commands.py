"""The commands that speak to a cluster, run in this process against a stand-in for the API server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.server import Server, serve

Json = dict[str, Any]
Run = Callable[..., int]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as running:
        yield running


def condition(kind: str, status: str, reason: str = "Because", message: str = "") -> Json:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def running(**more: Any) -> Json:
    return {"phase": "Running", "observedGeneration": 1, "conditions": [condition("Ready", "True")], "epoch": 1, **more}


def test_list_shows_the_columns(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server.put("web", status=running(node="n1", ip="10.0.0.7"))
    server.put("new")
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "STATUS", "NODE", "IP", "CPU", "MEMORY", "AGE"]
    assert any(line.split()[:4] == ["web", "Running", "n1", "10.0.0.7"] for line in lines)


def test_why_is_zero_when_all_is_well(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server.put("web", status=running())
    assert run("why", "web") == 0
    assert "All is well" in capsys.readouterr().out


def test_why_tells_the_cause_and_the_next_step(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = "No node fits: Insufficient memory. Next: make spec.memory.size smaller."
    conditions = [condition("PlacementReady", "False", "InsufficientMemory", text), condition("Ready", "False")]
    server.put("big", status=running(phase="Pending", message=text, conditions=conditions))
    assert run("why", "big") == 1
    out = capsys.readouterr().out
    assert "InsufficientMemory" in out
    assert "Next: make spec.memory.size smaller." in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        ({}, None),
        ({}, running(observedGeneration=0)),
        ({}, running(phase="Paused")),
        ({}, running(conditions=[condition("Ready", "False")])),
        ({"power": False}, running()),
        ({"power": "Off"}, running(phase="Stopped", conditions=[condition("SpecValid", "False")])),
    ],
)
def test_why_is_not_zero_while_something_is_missing(server: Server, run: Run, spec: Json, status: Json | None) -> None:
    server.put("web", spec, status)
    assert run("why", "web") == 1


@pytest.mark.parametrize(
    ("power", "phase"), [(False, "Stopped"), ("Off", "Stopped"), ("Paused", "Paused"), ("Suspended", "Suspended")]
)
def test_why_is_zero_when_it_is_off_or_paused_as_wanted(server: Server, run: Run, power: Any, phase: str) -> None:
    server.put("web", {"power": power}, running(phase=phase, conditions=[condition("Ready", "False")]))
    assert run("why", "web") == 0


def test_an_unknown_machine_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("why", "nope") == 1
    assert "no VirtualMachine 'nope' in namespace lab" in capsys.readouterr().err


def test_an_api_server_that_is_away_is_named(run: Run, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.kubeconfig.write_text(server.kubeconfig.read_text().replace("127.0.0.1:", "127.0.0.1:1/"))
    assert run("list") == 1
    assert "does not answer" in capsys.readouterr().err


def reach(phase: str, **more: Any) -> Callable[[Server], None]:
    """What a controller does after a patch: the status follows."""

    def act(server: Server) -> None:
        for vm in server.objects.values():
            vm["status"] = {**vm.get("status", {}), "phase": phase, **more}

    return act


def test_stop_waits_until_it_is_stopped(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server.put("web", status=running())
    server.on_patch = reach("Stopped")
    assert run("stop", "web", "--wait") == 0
    assert server.patches == [{"spec": {"power": "Off"}}]
    assert "Stopped" in capsys.readouterr().out


def test_restart_waits_for_a_later_start(server: Server, run: Run) -> None:
    server.put("web", status=running(epoch=4))
    server.on_patch = reach("Running", epoch=5)
    assert run("restart", "web", "--wait") == 0
    assert "berth.dev/restartedAt" in server.patches[0]["metadata"]["annotations"]


def test_restart_of_a_machine_that_is_off_says_what_to_do(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("web", {"power": False}, running(phase="Stopped"))
    assert run("restart", "web") == 1
    assert "berth start web" in capsys.readouterr().err
    assert not server.patches


def test_start_of_an_ended_machine_asks_for_a_restart(server: Server, run: Run) -> None:
    server.put("web", status=running(phase="Failed"))
    assert run("start", "web") == 0
    assert server.patches[0]["spec"] == {"power": "On"}
    assert "metadata" in server.patches[0]


@pytest.mark.parametrize(
    ("command", "power", "phase"),
    [("pause", "Paused", "Paused"), ("suspend", "Suspended", "Suspended"), ("resume", "On", "Running")],
)
def test_pause_suspend_and_resume(server: Server, run: Run, command: str, power: str, phase: str) -> None:
    server.put("web", {"power": "On"}, running(phase="Running"))
    server.on_patch = reach(phase)
    assert run(command, "web", "--wait") == 0
    assert server.patches == [{"spec": {"power": power}}]


def test_waiting_ends_at_its_deadline_with_a_pointer(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("web", status=running())
    assert run("stop", "web", "--wait", "--timeout", "0.5") == 2
    assert "berth why web" in capsys.readouterr().err


def test_waiting_for_a_failed_machine_ends_at_once(server: Server, run: Run) -> None:
    server.put("web", status=running())
    server.on_patch = reach("Failed", message="it crashed")
    assert run("pause", "web", "--wait") == 1


def test_suspending_one_that_cannot_be_ends_at_once_and_says_why(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("web", status=running(conditions=[condition("Suspendable", "False")]))
    server.on_patch = reach("Running", message="There is no volume to save its state to.")
    assert run("suspend", "web", "--wait") == 1
    assert "no volume" in capsys.readouterr().err


def test_force_deletes_the_berth(server: Server, run: Run) -> None:
    server.put("web", status=running(berth="berth-web"))
    server.objects["/api/v1/namespaces/lab/pods/berth-web"] = {"metadata": {"name": "berth-web"}}
    assert run("stop", "web", "--force") == 0
    assert server.deleted == ["/api/v1/namespaces/lab/pods/berth-web?gracePeriodSeconds=1"]


def test_no_screen_and_no_console_are_told(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    server.put("web", status=running(phase="Stopped", berth="berth-web"))
    assert run("vnc", "web") == 1
    assert run("console", "web") == 1
    err = capsys.readouterr().err
    assert "set spec.display.type to VNC" in err
    assert "kubectl logs -n lab berth-web" in err
