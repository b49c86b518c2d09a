"""Running guests take the disks along that are files of their node: copied while they write, and no write is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from berth.api.order import CloudInitOrder, DiskKind, DiskOrder, FileOrder
from tests.contract import pods
from tests.contract.test_agent_moves import KILLS, struck
from tests.contract.two_nodes import Side, Two, two_nodes

MIB = 1 << 20
BLOCK = 512
SIZE = 32 * MIB
OLD = 16 * MIB
"""From here on the disk holds what was written before the move."""
DATA = DiskOrder(name="data", kind=DiskKind.EMPTY, size_bytes=SIZE)
FILL = f"dd if=/dev/urandom of=/dev/vda bs={MIB} seek={OLD // MIB} count=8 conv=fsync\n"
LOOP = (
    f"i=0; while printf %0{BLOCK}d $i | dd of=/dev/vda bs={BLOCK} seek=$i conv=fsync 2>/dev/null; do"
    " echo n$i; i=$((i+1)); done"
)
"""Each number is told only once the disk has acknowledged its block."""
CALM_LOOP = f"mkfifo /tmp/never; exec 3<>/tmp/never; {LOOP.removesuffix('; done')}; read -t 0.02 x <&3; done"
"""The same with a rest after each block, for copies that take long: an emulated guest that never rests takes a core."""
SLOW = MIB
"""Bytes a second: copying the disk takes seconds, so that things can be killed meanwhile."""


@pytest.fixture
async def two(tmp_path: Path, start_pod: Callable[..., pods.FakePod]) -> AsyncIterator[Two]:
    async with two_nodes(tmp_path, start_pod) as made:
        yield made


def file(side: Side, name: str = "data.img") -> Path:
    assert side.pod is not None
    return Path(f"/proc/{side.pod.pid}/root/berth/state") / name


def blocks(side: Side) -> list[int]:
    """The numbers on the disk, in order; every block before and after is whole."""
    data = file(side).read_bytes()
    assert len(data) == SIZE
    found = [data[at : at + BLOCK] for at in range(0, OLD, BLOCK)]
    count = next(n for n, block in enumerate(found) if block == bytes(BLOCK))
    assert set(found[count:]) == {bytes(BLOCK)}, "something is where nothing was written"
    return [int(block) for block in found[:count]]


def all_is_there(two: Two, side: Side) -> None:
    """What the guest told of, on its consoles, is on the disk there, once each."""
    told = two.counted(side) if side is two.a else two.counted()
    assert told == list(range(len(told))), "a number is missing, or came twice"
    written = blocks(side)
    assert written == list(range(len(written))), "a block is missing, or is somewhere else"
    assert len(told) <= len(written), "a block that was acknowledged is not there"


def opened(path: Path) -> list[str]:
    """The processes that have the file open."""
    wanted = path.stat()
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            there = link.stat()
        except OSError:
            continue
        if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(link.parts[2])
    return found


async def test_a_disk_moves_with_the_guest_that_writes_to_it(two: Two) -> None:
    uid = await two.start(FILL + LOOP, 20, disks=(DATA,))
    assert opened(file(two.a))
    source, _ = await two.listening()
    await two.a.controller.send(source)
    arrived = await two.hears(two.b, uid, "Arrived")
    sent = await two.hears(two.a, uid, "HandedOver")
    print(f"pause {arrived['pauseMs']} ms; {sent}")
    assert await two.one_runs(uid) == "node-b"
    await two.counts_on(two.b)
    all_is_there(two, two.b)
    ours, theirs = file(two.a).read_bytes(), file(two.b).read_bytes()
    assert ours[OLD:] == theirs[OLD:] != bytes(SIZE - OLD)
    assert opened(file(two.a)) == [], "the disk that was left is still open"
    assert file(two.b).stat().st_blocks * 512 < SIZE // 2, "what nobody wrote takes space"


async def copies(two: Two) -> str:
    """The guest's disk is on its way; its uid."""
    source, _ = await two.listening(bytes_per_second=SLOW)
    await two.a.controller.send(source)
    await two.hears(two.a, source.uid, "Sending")

    def some() -> bool:
        said = two.a.report(source.uid).get("migration") or {}
        return MIB < said.get("sent", 0) < SIZE - MIB < said["remaining"]

    await two.a.controller.hears(some, "some of the disk copied, and nothing of the memory")
    return source.uid


