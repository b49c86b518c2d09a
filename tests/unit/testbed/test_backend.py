"""Which cluster it is, and what kind and docker are asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from testbed import backend, builtin, errors, kind, settings, shell, topology
from testbed.progress import Progress

SHAPE = topology.parse((settings.REPOSITORY / "kind-config.yaml").read_text())


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"BERTH_STATE": str(tmp_path / "s"), "BERTH_DATA": str(tmp_path / "d"), "HOME": str(tmp_path), **more}


@pytest.mark.parametrize(("works", "expected"), [(True, kind.Kind), (False, builtin.Builtin)])
def test_kind_where_docker_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool, expected: type[object]
) -> None:
    monkeypatch.setattr(backend, "docker_works", lambda: works)
    assert isinstance(backend.choose(environment(tmp_path)), expected)


def test_a_built_in_cluster_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "docker_works", lambda: True)
    (tmp_path / "d").mkdir()
    assert isinstance(backend.choose(environment(tmp_path)), builtin.Builtin)


def test_a_wish_is_followed_without_asking_docker(tmp_path: Path) -> None:
    assert isinstance(backend.choose(environment(tmp_path, BERTH_CLUSTER="kind")), kind.Kind)
    assert isinstance(backend.choose(environment(tmp_path, BERTH_CLUSTER="builtin")), builtin.Builtin)


def test_an_impossible_wish_is_refused_with_the_value(tmp_path: Path) -> None:
    with pytest.raises(errors.TestbedError, match="kind or builtin is possible, given 'k3s'"):
        backend.choose(environment(tmp_path, BERTH_CLUSTER="k3s"))


class Commands:
    """Answers for kind and docker; remembers what was asked."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.asked = answers, list[str]()

    def __call__(self, argv: Sequence[object], **_: object) -> str:
        text = " ".join(Path(str(word)).name if index == 0 else str(word) for index, word in enumerate(argv))
        self.asked.append(text)
        for start, answer in self.answers.items():
            if text.startswith(start):
                return answer
        return ""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> kind.Kind:
    tools = {"kind": Path("/c/kind"), "kubectl": Path("/c/kubectl")}
    monkeypatch.setattr(kind.ensure, "ensure", lambda *_: tools)
    monkeypatch.setattr(shell, "quiet", lambda *_, **__: True)
    return kind.Kind(settings.load(environment(tmp_path)), SHAPE)


ALL = "berth-control-plane\nberth-worker\nberth-worker2\n"


@pytest.mark.parametrize(
    ("present", "verb"), [("", "create cluster"), (ALL, "export kubeconfig"), ("berth-worker\n", "create")]
)
def test_kind_creates_what_is_not_whole_and_starts_what_is(
    cluster: kind.Kind, monkeypatch: pytest.MonkeyPatch, present: str, verb: str
) -> None:
    commands = Commands({"kind get nodes": present})
    monkeypatch.setattr(shell, "run", commands)
    cluster.up(Progress())
    assert any(text.startswith(f"kind {verb}") for text in commands.asked)
    assert any("wait --for=condition=Ready node --all" in text for text in commands.asked)
    assert (verb == "export kubeconfig") == (
        "docker start berth-control-plane berth-worker berth-worker2" in commands.asked
    )


def test_kind_restarts_a_static_part_by_stopping_its_container(
    cluster: kind.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands({})
    monkeypatch.setattr(shell, "run", commands)
    cluster.restart(Progress(), "apiserver", None)
    cluster.restart(Progress(), "kubelet", "worker2")
    assert commands.asked == [
        "docker exec berth-control-plane sh -ec crictl stop $(crictl ps -q --name '^kube-apiserver$')",
        "docker exec berth-worker2 systemctl restart kubelet",
    ]


def test_a_lost_node_of_kinds_is_a_killed_container(cluster: kind.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands({})
    monkeypatch.setattr(shell, "run", commands)
    cluster.lose(Progress(), "worker2")
    assert commands.asked == ["docker kill berth-worker2"]


def test_kinds_status_names_a_container_that_stopped(cluster: kind.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "run", Commands({"docker inspect": "exited\n"}))
    parts = cluster.status()
    assert [part.name for part in parts] == ALL.split()
    assert {(part.healthy, part.detail) for part in parts} == {(False, "exited")}
