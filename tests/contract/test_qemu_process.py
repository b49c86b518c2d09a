"""QEMU's process without libvirt: found, frozen, thawed, killed; and what is promised outlives the agent."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from berth.domain.observed import HandoverRecord, HandoverState, QemuProcess
from berth.effects import qemu_process
from berth.effects.berths import NodeBerths
from berth.effects.qemu_process import NodeQemus
from tests.contract import pods

UID = str(uuid.uuid4())
BUSY = "import threading\nfor _ in range(3): threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Something with threads that never rest, started as libvirt starts QEMU."""
    made = subprocess.Popen([sys.executable, "-c", BUSY, "-uuid", UID])
    (tmp_path / "team_web.pid").write_text(str(made.pid))
    yield made
    made.kill()
    made.wait()


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def test_it_is_found_by_name_and_uid(program: subprocess.Popen[bytes], tmp_path: Path) -> None:
    qemus = NodeQemus(tmp_path)
    pods.until(lambda: qemus.find(UID, "team_web"), what="the process")
    assert qemus.find(str(uuid.uuid4()), "team_web") is None
    assert qemus.find(UID, "team_other") is None


def test_frozen_it_does_nothing_until_it_is_thawed(program: subprocess.Popen[bytes], tmp_path: Path) -> None:
    qemus = NodeQemus(tmp_path)
    pods.until(lambda: qemus.find(UID, "team_web") and ticks(program.pid) > 5, what="some work")
    found = qemus.find(UID, "team_web")
    assert found is not None
    for _ in range(20):
        qemus.freeze(found)
        before = ticks(program.pid)
        subprocess.run([sys.executable, "-c", "sum(range(100_000))"], check=True)  # meanwhile somebody else works
        assert ticks(program.pid) == before
        qemus.thaw(found)
    pods.until(lambda: ticks(program.pid) > before, what="more work")
    assert qemus.alive(found)


def test_killed_frozen_or_not_it_is_dead(program: subprocess.Popen[bytes], tmp_path: Path) -> None:
    qemus = NodeQemus(tmp_path)
    pods.until(lambda: qemus.find(UID, "team_web"), what="the process")
    found = qemus.find(UID, "team_web")
    assert found is not None
    qemus.freeze(found)
    before = ticks(program.pid)
    qemus.kill(found)
    assert not qemus.alive(found) or qemu_process._all_exiting(found.pid)
    pods.until(lambda: not qemus.alive(found), what="its end")
    assert qemus.find(UID, "team_web") is None
    assert not Path(f"/proc/{program.pid}/stat").exists() or ticks(program.pid) <= before + 1
    for again in (qemus.kill, qemus.freeze, qemus.thaw):
        again(found)


def test_another_process_with_its_pid_is_left_alone(program: subprocess.Popen[bytes], tmp_path: Path) -> None:
    qemus = NodeQemus(tmp_path)
    other = QemuProcess(program.pid, 1)
    assert not qemus.alive(other)
    for harm in (qemus.freeze, qemus.kill):
        harm(other)
    assert program.poll() is None
    assert Path(f"/proc/{program.pid}/stat").read_text().rpartition(") ")[2][0] in "RS"


def test_what_was_promised_is_read_again(berths: NodeBerths) -> None:
    vm = str(uuid.uuid4())
    assert berths.handover_record(vm) is None
    record = HandoverRecord("m", 7, "node-b", HandoverState.SENDING, QemuProcess(5, 99))
    for one in (record, replace(record, state=HandoverState.FAILED, qemu=None, reason="Cancelled", message="ü")):
        berths.record_handover(vm, one)
        assert berths.handover_record(vm) == one
    berths.forget(vm)
    assert berths.handover_record(vm) is None