async def stays(two: Two, uid: str) -> None:
    """The guest writes on at its source, to its own disk, and nothing of it is left at the target."""
    failed = await two.hears(two.a, uid, "Failed")
    print(failed["reason"], failed["message"])
    assert await two.one_runs(uid) == two.a.node.name
    await two.counts_on(two.a)
    all_is_there(two, two.a)
    assert two.b.pod is not None
    left = file(two.b)
    assert opened(left) == []
    await two.give_back(two.b)
    assert two.b.node.run("ls", "/run/berth/vms") == ""


async def test_whatever_is_killed_while_disks_are_copied_it_stays_with_its_own(two: Two) -> None:
    await two.start(FILL + CALM_LOOP, 20, disks=(DATA,))
    for what, (kill, where) in KILLS.items():
        uid = await copies(two)
        print(f"kill {what}")
        await kill(two.a if where == "a" else two.b)
        await stays(two, uid)


async def test_a_copy_that_takes_no_more_writes_is_given_up(two: Two) -> None:
    """Its connections stay open, and nothing comes back: without the source's watch QEMU would wait for ever."""
    await two.start(FILL + CALM_LOOP, 20, disks=(DATA,))
    uid = await copies(two)
    qemu = two.b.node.qemu(uid)
    os.kill(qemu, signal.SIGSTOP)
    try:
        failed = await two.hears(two.a, uid, "Failed")
        await two.counts_on(two.a)
    finally:
        os.kill(qemu, signal.SIGCONT)
    assert failed["reason"] == "DisksStalled"
    await stays(two, uid)


DIALS = """
import socket, sys
for name in ("libvirt", "memory", "disks"):
    with socket.socket(socket.AF_UNIX) as plain:
        try:
            plain.connect(f"/run/berth/vms/{sys.argv[1]}/move/{name}")
            print(name, "open")
        except PermissionError:
            print(name, "forbidden")
        except ConnectionRefusedError:
            print(name, "refused")
"""
"""As a QEMU that was taken over would: to what is not its own, and to more than it needs."""


async def test_cancelled_while_disks_are_copied_it_stays_and_moves_later(two: Two) -> None:
    await two.start(FILL + CALM_LOOP, 20, disks=(DATA,))
    assert two.order is not None
    uid = await copies(two)
    guest_uid = file(two.a).stat().st_uid
    drop = ("setpriv", f"--reuid={guest_uid}", f"--regid={guest_uid}", "--clear-groups", "--bounding-set=-all")
    dialled = await asyncio.to_thread(two.a.node.run, *drop, "python3", "-c", DIALS, uid)
    assert dialled.splitlines() == ["libvirt forbidden", "memory forbidden", "disks refused"]
    await two.a.controller.send(two.order)
    assert (await two.hears(two.a, uid, "Failed"))["reason"] == "Cancelled"
    await stays(two, uid)
    source, _ = await two.listening()
    await two.a.controller.send(source)
    await two.hears(two.b, uid, "Arrived")
    await two.counts_on(two.b)
    all_is_there(two, two.b)


@pytest.mark.parametrize("what", ["the source's libvirtd", "the target's agent"])
async def test_whatever_is_killed_at_the_hand_over_no_write_is_lost(two: Two, what: str) -> None:
    uid = await two.start(FILL + LOOP, 20, disks=(DATA,))
    side = await struck(two, uid, what)
    await two.counts_on(side)
    all_is_there(two, side)


SHARED = 512 * MIB


