"""The command lines that Docker and buildah get, and which of the two is chosen."""

from __future__ import annotations

import io
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from email.message import Message
from pathlib import Path

import pytest

from testbed import errors, images_base, images_engine, images_host, shell


class Programs:
    """Records what would have been run; the listed sub-commands fail."""

    def __init__(self, *failing: str) -> None:
        self.ran: list[list[str]] = []
        self.failing = failing

    def run(self, argv: Sequence[shell.Argument], **options: object) -> str:
        words = [str(word) for word in argv]
        self.ran.append(words)
        if set(words) & set(self.failing):
            raise errors.CommandFailed(words, 1, "")
        return "working-container\n" if "from" in words else "ext2/ext3\n"

    def stream(self, argv: Sequence[shell.Argument], on_line: Callable[[str], None], **options: object) -> None:
        on_line(self.run(argv))

    def quiet(self, argv: Sequence[shell.Argument], **options: object) -> bool:
        try:
            self.run(argv)
        except errors.TestbedError:
            return False
        return True

    def subcommands(self) -> list[str]:
        known = {"build", "push", "inspect", "pull", "from", "add", "config", "commit", "save"}
        return [next(word for word in words if word in known) for words in self.ran if set(words) & known]


@pytest.fixture(autouse=True)
def no_memory() -> Iterator[None]:
    for cached in (images_engine.choose, images_engine.registry_answers, images_engine.storage_driver):
        cached.cache_clear()
    yield
    for cached in (images_engine.choose, images_engine.registry_answers, images_engine.storage_driver):
        cached.cache_clear()


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Programs]:
    def make(*failing: str) -> Programs:
        made = Programs(*failing)
        monkeypatch.setattr(shell, "run", made.run)
        monkeypatch.setattr(shell, "stream", made.stream)
        monkeypatch.setattr(shell, "quiet", made.quiet)
        monkeypatch.setattr(images_host, "gather", images_host.Host)
        return made

    return make


def test_buildah_builds_one_stage_without_a_daemon(programs: Callable[..., Programs], tmp_path: Path) -> None:
    ran = programs()
    images_engine.Buildah(tmp_path).build(Path("D"), "name:tag", Path("context"), "stage")
    [build] = [words for words in ran.ran if "build" in words]
    assert build[-7:] == ["-f", "D", "-t", "name:tag", "--target", "stage", "context"]
    assert {"--layers", "--pull-never", "chroot", str(tmp_path / "root")} <= set(build)
    assert ran.subcommands() == ["inspect", "build"]


def test_the_base_is_pulled_when_a_registry_answers(
    programs: Callable[..., Programs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = programs("inspect")
    monkeypatch.setattr(images_engine, "registry_answers", lambda: True)
    images_engine.Buildah(tmp_path).build(Path("D"), "name:tag", Path("context"))
    assert ran.subcommands() == ["inspect", "pull", "build"]


def test_the_base_is_made_of_packages_when_none_answers(
    programs: Callable[..., Programs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = programs("inspect")
    monkeypatch.setattr(images_engine, "registry_answers", lambda: False)
    monkeypatch.setattr(images_base, "bootstrap", lambda host, target, on_line: target.write_text("root"))
    images_engine.Buildah(tmp_path).build(Path("D"), "name:tag", Path("context"))
    assert ran.subcommands() == ["inspect", "from", "add", "config", "commit", "build"]
    [commit] = [words for words in ran.ran if "commit" in words]
    assert commit[-2:] == ["working-container", images_engine.BASE]
    assert not (tmp_path / "base.tar").exists()


def test_the_bootstrap_carries_the_hosts_options_only_while_it_runs(
    programs: Callable[..., Programs], tmp_path: Path
) -> None:
    ran = programs()
    host = images_host.Host(mirror="http://mirror.example/debian", apt_options=("Acquire::Retries 3;",))
    (tmp_path / "base.partial").write_text("root")
    images_base.bootstrap(host, tmp_path / "base.tar", lambda line: None)
    [words] = ran.ran
    assert "--aptopt=Acquire::Retries 3;" in words
    assert any(word.startswith("deb [") and "http://mirror.example/debian trixie main" in word for word in words)
    assert any("99mmdebstrap" in word and word.startswith("--customize-hook=rm") for word in words)
    assert (tmp_path / "base.tar").read_text() == "root"


def test_buildah_saves_with_the_name_inside(programs: Callable[..., Programs], tmp_path: Path) -> None:
    ran = programs()
    images_engine.Buildah(tmp_path).save("name:tag", Path("/out.tar"))
    assert ran.ran[-1][-2:] == ["name:tag", "docker-archive:/out.tar:name:tag"]


def test_docker_gets_the_same_build(programs: Callable[..., Programs]) -> None:
    ran = programs()
    images_engine.Docker().build(Path("D"), "name:tag", Path("context"), "stage")
    images_engine.Docker().save("name:tag", Path("/out.tar"))
    assert ran.ran[0][-7:] == ["-f", "D", "-t", "name:tag", "--target", "stage", "context"]
    assert ran.ran[1] == ["docker", "save", "-o", "/out.tar", "name:tag"]


@pytest.mark.parametrize(
    ("there", "failing", "expected"),
    [
        ({"docker", "buildah"}, (), "docker"),
        ({"docker", "buildah"}, ("info",), "buildah"),
        ({"buildah"}, (), "buildah"),
    ],
)
def test_a_running_docker_is_preferred(
    programs: Callable[..., Programs],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    there: set[str],
    failing: tuple[str, ...],
    expected: str,
) -> None:
    programs(*failing)
    monkeypatch.setattr("shutil.which", lambda name: name if name in there else None)
    assert images_engine.choose(tmp_path).name == expected


def test_neither_is_an_error_with_the_next_step(
    programs: Callable[..., Programs], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs("info")
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(errors.Unavailable, match="prerequisites"):
        images_engine.choose(tmp_path)


def http_error(code: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("https://x", code, "", Message(), io.BytesIO())


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (http_error(401), True),
        (http_error(403), False),
        (urllib.error.URLError("refused"), False),
        (TimeoutError(), False),
    ],
)
def test_the_registry_is_asked_once_a_run(monkeypatch: pytest.MonkeyPatch, failure: Exception, expected: bool) -> None:
    asked: list[object] = []

    def urlopen(*words: object, **options: object) -> None:
        asked.append(options["timeout"])
        raise failure

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert [images_engine.registry_answers(), images_engine.registry_answers()] == [expected, expected]
    assert asked == [3]


def test_an_overlay_is_never_put_on_an_overlay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shell, "run", lambda argv: "overlayfs\n")
    assert images_engine.storage_driver(tmp_path) == "vfs"
