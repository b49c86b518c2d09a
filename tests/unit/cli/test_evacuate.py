"""`berth evacuate` against a stand-in for the API server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.server import Server, serve
from tests.unit.plan.test_leaving import node, pod, vm

Json = dict[str, Any]
BERTH = "/apis/berth.dev/v1alpha1"
Run = Callable[..., int]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serve(tmp_path) as running:
        nodes = [node("a"), node("b")]
        running.objects |= {f"/api/v1/nodes/{each['metadata']['name']}": each for each in nodes}
        running.objects["/api/v1/nodes"] = {"items": nodes}
        running.objects[f"{BERTH}/virtualmachines/web"] = vm("web")
        running.objects[f"{BERTH}/virtualmachines/kept"] = vm("kept", eviction="Block")
        running.objects["/api/v1/pods/web"] = pod("web", "a")
        yield running


def test_a_plan_shows_and_changes_nothing(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evacuate", "a", "--plan") == 0
    said = capsys.readouterr().out
    web, kept = (next(line for line in said.splitlines() if name in line.split()) for name in ("web", "kept"))
    assert web.split()[2:4] == ["Move", "b"]
    assert "spec.eviction is Block" in kept
    assert "1 move; 0 are shut down; 1 stay and block a drain" in said
    assert server.patches == []


def test_it_cordons_the_node(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evacuate", "a") == 0
    assert server.objects["/api/v1/nodes/a"]["spec"]["unschedulable"] is True
    assert "kubectl uncordon a" in capsys.readouterr().out
    patches = len(server.patches)
    assert run("evacuate", "a") == 0
    assert len(server.patches) == patches


def test_a_node_that_is_not_there(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evacuate", "elsewhere") == 1
    assert "elsewhere" in capsys.readouterr().err
