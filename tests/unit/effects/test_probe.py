"""The KVM probe's verdicts, with programs that behave as QEMU may; the guest code itself runs in tests/contract."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from berth.effects import probe
from berth.effects.ports import KvmProbe

SAYS = "printf 'berth: 64-bit guest code runs\\n'"
MSR = "qemu-system-x86_64: error: failed to set MSR 0x10a to 0x1"


def run(folder: Path, script: str, seconds: float = 20) -> KvmProbe:
    qemu = folder / "qemu"
    qemu.write_text(f"#!/bin/sh\n{script}\n")
    qemu.chmod(0o755)
    return probe.HostProber(str(qemu), Path("/dev/null"), seconds).kvm()


def test_guest_code_that_ran(tmp_path: Path) -> None:
    assert run(tmp_path, f"{SAYS}; exit 33").usable


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f"{SAYS}; exit 0", "ended with code 0"),
        ("exit 33", "ended with code 33"),
        (f"echo '{MSR}' >&2; kill -ABRT $$", "ended by SIGABRT before guest code ran: error: failed to set MSR 0x10a"),
    ],
)
def test_guest_code_that_did_not(tmp_path: Path, script: str, reason: str) -> None:
    found = run(tmp_path, script)
    assert not found.usable
    assert reason in found.reason


def test_what_hangs_is_killed(tmp_path: Path) -> None:
    start = time.monotonic()
    found = run(tmp_path, "exec sleep 300", seconds=0.3)
    assert not found.usable
    assert "hangs" in found.reason
    assert time.monotonic() - start < 60


def test_what_is_not_there(tmp_path: Path) -> None:
    assert not probe.HostProber(vhost=tmp_path / "vhost-net").vhost()
    (tmp_path / "vhost").write_text("")
    assert probe.HostProber(vhost=tmp_path / "vhost").vhost()
    assert "does not exist" in probe.HostProber(device=tmp_path / "kvm").kvm().reason
    assert "cannot be opened" in probe.HostProber(device=tmp_path).kvm().reason
    assert "cannot be started" in probe.HostProber(str(tmp_path / "qemu"), Path("/dev/null")).kvm().reason


def test_the_firmware_is_one_whole_rom() -> None:
    rom = probe.firmware()
    assert len(rom) == 0x10000
    assert rom[0xFFF0] == 0xEA
    assert rom.index(probe.LINE) == 0xA6  # where the code looks for it
