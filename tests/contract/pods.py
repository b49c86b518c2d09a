"""A pod as kubelet and containerd leave it on a node, without them: cgroups, namespaces, root file system, process.

The berth in it is the real binary. Both cgroup layouts are made, whichever the machine has.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from berth.effects import cgroups

SOURCES = Path(__file__).parents[2] / "images"
FLAGS = ("-std=gnu17", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror")
_START = r"""
root=$1 netns=$2
mount --bind "$root" "$root"
mount -t tmpfs -o mode=777,size=4m tmpfs "$root/run/berth"
mount -t tmpfs -o mode=777 tmpfs "$root/berth/state"
exec chroot --userspec=65532:65532 "$root" /usr/local/bin/berth run
"""


def until(condition: Callable[[], object], seconds: float = 5.0, what: str = "the condition") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(0.02)


def binary(name: str, folder: Path, *defines: str) -> Path:
    """The program built from the source here, or the installed one where there is no compiler (the agent's image)."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    if compiler is None:
        return Path(f"/usr/local/bin/{name}")
    [source] = SOURCES.glob(f"*/{name}.c")
    target = folder / name
    if not target.exists():
        subprocess.run([compiler, *FLAGS, *(f"-D{d}" for d in defines), "-o", target, source], check=True)
    return target


def hierarchies() -> list[cgroups.Hierarchy]:
    return cgroups.parse_hierarchies(Path("/proc/self/mountinfo").read_text())


def kubelets_version() -> int:
    """Version 1 alone is used where there is any of it, also when version 2 is mounted beside it."""
    return min(h.version for h in hierarchies())


@dataclass(slots=True)
class FakePod:
    """One pod with a berth. ``style`` is kubelet's cgroup driver; ``node`` its cgroupRoot."""

    folder: Path
    style: str = "cgroupfs"
    node: str = ""
    version: int = 0  # of the cgroups it is placed in; 0: as kubelet would on this machine
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    pid: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _made: list[Path] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "rootfs"

    @property
    def pod_cgroup(self) -> str:
        if self.style == "cgroupfs":
            return f"/{self.node}/kubepods/burstable/pod{self.uid}"
        kubepods = f"/{self.node}.slice/{self.node}-kubepods.slice"
        prefix = f"{self.node}-kubepods-burstable"
        return f"{kubepods}/{prefix}.slice/{prefix}-pod{self.uid.replace('-', '_')}.slice"

    def start(self, berth: Path) -> FakePod:
        for name in ("run/berth", "berth/state", "berth/images", "berth/claims", "usr/local/bin", "etc"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(berth, self.root / "usr/local/bin/berth")
        (self.root / "etc/resolv.conf").write_text("search ns.svc.cluster.local cluster.local\nnameserver 10.96.0.10\n")
        pause = ["sh", "-c", 'kill -STOP $$; exec "$@"', "pause"]  # until it is in its cgroups
        command = [
            *pause,
            "unshare",
            "-n",
            "-m",
            "-p",
            "--fork",
            "--kill-child",
            "sh",
            "-euc",
            _START,
            "start",
            str(self.root),
            "",
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        until(lambda: ") T " in Path(f"/proc/{self._process.pid}/stat").read_text(), what="the pause")  # type: ignore[union-attr]
        self._place(self._process.pid)
        self._process.send_signal(signal.SIGCONT)
        until(self._find_pid, what="the berth process")
        until(lambda: self._socket("control.sock") and self._socket("console.sock"), what="the berth's sockets")
        return self

    def _socket(self, name: str) -> bool:
        return Path(f"/proc/{self.pid}/root/run/berth/{name}").is_socket()

    def _find_pid(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._process.stdout and self._process.stdout.read()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        found = [int(c) for c in children if Path(f"/proc/{c}/comm").read_text() == "berth\n"]
        self.pid = found[0] if found else 0
        return bool(found)

    def _place(self, pid: int) -> None:
        """Into the container's cgroup in every hierarchy, as the runtime does."""
        for hierarchy in hierarchies():
            if hierarchy.version != (self.version or kubelets_version()):
                continue
            place = hierarchy.at(self.pod_cgroup) / "container0"
            self._make(hierarchy, place)
            (place / "cgroup.procs").write_text(str(pid))

    def _make(self, hierarchy: cgroups.Hierarchy, place: Path) -> None:
        for parent in [
            *reversed(place.relative_to(hierarchy.mountpoint).parents),
            place.relative_to(hierarchy.mountpoint),
        ]:
            path = hierarchy.mountpoint / parent
            if not path.is_dir():
                path.mkdir()
                self._made.append(path)
            if "cpuset" in hierarchy.controllers and parent != Path():
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (path / name).write_text((path.parent / name).read_text())

    @property
    def stdin(self) -> int:
        assert self._process
        assert self._process.stdin
        return self._process.stdin.fileno()

    def output(self) -> bytes:
        """Everything the berth prints until it ends."""
        assert self._process
        assert self._process.stdout
        return self._process.stdout.read()

    def wait(self, seconds: float = 5.0) -> int:
        assert self._process
        return self._process.wait(seconds)

    def members(self, hierarchy: cgroups.Hierarchy, leaf: str = "") -> list[int]:
        return [int(p) for p in (hierarchy.at(self.pod_cgroup) / leaf / "cgroup.procs").read_text().split()]

    def stop(self) -> None:
        """End the processes and take the cgroups away, those that others made in them too."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for top in reversed(self._made):
            for folder, _, _ in os.walk(top, topdown=False):
                until(lambda f=folder: self._remove(Path(f)), what=f"the end of {folder}")  # type: ignore[misc]

    @staticmethod
    def _remove(folder: Path) -> bool:
        try:
            for pid in (folder / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            folder.rmdir()
        except FileNotFoundError:
            return True
        except (OSError, ProcessLookupError):
            return not folder.exists()
        return True
