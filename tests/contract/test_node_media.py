"""Disks, kernel, seed and sockets of a machine in a real berth, made by real qemu-img, seen as QEMU's uid sees them."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pycdlib
import pytest

from berth.api.order import CloudInitOrder, DiskKind, DiskOrder, FileOrder, KernelOrder
from berth.domain.files import MediaFiles
from berth.effects import mounts
from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders
from berth.effects.media import NodeMedia
from berth.effects.ports import Berth
from berth.errors import HostFault
from tests.contract import pods

VM = "6f5ffeef-839c-4c00-8437-8da47dfe23fa"
GUEST_UID = 1_900_000_777
MIB = 1 << 20


@dataclass(slots=True)
class Bench:
    media: NodeMedia
    berth: Berth
    pod: pods.FakePod

    def volume(self, name: str) -> Path:
        """A folder of the pod, as one of its volumes."""
        path = Path(f"/proc/{self.pod.pid}/root/berth/{name}")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def prepare(self, *disks: DiskOrder, vnc: bool = False, **options: object) -> MediaFiles:
        defaults: dict[str, object] = {"kernel": None, "cloud_init": None}
        return self.media.prepare(VM, GUEST_UID, self.berth, disks=disks, vnc=vnc, **(defaults | options))  # type: ignore[arg-type]


@pytest.fixture
def bench(start_pod: Callable[..., pods.FakePod], berths: NodeBerths, machines: MachineFolders) -> Bench:
    pod = start_pod()
    berth = berths.find(pod.uid)
    assert berth is not None
    return Bench(NodeMedia(machines), berth, pod)


def image(path: Path, form: str = "qcow2", size: int = 64 * MIB, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *options, path, str(size)], check=True)
    path.chmod(0o644)
    return path


def info(path: str) -> dict[str, object]:
    """As the machine's own uid."""
    drop = ["setpriv", f"--reuid={GUEST_UID}", f"--regid={GUEST_UID}", "--clear-groups", "--bounding-set=-all"]
    out = subprocess.run([*drop, "qemu-img", "info", "--output=json", path], check=True, capture_output=True).stdout
    found: dict[str, object] = json.loads(out)
    return found


def overlay(name: str = "root", path: str = "disk.qcow2", size: int | None = None) -> DiskOrder:
    source = FileOrder(folder=f"/berth/images/{name}", path=path)
    return DiskOrder(name=name, kind=DiskKind.OVERLAY, source=source, size_bytes=size)


def claim(path: str = "disk.img", size: int | None = None, read_only: bool = False) -> DiskOrder:
    source = FileOrder(folder="/berth/claims/data", path=path)
    return DiskOrder(name="data", kind=DiskKind.FILE, source=source, size_bytes=size, read_only=read_only)


@pytest.mark.parametrize("form", ["qcow2", "raw"])
def test_overlay_over_an_image_that_stays_as_it_is(bench: Bench, form: str) -> None:
    base = image(bench.volume("images/root") / "disk.qcow2", form)
    before = base.read_bytes()
    [disk] = bench.prepare(overlay(size=128 * MIB)).disks
    assert (disk.format, disk.backing_format) == ("qcow2", form)
    seen = info(disk.path)
    assert seen["virtual-size"] == 128 * MIB
    assert seen["backing-filename"] == disk.backing_path == f"{bench.media.machines.root}/{VM}/disk-root.base"
    assert os.stat(disk.path).st_uid == GUEST_UID
    assert base.read_bytes() == before


def test_the_second_time_nothing_is_made_anew(bench: Bench) -> None:
    image(bench.volume("images/root") / "disk.qcow2")
    first = bench.prepare(overlay(), DiskOrder(name="scratch", kind=DiskKind.EMPTY, size_bytes=MIB), vnc=True)
    Path(first.disks[1].path).write_bytes(b"written by the guest" + bytes(MIB - 20))
    inodes = [os.stat(disk.path).st_ino for disk in first.disks]
    points = mounts.beneath(bench.media.machines.path(VM))
    again = bench.prepare(overlay(), DiskOrder(name="scratch", kind=DiskKind.EMPTY, size_bytes=MIB), vnc=True)
    assert again == first
    assert [os.stat(disk.path).st_ino for disk in again.disks] == inodes
    assert mounts.beneath(bench.media.machines.path(VM)) == points
    assert Path(first.disks[1].path).read_bytes().startswith(b"written by the guest")


