"""What a command in the agent's root file system is started with, and that none is taken away while in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import errors, guests, images, images_archive, rootfs, settings


@pytest.fixture
def where(tmp_path: Path) -> settings.Settings:
    return settings.Settings(tmp_path / "s", tmp_path / "d", tmp_path / "c", repository=tmp_path / "repo")


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of the archive that the next call is given; unpacking only makes the folder."""
    names = ["contract-1.tar"]
    monkeypatch.setattr(images, "ensure", lambda *words: [Path(names[-1])])
    monkeypatch.setattr(images_archive, "unpack", lambda archive, folder: folder.mkdir(parents=True))
    return names


def test_the_callers_interpreter_does_not_get_in(where: settings.Settings) -> None:
    outer = {
        "PATH": "/venv/bin",
        "VIRTUAL_ENV": "/venv",
        "PYTHONPATH": "/x",
        "BERTH_X": "1",
        "CI": "true",
        "HOME": "/h",
    }
    inner = rootfs.environment(outer, where)
    assert inner["PATH"].startswith("/opt/berth/bin:")
    assert inner["PYTHONPATH"] == f"{where.repository}/operator/src:{where.repository}"
    assert inner["BERTH_X"] == "1"
    assert inner["CI"] == "true"
    assert inner["BERTH_CACHE"] == str(where.cache)
    assert "VIRTUAL_ENV" not in inner


def test_every_namespace_ends_with_the_command(where: settings.Settings) -> None:
    words = rootfs.argv(Path("/root-fs"), ["pytest", "-q"], libvirtd=False, where=where)
    assert words[0] == "unshare"
    assert {"--mount", "--pid", "--kill-child", "--net", "--uts", "--ipc"} <= set(words)
    assert words[-2:] == ["pytest", "-q"]


def test_libvirtd_is_started_first_when_asked_for(where: settings.Settings) -> None:
    words = rootfs.argv(Path("/root-fs"), ["virsh", "list"], libvirtd=True, where=where)
    assert words[-5:-2] == ["-euc", rootfs._START_LIBVIRTD, "libvirtd"]


@pytest.mark.parametrize("arguments", [[], ["pytest"], ["--"], ["--nonsense", "--", "pytest"]])
def test_a_wrong_command_line_shows_the_right_one(arguments: list[str]) -> None:
    with pytest.raises(errors.TestbedError, match=r"usage: python -m testbed.rootfs \[--libvirtd\] -- COMMAND"):
        rootfs.main(arguments)


def test_an_older_root_goes_when_a_new_one_comes(where: settings.Settings, archives: list[str]) -> None:
    with rootfs.ensure(where) as first:
        assert first.is_dir()
    archives.append("contract-2.tar")
    with rootfs.ensure(where) as second:
        assert second.is_dir()
    assert not first.exists()


def test_a_root_in_use_stays(where: settings.Settings, archives: list[str]) -> None:
    with rootfs.ensure(where) as first:
        archives.append("contract-2.tar")
        with rootfs.ensure(where) as second:
            assert first.is_dir()
            assert second.is_dir()


@pytest.mark.timeout(20)
def test_two_commands_share_one_root_without_waiting(where: settings.Settings, archives: list[str]) -> None:
    with rootfs.ensure(where) as first, rootfs.ensure(where) as second:
        assert first == second


def test_guests_have_the_names_that_manifests_use() -> None:
    assert guests.references() == {
        "guest-tiny": "ghcr.io/berth-dev/guest-tiny:dev",
        "guest-debian": "ghcr.io/berth-dev/guest-debian:dev",
    }


def test_a_guests_files_are_unpacked_once(where: settings.Settings, archives: list[str]) -> None:
    archives.append("guest-tiny-1.tar")
    kernel, initrd = guests.tiny_files(where)
    assert kernel == where.cache / "guests" / "guest-tiny-1" / "boot" / "vmlinuz"
    archives.append("guest-tiny-2.tar")
    assert guests.tiny_files(where)[1] != initrd
    assert not initrd.parent.parent.exists()
