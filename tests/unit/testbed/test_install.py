"""The chart's command, the demo's words, packages, the pause image and progress."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path

import pytest
from rich.console import Console

from testbed import demo, errors, install, prerequisites, progress, settings, shell
from testbed.cluster import apply, host, pause

WHERE = settings.Settings(Path("/run/bed"), Path("/d"), Path("/c"))


def test_one_command_installs_and_upgrades_with_the_images_that_were_loaded() -> None:
    names = {name: f"r/{name}:1" for name in ("controller", "agent", "berth", "testtools")}
    command = install.helm_command(WHERE, Path("/c/helm"), names)
    assert command[:4] == ["/c/helm", "upgrade", "--install", "berth"]
    assert "--set-string=image.agent=r/agent:1" in command
    assert "--set-string=emulation=Auto" in command
    assert "--kubeconfig=/run/bed/kubeconfig" in command
    assert not any("testtools" in word for word in command)


def test_a_waiting_machine_says_what_it_waits_for() -> None:
    conditions = [
        {"type": "PlacementReady", "status": "True"},
        {"type": "DisksReady", "status": "False", "reason": "ClaimNotBound", "message": "the claim data is not bound"},
    ]
    machine = {"status": {"phase": "Pending", "conditions": conditions}}
    assert demo.summary(machine) == "Pending: ClaimNotBound the claim data is not bound"
    assert demo.summary({}) == "Pending"


def test_an_archive_tells_the_names_it_carries(tmp_path: Path) -> None:
    archive = tmp_path / "pause.tar"
    archive.write_bytes(pause.docker_archive(b"program", "example/pause:1"))
    assert apply.tags_of(str(archive)) == ["example/pause:1"]


def test_the_pause_image_is_one_program_and_its_config_names_its_layer() -> None:
    with tarfile.open(fileobj=io.BytesIO(pause.docker_archive(b"program", "x:1"))) as archive:
        config = json.load(archive.extractfile("config.json") or io.BytesIO())
        layer = archive.extractfile("layer.tar")
        assert layer is not None
        content = layer.read()
    import hashlib

    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(content).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(content)) as inner:
        assert [(member.name, member.mode) for member in inner.getmembers()] == [("pause", 0o755)]


def test_only_missing_packages_are_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program, asked = tmp_path / "program", []

    def stream(argv: list[str], on_line: object, **_: object) -> None:
        asked.append(argv)
        if "install" in argv:
            program.touch()

    monkeypatch.setattr(shell, "stream", stream)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    needs = [prerequisites.Need("there", "has", "x"), prerequisites.Need(str(program), "lacks", "x")]
    prerequisites.ensure(progress.Progress(Console(file=io.StringIO())), needs)
    assert asked[0] == ["apt-get", "update"]
    assert asked[1][-1] == "lacks"
    assert "has" not in asked[1]
    prerequisites.ensure(progress.Progress(Console(file=io.StringIO())), needs)
    assert len(asked) == 2, "nothing is missing any more: apt is not asked"


def test_without_apt_the_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(errors.Unavailable, match=r"ip \(links\).*by hand"):
        prerequisites.ensure(progress.Progress(), [prerequisites.Need("ip", "iproute2", "links")])


def test_without_a_terminal_each_end_is_a_line() -> None:
    out = io.StringIO()
    with progress.Progress(Console(file=out, width=100)) as shown:
        with shown.task("one", "why"):
            pass
        with pytest.raises(ValueError, match="broken"), shown.task("two"):
            raise ValueError("broken")
    assert [line[:5].strip() for line in out.getvalue().splitlines()] == ["✓ one", "✗ two"]


def test_long_work_says_that_it_still_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.02)
    out = io.StringIO()
    with progress.Progress(Console(file=out, width=100)) as shown, shown.task("build") as row:
        row.note, row.fraction, end = "compiling", 0.5, time.monotonic() + 5
        while "compiling, 50%" not in out.getvalue():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert "… build: compiling, 50%" in out.getvalue()


def test_an_estimate_follows_from_what_is_done() -> None:
    row = progress.Task("x", time.monotonic() - 10, fraction=0.25)
    assert row.remaining() == pytest.approx(30, abs=1)
    assert progress.Task("x", time.monotonic(), fraction=0.01).remaining() is None


def test_kernel_settings_are_remembered_once_and_put_back(tmp_path: Path) -> None:
    note, root = tmp_path / "note.json", tmp_path / "sys"
    for name in host.CHANGED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("0\n")
    host.remember(note, root)
    (root / "kernel/panic").write_text("10\n")
    host.remember(note, root)
    host.restore(note, root)
    assert (root / "kernel/panic").read_text() == "0"
    assert host.remembered(note) == {}
