"""Snapshots' files in a volume of a real berth: whole or not there, verified, put back, forgotten, no link followed."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from berth.api.kept import Consistency, RevertOrder, SnapshotDisk, SnapshotOrder, StateOrder
from berth.domain.files import DiskFile
from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders
from berth.effects.kept_files import MAGIC
from berth.effects.ports import Berth
from berth.effects.ports_saving import SnapshotDraft, SnapshotMoment
from berth.effects.reverts import NodeReverts
from berth.effects.snapshots import NodeSnapshots
from berth.effects.states import NodeStates
from berth.errors import HostFault
from tests.contract import pods

MIB = 1 << 20
GUEST = 64_001
DISKS = (SnapshotDisk(name="root", size_bytes=4 * MIB),)
STATE = StateOrder(folder="/berth/saved")
CONTENT = os.urandom(MIB)


def uid(number: int = 1) -> str:
    return f"55555555-0000-4000-8000-{number:012d}"


def snapshot(number: int = 1, *, memory: bool = True) -> SnapshotOrder:
    return SnapshotOrder(uid=uid(number), name=f"s{number}", memory=memory)


def revert(request: str = "r1", number: int = 1, *, memory: bool = True) -> RevertOrder:
    return RevertOrder(request=request, snapshot=uid(number), name=f"s{number}", memory=memory)


@dataclass
class Bench:
    files: NodeSnapshots
    reverts: NodeReverts
    states: NodeStates
    berth: Berth
    volume: Path
    uid: str

    @property
    def folder(self) -> Path:
        return self.volume / self.uid

    def of(self, number: int = 1) -> Path:
        return self.folder / "snapshots" / uid(number)

    def names(self, number: int = 1) -> list[str]:
        return sorted(os.listdir(self.of(number)))

    def look(self, number: int = 1) -> frozenset[str]:
        """The whole ones, from both that look; the one that is asked for is told from its manifest."""
        found = self.files.look(self.uid, self.berth, STATE.model_copy(update={"snapshot": snapshot(number)}))
        whole = self.states.look(self.uid, self.berth, STATE).snapshots
        assert (found.ready is not None) == (uid(number) in whole)
        return whole

    def draft(self, number: int = 1, disks: tuple[SnapshotDisk, ...] = DISKS) -> SnapshotDraft:
        return self.files.draft(self.uid, GUEST, self.berth, STATE, snapshot(number), disks)

    def take(self, number: int = 1) -> None:
        """As the agent does, with a QEMU that writes this."""
        made = self.draft(number)
        assert made.memory is not None
        Path(made.memory).write_bytes(MAGIC + b"memory")
        write(made.disks["root"], CONTENT)
        moment = SnapshotMoment("2026-01-01T00:00:00Z", Consistency.MEMORY, 120, "pc-q35-10.0", DISKS)
        self.files.finish(self.uid, self.berth, STATE, snapshot(number), moment)
        self.files.unmark(self.uid)

    def refusal(self, number: int = 1) -> str:
        with pytest.raises(HostFault) as caught:
            self.reverts.open(self.uid, self.berth, STATE, revert(number=number))
        return caught.value.reason

    def put_back(self, path: Path, form: str, backing: str | None = None) -> None:
        file = DiskFile("root", str(path), form, backing)
        self.reverts.put_back(self.uid, GUEST, self.berth, STATE, revert(), DISKS[0], file)


def write(path: str, content: bytes) -> None:
    """Into a qcow2 image, at its begin."""
    source = Path(path).parent / "content.raw"
    source.write_bytes(content)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", str(source), path)
    source.unlink()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def content(path: Path, form: str) -> bytes:
    """All that the guest would see."""
    raw = path.parent / "seen.raw"
    run("qemu-img", "convert", "-f", form, "-O", "raw", str(path), str(raw))
    return raw.read_bytes()


def owned(path: Path, data: bytes = b"") -> Path:
    path.write_bytes(data)
    os.chown(path, GUEST, GUEST)
    return path


@pytest.fixture
def bench(
    start_pod: Callable[..., pods.FakePod], berths: NodeBerths, machines: MachineFolders, tmp_path: Path
) -> Bench:
    pod = start_pod()
    volume = pod.root / "berth/saved"
    volume.mkdir()
    vm_uid = str(uuid.uuid4())
    berth = berths.find(pod.uid)
    assert berth is not None
    machines.make(vm_uid)
    return Bench(NodeSnapshots(machines), NodeReverts(machines), NodeStates(machines), berth, volume, vm_uid)


def test_a_snapshot_is_whole_when_its_manifest_is_there(bench: Bench) -> None:
    assert bench.look() == frozenset()
    made = bench.draft()
    assert bench.files.begun(bench.uid)
    assert (os.stat(made.disks["root"]).st_uid, os.stat(made.memory or "").st_uid) == (GUEST, 0)
    assert bench.look() == frozenset()
    bench.take()
    assert bench.look() == {uid()}
    assert not bench.files.begun(bench.uid)
    assert bench.names() == ["disk-root.qcow2", "memory", "snapshot.json"]
    found = [(bench.of() / name).stat() for name in bench.names()]
    assert {(one.st_mode & 0o777, one.st_uid, one.st_gid) for one in found} == {(0o600, 0, 0)}
    assert not list(bench.files.machines.path(bench.uid).glob("snapshot-*/*"))
    ready = bench.files.look(bench.uid, bench.berth, STATE.model_copy(update={"snapshot": snapshot()})).ready
    assert ready is not None
    assert (ready.memory_bytes, ready.pause_ms, ready.disks[0].size_bytes) == (len(MAGIC) + 6, 120, 4 * MIB)
    assert MIB <= ready.disks[0].stored_bytes < 2 * MIB


def test_what_was_broken_off_is_removed_and_what_is_whole_is_not(bench: Bench) -> None:
    bench.take(1)
    bench.draft(2)
    bench.draft(3)
    assert sorted(os.listdir(bench.folder / "snapshots")) == [uid(1), uid(3)]
    bench.files.scrap(bench.uid, bench.berth, STATE)
    assert bench.files.begun(bench.uid)
    assert os.listdir(bench.folder / "snapshots") == [uid(1)]
    bench.files.unmark(bench.uid)
    assert not bench.files.begun(bench.uid)


def test_the_mark_tells_whether_file_systems_may_be_frozen(bench: Bench) -> None:
    bench.draft()
    assert not bench.files.frozen(bench.uid)
    bench.files.mark_frozen(bench.uid, frozen=True)
    assert bench.files.frozen(bench.uid)
    bench.files.mark_frozen(bench.uid, frozen=False)
    assert not bench.files.frozen(bench.uid)
    bench.files.scrap(bench.uid, bench.berth, STATE)
    assert os.listdir(bench.folder / "snapshots") == []


def test_states_and_snapshots_leave_each_other_alone(bench: Bench) -> None:
    bench.take()
    for epoch in (1, 2):
        Path(bench.states.draft(bench.uid, bench.berth, STATE, epoch)).write_bytes(MAGIC)
        bench.states.finish(bench.uid, bench.berth, STATE, epoch, "")
    bench.draft(2)
    assert bench.states.look(bench.uid, bench.berth, STATE).complete == {2}
    bench.states.scrap(bench.uid, bench.berth, STATE)
    assert bench.look() == {uid()}
    assert os.listdir(bench.folder) == ["snapshots"]


def test_memory_that_libvirt_did_not_end_is_no_snapshot(bench: Bench) -> None:
    made = bench.draft()
    Path(made.memory or "").write_bytes(b"LibvirtQemudPart")
    with pytest.raises(HostFault, match="written it to its end"):
        bench.files.finish(bench.uid, bench.berth, STATE, snapshot(), SnapshotMoment("", Consistency.MEMORY))
    assert bench.look() == frozenset()


def test_every_change_of_a_snapshot_is_found(bench: Bench) -> None:
    bench.take()
    for name in ("memory", "disk-root.qcow2"):
        file = bench.of() / name
        whole = file.read_bytes()
        for spoiled in (whole[:-1], whole + b"x", whole[:-1] + bytes([whole[-1] ^ 1])):
            file.write_bytes(spoiled)
            assert bench.refusal() == "SnapshotCorrupt"
        file.write_bytes(whole)
    manifest = bench.of() / "snapshot.json"
    text = manifest.read_text()
    for other in ({"uid": uid(2)}, {"vm": "another"}, {"version": 2}, {"consistency": "Perhaps"}):
        manifest.write_text(json.dumps({**json.loads(text), **other}))
        assert bench.refusal() == "SnapshotCorrupt"
    manifest.write_text("{")
    assert bench.refusal() == "SnapshotCorrupt"
    manifest.write_text(text)
    kept = bench.reverts.open(bench.uid, bench.berth, STATE, revert())
    assert (kept.machine, [disk.name for disk in kept.disks]) == ("pc-q35-10.0", ["root"])


def test_a_raw_disk_is_exactly_what_it_was(bench: Bench, tmp_path: Path) -> None:
    bench.take()
    disk = owned(tmp_path / "disk.img", os.urandom(6 * MIB))
    for _ in range(2):
        bench.put_back(disk, "raw")
        assert disk.read_bytes() == CONTENT + bytes(3 * MIB)
        assert disk.stat().st_blocks * 512 < 2 * MIB
        assert disk.stat().st_uid == GUEST
    found = [(bench.of() / name).stat() for name in bench.names()]
    assert {(one.st_mode & 0o777, one.st_uid, one.st_gid) for one in found} == {(0o600, 0, 0)}
    assert bench.reverts.open(bench.uid, bench.berth, STATE, revert()).bytes > MIB


def test_a_disk_that_somebody_has_open_is_left_as_it_is(bench: Bench, tmp_path: Path) -> None:
    bench.take()
    disk = owned(tmp_path / "disk.img", b"x" * 512)
    drive = ["-drive", f"file={disk},format=raw,if=virtio"]
    qemu = ["qemu-system-x86_64", "-M", "q35", "-S", "-display", "none", "-m", "64", "-qmp", "stdio", *drive]
    holder = subprocess.Popen(qemu, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b'{"execute": "qmp_capabilities"}\n')
        holder.stdin.flush()
        while b'"return"' not in holder.stdout.readline():  # it answers once it has all that it needs
            assert holder.poll() is None
        with pytest.raises(HostFault, match="lock"):
            bench.put_back(disk, "raw")
        assert disk.read_bytes() == b"x" * 512
    finally:
        holder.kill()
        holder.communicate()
    bench.put_back(disk, "raw")


def test_a_qcow2_disk_and_an_overlay_are_exactly_what_they_were(bench: Bench, tmp_path: Path) -> None:
    bench.take()
    tmp_path.chmod(0o755)
    disk = owned(tmp_path / "disk.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", str(disk), "8M")
    write(str(disk), os.urandom(5 * MIB))
    bench.put_back(disk, "qcow2")
    assert content(disk, "qcow2") == CONTENT + bytes(3 * MIB)
    base = tmp_path / "base.raw"
    base.write_bytes(os.urandom(2 * MIB))
    overlay = owned(tmp_path / "overlay.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(overlay), "8M")
    for folder in tmp_path.parents:
        folder.chmod(folder.stat().st_mode | 0o055)
    for _ in range(2):
        bench.put_back(overlay, "qcow2", str(base))
        assert content(overlay, "qcow2") == CONTENT + bytes(3 * MIB)


def test_an_image_that_names_other_files_is_refused(bench: Bench, tmp_path: Path) -> None:
    bench.take()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    image = bench.of() / "disk-root.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(image), "4M")
    disk = owned(tmp_path / "disk.img", b"x" * 512)
    with pytest.raises(HostFault, match="backing file"):
        bench.put_back(disk, "raw")
    assert disk.read_bytes() == b"x" * 512


def test_a_revert_is_marked_while_it_is_half_done_and_once_it_is_over(bench: Bench) -> None:
    bench.take()
    Path(bench.states.draft(bench.uid, bench.berth, STATE, 1)).write_bytes(MAGIC)
    bench.states.finish(bench.uid, bench.berth, STATE, 1, "")
    bench.reverts.begin(bench.uid, bench.berth, STATE, revert())
    kept = bench.states.look(bench.uid, bench.berth, STATE)
    assert (kept.reverting, kept.reverted) == (revert(), "")
    assert Path(bench.reverts.show(bench.uid, bench.berth, STATE, revert())).read_bytes() == MAGIC + b"memory"
    for _ in range(2):
        bench.reverts.use(bench.uid, bench.berth, STATE, revert())
        kept = bench.states.look(bench.uid, bench.berth, STATE)
        assert (kept.reverting, kept.reverted, kept.complete) == (None, "r1", frozenset())
    assert bench.states.clock_due(bench.uid)
    assert bench.files.look(bench.uid, bench.berth, STATE).reverted == "r1"
    bench.reverts.begin(bench.uid, bench.berth, STATE, revert())  # killed between the two marks
    assert bench.states.look(bench.uid, bench.berth, STATE).reverting is None
    assert bench.look() == {uid()}


def test_deleted_ones_are_removed_and_nothing_else(bench: Bench) -> None:
    for number in (1, 2):
        bench.take(number)
    (bench.folder / "snapshots" / "notes").mkdir()
    for _ in range(2):
        bench.files.forget(bench.uid, bench.berth, STATE, (uid(1), uid(3), "notes", "../.."))
        assert bench.look() == {uid(2)}
    assert sorted(os.listdir(bench.folder / "snapshots")) == [uid(2), "notes"]


def test_links_lead_nowhere(bench: Bench, tmp_path: Path) -> None:
    bench.take()
    outside = tmp_path / "outside"
    bench.of().rename(outside)
    bench.of().symlink_to(outside)
    assert bench.refusal() == "UnsafePath"
    bench.files.forget(bench.uid, bench.berth, STATE, (uid(),))
    assert not bench.of().is_symlink()
    assert len(list(outside.iterdir())) == 3
    bench.take(2)
    memory = bench.of(2) / "memory"
    memory.unlink()
    memory.symlink_to(outside / "memory")
    assert bench.refusal(2) == "UnsafePath"
    (bench.folder / "snapshots").rename(tmp_path / "moved")
    (bench.folder / "snapshots").symlink_to(tmp_path / "moved")
    for refused in (bench.draft, bench.look):
        with pytest.raises(HostFault):
            refused()
    with pytest.raises(HostFault):
        bench.files.forget(bench.uid, bench.berth, STATE, (uid(2),))
    assert len(list((tmp_path / "moved" / uid(2)).iterdir())) == 3


def test_a_full_volume_is_named(bench: Bench) -> None:
    where = ["nsenter", "-t", str(bench.berth.pid), "-m", "mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs"]
    subprocess.run([*where, str(bench.volume)], check=True)
    many = tuple(SnapshotDisk(name=f"d{number}", size_bytes=MIB) for number in range(4))
    with pytest.raises(HostFault) as caught:
        bench.draft(disks=many)
    assert caught.value.reason == "VolumeFull"
    bench.files.scrap(bench.uid, bench.berth, STATE)
    assert bench.look() == frozenset()


def test_a_name_that_is_no_uid_is_refused(bench: Bench) -> None:
    for name in ("..", "../x", "", "memory-1"):
        given = SnapshotOrder(uid=name, name="s")
        with pytest.raises(HostFault) as caught:
            bench.files.draft(bench.uid, GUEST, bench.berth, STATE, given, DISKS)
        assert caught.value.reason == "BadUid"
