"""Which files an image depends on, what it is called, and that it is built exactly when one of them changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from testbed import errors, images, images_engine, settings

DOCKERFILE = """\
FROM base AS build
COPY src/a.c \\
     src/b.c /src/
FROM base AS other
COPY extra /extra
FROM scratch
COPY --from=build /out /out
COPY --chmod=755 tool /bin/tool  # a comment
"""
IMAGE = images.Image("one", "Dockerfile", "registry.example/one")


@dataclass
class Recorder:
    """An engine that writes the reference into the archive."""

    name: str = "recorder"
    built: list[str] = field(default_factory=list)

    def build(self, dockerfile: Path, reference: str, context: Path, target: str = "") -> None:
        self.built.append(reference)

    def save(self, reference: str, target: Path) -> None:
        target.write_text(reference)


@pytest.fixture
def where(tmp_path: Path) -> settings.Settings:
    tree = tmp_path / "tree"
    for name in ("src/a.c", "src/b.c", "extra/deep/file", "tool"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / "Dockerfile").write_text(DOCKERFILE)
    (tree / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    return settings.Settings(tmp_path / "state", tmp_path / "data", tmp_path / "cache", repository=tree)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(images_engine, "choose", lambda cache: recorder)
    return recorder


def test_copied_names_what_comes_from_the_tree() -> None:
    assert list(images.copied(DOCKERFILE)) == ["src/a.c", "src/b.c", "extra", "tool"]


def test_a_target_ends_the_dockerfile_after_its_stage() -> None:
    assert list(images.copied(images.until(DOCKERFILE, "other"))) == ["src/a.c", "src/b.c", "extra"]
    assert list(images.copied(images.until(DOCKERFILE, "build"))) == ["src/a.c", "src/b.c"]


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(errors.TestbedError, match="no stage 'nothing'"):
        images.until(DOCKERFILE, "nothing")


def test_inputs_descend_into_folders_but_not_into_byte_code(where: settings.Settings) -> None:
    (where.repository / "extra" / "__pycache__").mkdir()
    (where.repository / "extra" / "__pycache__" / "x.pyc").write_text("")
    found = [path.relative_to(where.repository).as_posix() for path in images.inputs(where.repository, "Dockerfile")]
    assert found == ["extra/deep/file", "src/a.c", "src/b.c", "tool"]


def test_a_missing_input_is_named(where: settings.Settings) -> None:
    (where.repository / "tool").unlink()
    with pytest.raises(errors.TestbedError, match="COPY tool: no such file"):
        images.inputs(where.repository, "Dockerfile")


@pytest.mark.parametrize(
    ("edit", "changes"),
    [
        (lambda tree: (tree / "extra/deep/file").write_text("new"), True),
        (lambda tree: (tree / "extra/deep/more").write_text(""), True),
        (lambda tree: (tree / "tool").chmod(0o755), True),
        (lambda tree: (tree / "Dockerfile").write_text(DOCKERFILE + "USER 1\n"), True),
        (lambda tree: (tree / "README.md").write_text("unrelated"), False),
        (lambda tree: (tree / "tool").touch(), False),
    ],
)
def test_the_digest_follows_content(where: settings.Settings, edit: Callable[[Path], object], changes: bool) -> None:
    before = images.input_digest(where.repository, "Dockerfile")
    edit(where.repository)
    assert (images.input_digest(where.repository, "Dockerfile") != before) is changes


def test_a_build_up_to_a_stage_ignores_what_comes_later(where: settings.Settings) -> None:
    before = images.input_digest(where.repository, "Dockerfile", "build")
    (where.repository / "tool").write_text("new")
    assert images.input_digest(where.repository, "Dockerfile", "build") == before


def test_ensure_builds_once_and_again_after_an_edit(where: settings.Settings, engine: Recorder) -> None:
    [first] = images.ensure([], where, [IMAGE])
    assert images.ensure([], where, [IMAGE]) == [first]
    assert len(engine.built) == 1
    assert first.read_text().startswith("registry.example/one:1.2.3-")
    (where.repository / "tool").write_text("new")
    [second] = images.ensure([], where, [IMAGE])
    assert second != first
    assert len(set(engine.built)) == 2


def test_a_half_written_archive_is_never_taken(
    where: settings.Settings, engine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(reference: str, target: Path) -> None:
        target.write_text("half")
        raise errors.CommandFailed(["save"], 1, "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "save", broken)
        with pytest.raises(errors.CommandFailed):
            images.ensure([], where, [IMAGE])
    [archive] = images.ensure([], where, [IMAGE])
    assert archive.read_text().startswith("registry.example/one:")


def test_an_edit_during_a_build_means_another_build(
    where: settings.Settings, engine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(reference: str, target: Path) -> None:
        target.write_text(reference)
        if len(engine.built) < 3:
            (where.repository / "tool").write_text(f"edit {len(engine.built)}")

    monkeypatch.setattr(engine, "save", save)
    [archive] = images.ensure([], where, [IMAGE])
    assert len(engine.built) == 3
    assert archive == images.Build.of(IMAGE, where).archive
    assert archive.read_text() == images.Build.of(IMAGE, where).reference


def test_a_tree_that_never_stands_still_is_an_error(
    where: settings.Settings, engine: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(reference: str, target: Path) -> None:
        target.write_text(reference)
        (where.repository / "tool").write_text(reference)

    monkeypatch.setattr(engine, "save", save)
    with pytest.raises(errors.NotReady, match="stop editing"):
        images.ensure([], where, [IMAGE])


def test_old_archives_go_but_for_the_newest(where: settings.Settings, engine: Recorder) -> None:
    for number in range(6):
        (where.repository / "tool").write_text(f"edit {number}")
        [newest] = images.ensure([], where, [IMAGE])
    left = list(newest.parent.glob("one-*.tar"))
    assert len(left) == 3
    assert newest in left


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(errors.TestbedError, match="image 'nope' is unknown; the images are testtools"):
        images.select(["nope"], images.IMAGES)


def test_the_tree_has_every_file_that_its_dockerfiles_copy() -> None:
    found = images.references()
    assert found["testtools"] == "ghcr.io/berth-dev/testtools:dev"
    assert all(found[name].startswith(f"ghcr.io/berth-dev/{name}:0.") for name in ("berth", "agent", "controller"))