def furnish(side: Side, shared: Path) -> None:
    """Images in the pod, which are others on each node; a claim that is the same on both; one file only to be read."""
    assert side.pod is not None
    first = side.node.name == "node-a"
    root = side.pod.root / "berth/images/root/disk.img"
    root.parent.mkdir()
    root.write_bytes((b"image of the source" if first else b"another image").ljust(BLOCK) * (16384 if first else 9000))
    read = side.pod.root / "berth/images/read/disk.img"
    read.parent.mkdir()
    read.write_bytes(b"only to be read".ljust(BLOCK) * 2048)
    mount_claim(side, shared)


def mount_claim(side: Side, folder: Path) -> None:
    assert side.pod is not None
    claim = side.pod.root / "berth/claims/shared"
    claim.mkdir()
    command = ["nsenter", "-t", str(side.pod.pid), "--mount", "mount", "--bind", str(folder), str(claim)]
    subprocess.run(command, check=True)


def storage(folder: Path) -> Path:
    """With the disk's file in it."""
    folder.mkdir()
    (folder / "disk.img").touch()
    os.truncate(folder / "disk.img", SHARED)
    return folder


CLAIM = DiskOrder(name="shared", kind=DiskKind.FILE, source=FileOrder(folder="/berth/claims/shared", path="disk.img"))


async def test_a_claim_that_is_another_on_each_node_keeps_its_guest(two: Two, tmp_path: Path) -> None:
    """Though the file is there on both."""
    own = {name: storage(tmp_path / name) for name in ("own-a", "own-b")}
    two.furnish = lambda side: mount_claim(side, own["own-a" if side.node.name == "node-a" else "own-b"])
    uid = await two.start(LOOP.replace("vda", "vdb"), 20, disks=(CLAIM, DATA))
    source, _ = await two.listening()
    await two.a.controller.send(source)
    assert (await two.hears(two.a, uid, "Failed"))["reason"] == "ClaimNotShared"
    await stays(two, uid)
    assert [os.listdir(folder) for folder in own.values()] == [["disk.img"], ["disk.img"]]


async def test_a_mix_of_disks_each_in_its_own_way(two: Two, tmp_path: Path) -> None:
    """Copied: an empty disk, and one over an image that is another there. Shared: a claim. Anew: what is only read."""
    shared = storage(tmp_path / "shared")
    two.furnish = lambda side: furnish(side, shared)

    def image(name: str, read_only: bool = False) -> DiskOrder:
        source = FileOrder(folder=f"/berth/images/{name}", path="disk.img")
        return DiskOrder(name=name, kind=DiskKind.OVERLAY, source=source, read_only=read_only)

    disks = (DATA, image("root"), CLAIM, image("read", True))
    seed = CloudInitOrder(instance_id="web", hostname="web", user_data="#cloud-config\n")
    begin = "".join(f"dd if=/dev/urandom of=/dev/vd{d} bs=64k seek=9 count=16 conv=fsync\n" for d in "bc")
    sums = "for d in b c d e; do echo sum-$d $(dd if=/dev/vd$d bs=1M count=9 2>/dev/null | sha256sum); done"
    uid = await two.start(f"{begin}{sums}\n({LOOP}) &", 20, disks=disks, cloud_init=seed)
    assert two.a.console is not None
    before = re.findall(r"sum-(\w) ([0-9a-f]{64})", two.a.console.text)
    source, _ = await two.listening()
    await two.a.controller.send(source)
    await two.hears(two.b, uid, "Arrived")
    sent = await two.hears(two.a, uid, "HandedOver")
    assert sent["total"] < SHARED, "the shared disk was copied"
    await two.counts_on(two.b)
    assert two.b.console is not None
    two.b.console.type("echo 3 > /proc/sys/vm/drop_caches; " + sums)
    await asyncio.to_thread(two.b.console.says, "sum-e [0-9a-f]{64}", 60)
    assert re.findall(r"sum-(\w) ([0-9a-f]{64})", two.b.console.text) == before
    assert [disk for disk, _ in before] == ["b", "c", "d", "e"]
    await two.counts_on(two.b)
    written = blocks(two.b)
    assert written == list(range(len(written)))
    assert opened(file(two.a)) == opened(file(two.a, "root.qcow2")) == []
    assert os.listdir(shared) == ["disk.img"]
