"""Berths found and reached: real processes in real cgroups and namespaces."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from berth.effects import berths as node_berths
from berth.effects import cgroups, links, mounts, paths
from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders
from berth.effects.ports import Berth, StartRecord
from berth.errors import HostFault
from tests.contract import pods

StartPod = Callable[..., pods.FakePod]
VM = "6f5ffeef-839c-4c00-8437-8da47dfe23fa"


def found(berths: NodeBerths, pod: pods.FakePod) -> Berth:
    berth = berths.find(pod.uid)
    assert berth is not None
    return berth


@pytest.mark.parametrize("style", ["cgroupfs", "systemd"])
def test_finds_the_berth_of_a_pod_and_no_other(start_pod: StartPod, berths: NodeBerths, style: str) -> None:
    pods_here = [start_pod(style=style), start_pod(style=style)]
    for pod in pods_here:
        assert found(berths, pod).pid == pod.pid
    assert berths.find(str(uuid.uuid4())) is None


def test_a_berth_that_ended_is_neither_found_nor_alive(start_pod: StartPod, berths: NodeBerths) -> None:
    pod = start_pod()
    berth = found(berths, pod)
    assert berths.alive(berth)
    os.kill(pod.pid, signal.SIGKILL)
    pods.until(lambda: not berths.alive(berth))
    assert berths.find(pod.uid) is None
    with pytest.raises(node_berths.BerthGone):
        node_berths.open_root(berth)


def test_each_pods_network_is_told_from_others(start_pod: StartPod, berths: NodeBerths) -> None:
    mine, other = found(berths, start_pod()), found(berths, start_pod())
    assert berths.network(mine) == berths.network(mine) == os.stat(f"/proc/{mine.pid}/ns/net").st_ino
    assert len({berths.network(mine), berths.network(other), os.stat("/proc/self/ns/net").st_ino, 0}) == 4


def test_functions_are_read_from_the_berths_environment(
    start_pod: StartPod, berths: NodeBerths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCIDEVICE_EXAMPLE_COM_VF", "0000:ff:1f.7")
    berth = found(berths, start_pod())
    assert berths.functions(berth, []) == berths.functions(berth, ["example.com/other"]) == {}
    with pytest.raises(HostFault, match=r"PCIDEVICE_EXAMPLE_COM_VF .* 0000:ff:1f\.7, which this node does not have"):
        berths.functions(berth, ["example.com/vf"])


def test_a_reused_pid_is_not_believed(start_pod: StartPod, berths: NodeBerths) -> None:
    berth = replace(found(berths, start_pod()), start_time=12345)
    assert not berths.alive(berth)
    for open_it in (node_berths.open_root, lambda b: node_berths.open_namespace(b, "net")):
        with pytest.raises(node_berths.BerthGone, match="has to be made anew"):
            open_it(berth)


def test_another_process_of_the_pod_named_berth_is_not_believed(start_pod: StartPod, berths: NodeBerths) -> None:
    """`berth vnc`, started with kubectl exec, is called berth too."""
    pod = start_pod()
    copy = pod.folder / "berth"
    shutil.copy("/bin/sleep", copy)
    other = subprocess.Popen([copy, "60"])
    try:
        for hierarchy in pods.hierarchies():
            place = hierarchy.at(pod.pod_cgroup) / "container0"
            if place.is_dir():
                (place / "cgroup.procs").write_text(str(other.pid))
        os.kill(pod.pid, signal.SIGKILL)
        pods.until(lambda: pod.pid not in node_berths._pids(pods.hierarchies()[0].at(pod.pod_cgroup)))
        assert berths.find(pod.uid) is None
    finally:
        other.kill()
        other.wait()


def test_a_guest_enters_the_pods_cgroup_and_is_not_mistaken_for_its_berth(
    start_pod: StartPod, berths: NodeBerths, machines: MachineFolders
) -> None:
    pod = start_pod()
    berths.prepare_cgroup(VM, 1_900_000_000, found(berths, pod))
    uid, oom, *places = (machines.path(VM) / "cgroup").read_text().splitlines()
    assert uid == "1900000000"
    assert oom == f"oom_score_adj {int(Path(f'/proc/{pod.pid}/oom_score_adj').read_text())}"
    assert len(places) == len(pods.hierarchies())
    for hierarchy, place in zip(pods.hierarchies(), places, strict=True):
        assert (pod.uid in place) == (hierarchy.version == pods.kubelets_version())
        assert ("container0" in place) == bool(hierarchy.controllers & {"memory", "cpu", "cpuacct"})
    guest = subprocess.Popen(["sh", "-c", f"for f in {' '.join(places)}; do echo 0 > $f; done; exec sleep 60"])
    try:
        pods.until(lambda: pod.uid in Path(f"/proc/{guest.pid}/cgroup").read_text())
        pods.until(lambda: Path(f"/proc/{guest.pid}/comm").read_text() == "sleep\n")
        own = [line for line in Path(f"/proc/{guest.pid}/cgroup").read_text().splitlines() if pod.uid not in line]
        assert all(line.endswith(":/") for line in own), own  # nowhere is it still where it was started
        assert found(berths, pod).pid == pod.pid
    finally:
        guest.kill()
        guest.wait()


def test_start_record_is_kept_with_the_folder(start_pod: StartPod, berths: NodeBerths) -> None:
    assert berths.start_record(VM) is None
    record = StartRecord(epoch=3, pod_uid="p", guest_uid=1_900_000_000)
    berths.record_start(VM, record)
    assert NodeBerths(berths.machines).start_record(VM) == record
    berths.machines.write(VM, "start", json.dumps({**asdict(record), "later": 1}))
    assert NodeBerths(berths.machines).start_record(VM) == record, "a newer agent wrote more"
    assert berths.folders() == [VM]
    berths.forget(VM)
    berths.forget(VM)
    assert (berths.folders(), berths.start_record(VM)) == ([], None)


async def test_waits_until_a_berth_appears(
    start_pod: StartPod, berths: NodeBerths, berth_program: Path, tmp_path: Path
) -> None:
    pod = pods.FakePod(tmp_path / "late", node=f"late-{uuid.uuid4()}")
    waiting = asyncio.create_task(node_berths.wait_for(berths, pod.uid, 10))
    try:
        await asyncio.to_thread(pod.start, berth_program)
        berth = await waiting
        assert berth is not None
        assert berth.pid == pod.pid
        assert await node_berths.wait_for(berths, str(uuid.uuid4()), 0.05) is None
    finally:
        pod.stop()


def test_reads_the_pods_resolv_conf(start_pod: StartPod, berths: NodeBerths) -> None:
    assert "nameserver 10.96.0.10" in node_berths.resolv_conf(found(berths, start_pod()))


class TestMounts:
    """Files of the pod at fixed names of the node."""

    def test_bind_is_idempotent_and_follows_a_new_file(
        self, start_pod: StartPod, berths: NodeBerths, machines: MachineFolders
    ) -> None:
        berth, target = found(berths, start_pod()), machines.make(VM) / "disk"
        with (
            paths.closing(node_berths.open_root(berth)) as root,
            paths.closing(node_berths.open_namespace(berth, "mnt")) as mntns,
        ):
            state = paths.open_kind(root, "/berth/state", stat.S_IFDIR)
            for content in ("one", "two"):
                (Path(f"/proc/{berth.pid}/root/berth/state") / content).write_text(content)
                file = paths.open_kind(state, content, stat.S_IFREG)
                assert mounts.bind(mntns, file, target)
                assert target.read_text() == content
                assert not mounts.bind(mntns, file, target)
                assert mounts.beneath(machines.path(VM)) == [str(target)]
                os.close(file)
            os.close(state)
        machines.remove(VM)
        assert mounts.beneath(machines.root) == [str(machines.root)]
        assert (Path(f"/proc/{berth.pid}/root/berth/state/two")).read_text() == "two"

    def test_what_is_shown_stays_usable_and_forgetting_leaves_it_alone(
        self, start_pod: StartPod, berths: NodeBerths, machines: MachineFolders
    ) -> None:
        pod = start_pod()
        berth, folder = found(berths, pod), machines.make(VM)
        with (
            paths.closing(node_berths.open_root(berth)) as root,
            paths.closing(node_berths.open_namespace(berth, "mnt")) as mntns,
            paths.closing(paths.open_kind(root, "run/berth/console.sock", stat.S_IFSOCK)) as socket_file,
        ):
            mounts.bind(mntns, socket_file, folder / "console.sock")
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(folder / "console.sock"))
        line.sendall(b"x")
        berths.forget(VM)
        assert not folder.exists()
        assert Path(f"/proc/{pod.pid}/root/run/berth/console.sock").is_socket()

    def test_hostile_paths_are_refused(self, start_pod: StartPod, berths: NodeBerths) -> None:
        berth = found(berths, start_pod())
        state = Path(f"/proc/{berth.pid}/root/berth/state")
        (state / "inside").write_text("x")
        (state / "link").symlink_to("inside")
        (state / "out").symlink_to("../../etc/resolv.conf")
        (state / "magic").symlink_to("/proc/1/root/etc/shadow")
        (state / "folder").mkdir()
        os.mkfifo(state / "pipe")
        os.mknod(state / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with (
            paths.closing(node_berths.open_root(berth)) as root,
            paths.closing(paths.open_kind(root, "berth/state", stat.S_IFDIR)) as folder,
        ):
            for path in ("link", "out", "magic", "../../etc/resolv.conf", "folder", "pipe", "null", "folder/../../x"):
                with pytest.raises(paths.UnsafePath):
                    paths.open_kind(folder, path, stat.S_IFREG)
            for path in ("nothing", "inside/below"):
                with pytest.raises(paths.PathMissing):
                    paths.open_kind(folder, path, stat.S_IFREG)
            assert paths.read_regular(folder, "/inside", 10) == b"x"
            assert paths.read_regular(folder, "link", 10, symlinks=True) == b"x"
            for path in ("out", "magic"):
                with pytest.raises(HostFault):
                    paths.read_regular(folder, path, 10, symlinks=True)
            with pytest.raises(HostFault, match="larger than"):
                paths.read_regular(folder, "inside", 0)


class TestLinks:
    """The control line to a real berth."""

    async def test_shutdown_reaches_the_agent_and_exit_ends_the_berth(
        self, start_pod: StartPod, berths: NodeBerths
    ) -> None:
        pod = await asyncio.to_thread(start_pod)
        shutdown, lost = asyncio.Event(), asyncio.Event()
        link = await links.ControlLinks().connect(found(berths, pod), shutdown.set, lost.set)
        os.kill(pod.pid, signal.SIGTERM)
        await asyncio.wait_for(shutdown.wait(), 5)
        await link.exit(7, "the guest\npowered off")
        await asyncio.wait_for(lost.wait(), 5)
        assert b"\r\nberth: the guest powered off\r\n" in await asyncio.to_thread(pod.output)
        assert await asyncio.to_thread(pod.wait) == 7
        await link.exit(0, "again")  # a berth that is gone is no error
        link.close()

    async def test_a_lost_line_is_taken_up_again(self, start_pod: StartPod, berths: NodeBerths) -> None:
        pod = await asyncio.to_thread(start_pod)
        berth, told, lost = found(berths, pod), asyncio.Queue[str](), asyncio.Event()
        link = await links.ControlLinks().connect(berth, lambda: told.put_nowait("shutdown"), lost.set)
        os.kill(pod.pid, signal.SIGTERM)
        assert await asyncio.wait_for(told.get(), 5) == "shutdown"
        usurper = await asyncio.to_thread(links.open_socket, berth)  # the newest wins: the first line breaks
        assert await asyncio.wait_for(told.get(), 5) == "shutdown"  # it is back, and was told again
        usurper.close()
        await link.note("hello")
        await link.exit(0, "")
        await asyncio.wait_for(lost.wait(), 5)
        assert await asyncio.to_thread(pod.wait) == 0

    async def test_an_impostor_behind_the_socket_is_refused(self, start_pod: StartPod, berths: NodeBerths) -> None:
        pod = await asyncio.to_thread(start_pod)
        place = f"/proc/{pod.pid}/root/run/berth/control.sock"
        os.unlink(place)
        impostor = socket.socket(socket.AF_UNIX)
        impostor.bind(place)
        impostor.listen()
        with pytest.raises(HostFault, match="not by its berth process") as caught:
            await links.ControlLinks().connect(found(berths, pod), lambda: None, lambda: None)
        assert caught.value.reason == "BerthImpostor"

    async def test_a_berth_that_is_gone_is_said_to_be_gone_at_once(
        self, start_pod: StartPod, berths: NodeBerths
    ) -> None:
        pod = await asyncio.to_thread(start_pod)
        berth = found(berths, pod)
        os.kill(pod.pid, signal.SIGKILL)
        pods.until(lambda: not berths.alive(berth))
        with pytest.raises(node_berths.BerthGone):
            await asyncio.wait_for(links.ControlLinks().connect(berth, lambda: None, lambda: None), 1)


def test_two_layouts_in_words() -> None:
    """The pure part, against paths as kubelet's drivers make them."""
    assert cgroups.kubepods_root("/node-a/kubepods/burstable/podX/c") == "/node-a/kubepods"
