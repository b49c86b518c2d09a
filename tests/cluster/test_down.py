"""`down` leaves nothing: no process, mount, link, route, rule, cgroup, namespace, file or changed kernel setting."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.cluster import cgroups, host, layout, processes
from testbed.kube import wait

from .conftest import Bed, pod

PAUSE = ("/pause",)


@pytest.fixture
def used() -> Iterator[Bed]:
    """A testbed in use: a pod with a mount that it spreads over its node, and a volume."""
    bed = Bed(2)
    bed.run("up", seconds=1800)
    manifest = pod(
        "user",
        bed.workers[0],
        mounts=[{"name": "run", "mountPath": "/shared", "mountPropagation": "Bidirectional"}],
        volumes=[{"name": "run", "hostPath": {"path": "/run/berth"}}],
        privileged=True,
    )
    manifest["spec"]["containers"][0] |= {"image": layout.PAUSE_IMAGE, "command": list(PAUSE)}
    bed.cluster.apply(manifest, namespace="default")
    bed.cluster.kubectl("wait", "--for=condition=Ready", "pod/user", "--timeout=60s", seconds=70)
    bed.on_node(bed.workers[0], "mount", "-t", "tmpfs", "spread", "/run/berth")
    yield bed
    bed.run("down")


def traces(bed: Bed) -> list[str]:
    """Everything on this machine that carries a name or an address of the testbed."""
    marks = (f"berth-testbed-{bed.index}", f"berth{bed.index}-", f"berth-tb{bed.index}", f"10.{200 + bed.index}.0.",
             f"10.{244 + bed.index}.", f"fd00:10:{200 + bed.index}:", f"fd00:10:244:{bed.index}0",
             f"berth-testbed{bed.index}")  # fmt: skip
    return [line for line in everything() if any(mark in line for mark in marks)]


def wait_clean(bed: Bed) -> None:
    """A killed process stays in its cgroup until its parent, often the system's init, has looked at it."""
    wait(f"no trace is left of testbed {bed.index}: {traces(bed)}", lambda: not traces(bed), 15)


def everything() -> Iterator[str]:
    commands = ("ip link", "ip addr", "ip route show table all", "ip -6 route show table all", "ip netns", "ip rule",
                "nft list ruleset", "find /sys/fs/cgroup -type d")  # fmt: skip
    for command in commands:
        yield from subprocess.run(command.split(), capture_output=True, text=True, check=False).stdout.splitlines()
    yield from Path("/proc/self/mountinfo").read_text().splitlines()
    for folder in ("/run", "/var/lib", "/etc", "/run/netns", "/opt", "/usr/libexec", "/tmp"):
        yield from (str(path) for path in Path(folder).glob("*"))
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            yield from (
                word for word in path.read_text(errors="replace").split("\0") if word.startswith(processes.MARK)
            )
        except OSError:
            continue
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            yield from path.read_text().splitlines()
        except OSError:
            continue


def test_nothing_is_left(used: Bed) -> None:
    assert traces(used), "the search finds a running testbed"
    used.run("down")
    wait_clean(used)


def test_half_a_down_is_finished_by_the_next(used: Bed) -> None:
    process = used.popen("down")
    wait("processes end", lambda: len(used.pids()) < 8 or process.poll() is not None, 20, every=0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    used.run("down")
    wait_clean(used)


def test_down_without_a_cluster_is_fine() -> None:
    Bed(3).run("down")
    assert traces(Bed(3)) == []


def test_kernel_settings_are_put_back_by_the_last_testbed_to_go(used: Bed) -> None:
    remembered = host.remembered()
    used.run("down")
    if cgroups.siblings(layout.CGROUP):  # another one is up and needs what was changed
        assert host.remembered() == remembered
        return
    assert not host.NOTE.exists()
    assert {name: (host.ROOT / name).read_text().strip() for name in remembered} == remembered