@pytest.mark.parametrize("size", [32 * MIB, 64 * MIB, 96 * MIB])
def test_an_empty_disk_is_made_as_large_as_a_guest_that_comes_knows_it(bench: Bench, size: int) -> None:
    image(bench.volume("images/root") / "disk.qcow2")
    files = bench.prepare(overlay(), DiskOrder(name="scratch", kind=DiskKind.EMPTY, size_bytes=64 * MIB)).disks
    for file in files:
        bench.media.fit(GUEST_UID, file, size)
        assert info(file.path)["virtual-size"] == size
        assert os.stat(file.path).st_uid == GUEST_UID
    assert info(files[0].path)["backing-filename"] == files[0].backing_path


def test_a_guest_that_comes_finds_its_files_on_claims_or_nothing_is_made(bench: Bench) -> None:
    place = bench.volume("claims/data") / "disk.img"
    with pytest.raises(HostFault) as raised:
        bench.prepare(claim(size=MIB), arriving=True)
    assert raised.value.reason == "ClaimNotShared"
    assert os.listdir(place.parent) == []
    bench.prepare(claim(size=MIB))
    assert bench.prepare(claim(size=MIB), arriving=True).disks[0].format == "raw"


def test_a_mark_on_a_volume_is_seen_until_it_is_taken_away(bench: Bench) -> None:
    place, folder = bench.volume("claims/data"), "/berth/claims/data"
    media, berth = bench.media, bench.berth
    assert not media.is_marked(berth, folder, ".berth-1")
    media.mark(berth, folder, ".berth-1")
    assert os.listdir(place) == [".berth-1"]
    assert media.is_marked(berth, folder, ".berth-1")
    with pytest.raises(HostFault):
        media.mark(berth, folder, ".berth-1")
    media.unmark(berth, folder, ".berth-1")
    media.unmark(berth, folder, ".berth-1")
    assert os.listdir(place) == []
    (place / ".berth-2").symlink_to("/etc/passwd")
    with pytest.raises(HostFault):
        media.is_marked(berth, folder, ".berth-2")
    with pytest.raises(HostFault):
        media.mark(berth, "/berth/claims/none", ".berth-1")


def test_what_an_attempt_left_half_made_is_made_anew(bench: Bench) -> None:
    image(bench.volume("images/root") / "disk.qcow2")
    (bench.volume("state") / "root.qcow2.berth-new").write_bytes(b"half")
    [disk] = bench.prepare(overlay()).disks
    assert info(disk.path)["virtual-size"] == 64 * MIB
    assert not (bench.volume("state") / "root.qcow2.berth-new").exists()


def test_file_on_a_claim_is_made_then_kept_then_grown(bench: Bench) -> None:
    place = bench.volume("claims/data") / "vms/one.img"
    place.parent.mkdir()
    [disk] = bench.prepare(claim("vms/one.img", 8 * MIB)).disks
    assert (disk.format, disk.backing_path, place.stat().st_size) == ("raw", None, 8 * MIB)
    assert (place.stat().st_uid, stat.S_IMODE(place.stat().st_mode)) == (GUEST_UID, 0o600)
    place.write_bytes(b"LUKS\xba\xbe" + bytes(8 * MIB - 6))  # whatever the guest writes is the guest's
    os.chown(place, 0, 0)
    bench.prepare(claim("/vms/one.img", 16 * MIB))
    assert place.stat().st_size == 16 * MIB
    assert place.stat().st_uid == GUEST_UID
    assert place.read_bytes()[:4] == b"LUKS"
    bench.prepare(claim("vms/one.img", 4 * MIB))
    assert place.stat().st_size == 16 * MIB  # never smaller


def test_qcow2_on_a_claim(bench: Bench) -> None:
    bench.volume("claims/data")
    [disk] = bench.prepare(claim("disk.qcow2", 8 * MIB)).disks
    assert disk.format == "qcow2"
    assert info(disk.path)["virtual-size"] == 8 * MIB
    bench.prepare(claim("disk.qcow2", 16 * MIB))
    assert info(disk.path)["virtual-size"] == 16 * MIB


