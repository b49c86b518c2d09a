"""Saved states in a volume of a real berth: whole or not there, verified, used once, no link followed."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from berth.api.kept import SnapshotDisk, StateOrder
from berth.domain.files import DiskFile
from berth.domain.observed import KeptStates
from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders
from berth.effects.kept_files import MAGIC
from berth.effects.ports import Berth
from berth.effects.states import NodeStates
from berth.errors import HostFault
from tests.contract import pods

STATE = StateOrder(folder="/berth/saved")


@dataclass
class Bench:
    states: NodeStates
    berth: Berth
    volume: Path
    uid: str

    @property
    def folder(self) -> Path:
        return self.volume / self.uid

    def names(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir())

    def look(self) -> KeptStates:
        return self.states.look(self.uid, self.berth, STATE)

    def save(self, epoch: int, content: bytes = MAGIC + b"memory") -> str:
        """As the agent does, with a libvirt that writes this; the path that it writes to."""
        path = self.states.draft(self.uid, self.berth, STATE, epoch)
        Path(path).write_bytes(content)
        self.states.finish(self.uid, self.berth, STATE, epoch, "pc-q35-10.0")
        return path

    def scrap(self) -> None:
        self.states.scrap(self.uid, self.berth, STATE)

    def refusal(self, epoch: int) -> str:
        with pytest.raises(HostFault) as caught:
            self.states.open(self.uid, self.berth, STATE, epoch)
        return caught.value.reason


@pytest.fixture
def bench(
    start_pod: Callable[..., pods.FakePod], berths: NodeBerths, machines: MachineFolders, tmp_path: Path
) -> Bench:
    pod = start_pod()
    volume = pod.root / "berth/saved"
    volume.mkdir()
    uid = str(uuid.uuid4())
    berth = berths.find(pod.uid)
    assert berth is not None
    machines.make(uid)
    return Bench(NodeStates(machines), berth, volume, uid)


def test_a_state_is_whole_when_its_manifest_is_there(bench: Bench) -> None:
    assert bench.look() == KeptStates()
    path = bench.states.draft(bench.uid, bench.berth, STATE, 3)
    assert bench.states.begun(bench.uid)
    assert bench.look() == KeptStates()
    Path(path).write_bytes(MAGIC + b"memory")
    assert bench.states.finish(bench.uid, bench.berth, STATE, 3, "pc-q35-10.0") == len(MAGIC) + 6
    assert bench.look() == KeptStates(frozenset({3}))
    assert bench.names() == ["memory-3", "state-3.json"]
    assert {(bench.folder / name).stat().st_mode & 0o777 for name in bench.names()} == {0o600}
    saved = bench.states.open(bench.uid, bench.berth, STATE, 3)
    assert Path(saved.path).read_bytes() == MAGIC + b"memory"
    assert saved.machine == "pc-q35-10.0"


def test_a_state_that_libvirt_did_not_end_is_never_whole(bench: Bench) -> None:
    with pytest.raises(HostFault, match="written to its end"):
        bench.save(3, b"LibvirtQemudPart and more")
    assert bench.look() == KeptStates()
    bench.scrap()
    assert bench.names() == []
    assert not bench.states.begun(bench.uid)


def test_a_newer_state_takes_the_place_of_older_ones(bench: Bench) -> None:
    bench.save(1)
    bench.states.use(bench.uid, bench.berth, STATE, 1)
    bench.save(2)
    bench.save(3)
    assert bench.names() == ["memory-3", "state-3.json"]


def test_a_used_state_is_remembered_as_used(bench: Bench) -> None:
    bench.save(1)
    for _ in range(2):
        bench.states.use(bench.uid, bench.berth, STATE, 1)
        assert bench.look() == KeptStates(used=frozenset({1}))
    assert bench.states.clock_due(bench.uid)
    bench.states.clock_set(bench.uid)
    assert not bench.states.clock_due(bench.uid)
    for _ in range(2):
        bench.scrap()
        assert bench.names() == ["used-1.json"]


def test_a_broken_off_attempt_is_removed_by_the_next(bench: Bench) -> None:
    bench.states.draft(bench.uid, bench.berth, STATE, 1)
    bench.states.draft(bench.uid, bench.berth, STATE, 2)
    assert bench.names() == ["memory-2"]


def test_what_is_not_ours_in_the_volume_is_left_alone(bench: Bench) -> None:
    bench.save(1)
    (bench.folder / "notes.txt").write_text("mine")
    (bench.volume / "lost+found").mkdir()
    bench.scrap()
    assert bench.names() == ["notes.txt"]


def test_every_change_of_a_state_is_found(bench: Bench) -> None:
    bench.save(1)
    memory, manifest = bench.folder / "memory-1", bench.folder / "state-1.json"
    whole, text = memory.read_bytes(), manifest.read_text()
    for spoiled in (whole[:-1], whole + b"x", whole[:-1] + b"?", b""):
        memory.write_bytes(spoiled)
        assert bench.refusal(1) == "StateCorrupt"
    memory.write_bytes(whole)
    for other in ({"uid": "another"}, {"epoch": 2}, {"version": 2}, {"sha256": "0"}):
        manifest.write_text(json.dumps({**json.loads(text), **other}))
        assert bench.refusal(1) == "StateCorrupt"
    manifest.write_text("{")
    assert bench.refusal(1) == "StateCorrupt"
    manifest.write_text(text)
    assert bench.states.open(bench.uid, bench.berth, STATE, 1).path


def test_a_disk_beside_the_memory_is_verified_put_back_and_goes_with_it(bench: Bench, tmp_path: Path) -> None:
    size, guest = 1 << 20, 1_900_000_055
    disk, source, target = SnapshotDisk(name="data", size_bytes=size), tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    target.write_bytes(os.urandom(2 * size))
    os.chown(target, guest, guest)
    Path(bench.states.draft(bench.uid, bench.berth, STATE, 3)).write_bytes(MAGIC + b"memory")
    drafts = bench.states.draft_disks(bench.uid, guest, bench.berth, STATE, 3, [disk])
    assert os.stat(drafts["data"]).st_uid == guest
    subprocess.run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", source, drafts["data"]], check=True)
    bench.states.finish(bench.uid, bench.berth, STATE, 3, "pc-q35-10.0", [disk])
    assert Path(drafts["data"]).stat().st_size == 0, "it is shown no more"
    assert bench.names() == ["disk-3-data.qcow2", "memory-3", "state-3.json"]
    kept = bench.folder / "disk-3-data.qcow2"
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o600, 0)
    saved = bench.states.open(bench.uid, bench.berth, STATE, 3)
    assert [(one.name, one.size_bytes) for one in saved.disks] == [("data", size)]
    file = DiskFile("data", str(target), "raw")
    bench.states.put_back(bench.uid, guest, bench.berth, STATE, 3, saved.disks[0], file)
    assert target.read_bytes() == source.read_bytes()
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o600, 0)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert bench.refusal(3) == "StateCorrupt"
    bench.scrap()
    assert bench.names() == []


def test_links_lead_nowhere(bench: Bench, tmp_path: Path) -> None:
    bench.save(1)
    secret = tmp_path / "secret"
    secret.write_bytes(MAGIC)
    (bench.folder / "memory-1").unlink()
    (bench.folder / "memory-1").symlink_to(secret)
    assert bench.refusal(1) == "UnsafePath"
    other = tmp_path / "other"
    bench.folder.rename(other)
    bench.folder.symlink_to(other)
    with pytest.raises(HostFault):
        bench.look()
    with pytest.raises(HostFault):
        bench.states.draft(bench.uid, bench.berth, STATE, 2)
    assert secret.read_bytes() == MAGIC


def test_a_full_volume_is_named(bench: Bench) -> None:
    where = ["nsenter", "-t", str(bench.berth.pid), "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs"]
    subprocess.run([*where, str(bench.volume)], check=True)
    path = bench.states.draft(bench.uid, bench.berth, STATE, 1)
    with open(path, "wb", buffering=0) as file:
        file.write(MAGIC + os.urandom(65536))
    with pytest.raises(HostFault) as caught:
        bench.states.finish(bench.uid, bench.berth, STATE, 1, "")
    assert caught.value.reason == "VolumeFull"
    bench.scrap()
    assert bench.look() == KeptStates()