def test_read_only_file_is_left_alone(bench: Bench) -> None:
    place = image(bench.volume("claims/data") / "disk.img", "raw", MIB)
    bench.prepare(claim(size=8 * MIB, read_only=True))
    assert (place.stat().st_uid, place.stat().st_size) == (0, MIB)
    with pytest.raises(HostFault, match="no such file"):
        bench.prepare(claim("other.img", 8 * MIB, read_only=True))


def refusal(bench: Bench, *disks: DiskOrder, **options: object) -> HostFault:
    with pytest.raises(HostFault) as caught:
        bench.prepare(*disks, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("make", "reason", "words"),
    [
        (lambda p: None, "ImageFileMissing", "no such file"),
        (lambda p: p.write_text("hello"), "ImageCorrupt", "5 bytes"),
        (lambda p: p.write_bytes(b"\x1f\x8b" + bytes(2000)), "ImageCorrupt", "is a gzip file"),
        (lambda p: image(p, "vmdk"), "ImageCorrupt", "VMDK"),
        (lambda p: image(p, "vdi"), "ImageCorrupt", "VDI"),
        (
            lambda p: image(p, "qcow2", MIB, "-u", "-b", "/etc/shadow", "-F", "raw"),
            "ImageUnsafe",
            "names a backing file",
        ),
        (lambda p: image(p, "qcow2", MIB, "-o", f"data_file={p}.data"), "ImageUnsafe", "data in another file"),
        (lambda p: (image(p), p.chmod(0o600)), "ImageUnreadable", "chmod o\\+r"),
        (lambda p: p.symlink_to("/etc/shadow"), "ImageUnsafe", "symbolic link"),
        (lambda p: p.mkdir(), "ImageUnsafe", "must be a regular file, but is a folder"),
        (lambda p: p.write_bytes(image(p).read_bytes()[:80]), "ImageCorrupt", "cut off"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(
    bench: Bench, make: Callable[[Path], object], reason: str, words: str
) -> None:
    make(bench.volume("images/root") / "disk.qcow2")
    error = refusal(bench, overlay())
    assert error.reason == reason
    assert str(error).startswith("disk root: disk.qcow2: ")
    with pytest.raises(HostFault, match=words):
        raise error


def test_a_size_below_the_images_is_refused(bench: Bench) -> None:
    image(bench.volume("images/root") / "disk.qcow2")
    error = refusal(bench, overlay(size=MIB))
    assert error.reason == "SizeTooSmall"
    assert "at least the image's 67108864 bytes (given: 1048576)" in str(error)


def test_a_raw_name_on_a_qcow2_image_is_asked_about(bench: Bench) -> None:
    image(bench.volume("claims/data") / "disk.img")
    assert refusal(bench, claim()).reason == "ImageAmbiguous"


def test_a_file_to_be_made_needs_a_size_and_space(bench: Bench) -> None:
    bench.volume("claims/data")
    assert refusal(bench, claim()).reason == "SizeMissing"
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", bench.pod.root / "berth/claims/data"]
    subprocess.run(["nsenter", f"--mount=/proc/{bench.pod.pid}/ns/mnt", *mount], check=True)
    full = refusal(bench, claim("disk.qcow2", size=1 << 40))
    assert full.reason == "DiskFull", full
    assert list(bench.volume("claims/data").iterdir()) == []


def test_a_path_out_of_the_volume_is_refused(bench: Bench) -> None:
    bench.volume("claims/data")
    for path in ("../../../etc/resolv.conf", "../../state/x.img"):
        assert refusal(bench, claim(path, MIB)).reason == "ImageUnsafe"


def test_kernel_and_initrd(bench: Bench) -> None:
    for name in ("vmlinuz", "initrd.gz"):
        (bench.volume("images/kernel") / name).write_text(name)
    order = KernelOrder(
        kernel=FileOrder(folder="/berth/images/kernel", path="/vmlinuz"),
        initrd=FileOrder(folder="/berth/images/kernel", path="initrd.gz"),
    )
    files = bench.prepare(kernel=order)
    assert files.kernel is not None
    assert files.initrd is not None
    assert (Path(files.kernel).read_text(), Path(files.initrd).read_text()) == ("vmlinuz", "initrd.gz")
    missing = KernelOrder(kernel=FileOrder(folder="/berth/images/kernel", path="/boot/vmlinuz"))
    error = refusal(bench, kernel=missing)
    assert error.reason == "KernelMissing"
    assert "/boot/vmlinuz" in str(error)


def read_seed(path: str) -> dict[str, bytes]:
    iso = pycdlib.PyCdlib()
    iso.open(path)
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    found = {}
    for child in iso.list_children(rr_path="/"):
        if child.is_file():
            name = child.rock_ridge.name().decode()
            with iso.open_file_from_iso(rr_path=f"/{name}") as file:
                found[name] = file.read()
    iso.close()
    return found


def test_cloud_init_seed_from_text(bench: Bench) -> None:
    order = CloudInitOrder(
        instance_id="i-1", hostname="web", user_data="#cloud-config\n{}\n", network_data="version: 2\n"
    )
    files = bench.prepare(cloud_init=order)
    assert files.seed is not None
    seed = read_seed(files.seed)
    assert seed["user-data"] == b"#cloud-config\n{}\n"
    assert seed["network-config"] == b"version: 2\n"
    assert json.loads(seed["meta-data"]) == {"instance-id": "i-1", "local-hostname": "web"}
    assert os.stat(files.seed).st_uid == GUEST_UID


def test_cloud_init_seed_from_a_projected_secret(bench: Bench) -> None:
    folder = bench.volume("cloudinit/userdata")
    (folder / "..2026_01_01").mkdir()
    (folder / "..2026_01_01/userdata").write_text("#!/bin/sh\n")
    (folder / "..data").symlink_to("..2026_01_01")
    (folder / "userdata").symlink_to("..data/userdata")
    source = FileOrder(folder="/berth/cloudinit/userdata", path="userdata")
    files = bench.prepare(cloud_init=CloudInitOrder(instance_id="i", hostname="h", user_data_file=source))
    assert files.seed is not None
    assert read_seed(files.seed)["user-data"] == b"#!/bin/sh\n"
    (bench.volume("state") / "cloud-init.iso").unlink()
    (folder / "userdata").unlink()
    (folder / "userdata").symlink_to("/etc/resolv.conf")
    error = refusal(bench, cloud_init=CloudInitOrder(instance_id="i", hostname="h", user_data_file=source))
    assert error.reason == "CloudInitInvalid"


def test_console_socket_leads_to_the_berth(bench: Bench) -> None:
    assert stat.S_ISSOCK(os.stat(bench.prepare().console_socket).st_mode)


def test_screen_socket_can_be_made_by_the_guest_and_used_by_the_berth_alone(bench: Bench) -> None:
    path = bench.prepare(vnc=True).vnc_socket
    assert path is not None
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(GUEST_UID)
        os.setuid(GUEST_UID)
        os.umask(0o002)  # libvirt's for QEMU
        socket.socket(socket.AF_UNIX).bind(path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    made = os.stat(path)
    assert (made.st_uid, made.st_gid) == (GUEST_UID, 65532)
    assert stat.S_IMODE(made.st_mode) & 0o020  # connecting takes the write permission


def test_another_machines_qemu_sees_nothing_of_it(bench: Bench) -> None:
    files = bench.prepare(vnc=True)
    child = os.fork()
    if not child:
        os.setgroups([])
        os.setgid(GUEST_UID + 1)
        os.setuid(GUEST_UID + 1)
        seen = [path for path in (files.console_socket, files.vnc_socket) if path and os.path.exists(path)]
        os._exit(1 if seen else 0)
    assert os.waitpid(child, 0)[1] == 0


def test_forgetting_takes_all_of_it_away_and_leaves_the_files(bench: Bench, berths: NodeBerths) -> None:
    bench.volume("claims/data")
    bench.prepare(claim(size=MIB), vnc=True)
    berths.forget(VM)
    assert berths.folders() == []
    assert (bench.volume("claims/data") / "disk.img").exists()
