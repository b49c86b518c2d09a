"""Makes, fills, lists and removes the testbed's own cgroups, on cgroup v1, v2 and the mix of both.

Everything that runs in the testbed lives under one cgroup of each hierarchy, so `down` can find every last process
without guessing. Nothing outside that cgroup is ever changed, except that v2's root hands down its controllers.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from testbed import files

ROOT = Path("/sys/fs/cgroup")
UNIFIED_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")


def hierarchies(root: Path = ROOT) -> list[Path]:
    """The mounted hierarchies: one on v2, one per controller (plus name=systemd and unified) on v1."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return sorted(entry for entry in root.iterdir() if (entry / "cgroup.procs").exists() and not entry.is_symlink())


def ensure(name: str, root: Path = ROOT) -> None:
    """Make the cgroup in every hierarchy, with what its children need handed down."""
    for hierarchy in hierarchies(root):
        current = hierarchy
        for part in Path(name).parts:
            if hierarchy == root:  # on a mix of v1 and v2 the v2 part only tracks processes
                _hand_down(current)
            child = current / part
            child.mkdir(exist_ok=True)
            _copy_cpuset(current, child)
            current = child  # the last one hands nothing down: it may then hold processes itself


def entries(name: str, root: Path = ROOT) -> list[Path]:
    """The files a process writes its id to in order to enter the cgroup in every hierarchy."""
    return [hierarchy / name / "cgroup.procs" for hierarchy in hierarchies(root)]


def processes(name: str, root: Path = ROOT) -> set[int]:
    """Every process below the cgroup, in any hierarchy."""
    found: set[int] = set()
    for hierarchy in hierarchies(root):
        for folder, _, names in os.walk(hierarchy / name):
            if "cgroup.procs" in names:
                found.update(int(line) for line in (files.read(Path(folder) / "cgroup.procs") or "").split())
    return found


def exists(name: str, root: Path = ROOT) -> bool:
    """True when the cgroup is there in every hierarchy."""
    return all((hierarchy / name).is_dir() for hierarchy in hierarchies(root))


def leftovers(name: str, root: Path = ROOT) -> list[Path]:
    """Where the cgroup is still there, in any hierarchy."""
    return [hierarchy / name for hierarchy in hierarchies(root) if (hierarchy / name).is_dir()]


def siblings(start: str, root: Path = ROOT) -> set[str]:
    """Names of all top-level cgroups that begin so."""
    return {folder.name for hierarchy in hierarchies(root) for folder in hierarchy.glob(f"{start}*") if folder.is_dir()}


def remove(name: str, root: Path = ROOT) -> None:
    """Remove the cgroup with all below it, leaves first; one that still holds a process stays."""
    for hierarchy in hierarchies(root):
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _hand_down(parent: Path) -> None:
    """v2 only: children get the controllers their parent has."""
    offered = files.read(parent / "cgroup.controllers")
    if not offered:
        return
    active = (files.read(parent / "cgroup.subtree_control") or "").split()
    for controller in UNIFIED_CONTROLLERS:
        if controller in offered.split() and controller not in active:
            _enable(parent, controller)


def _enable(parent: Path, controller: str) -> None:
    try:
        (parent / "cgroup.subtree_control").write_text(f"+{controller}")
    except OSError as error:
        if error.errno != errno.EBUSY:
            return  # not delegated to us: kubelet tells which controller it misses
        _make_room(parent)
        with contextlib.suppress(OSError):
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")


def _make_room(parent: Path) -> None:
    """A cgroup with processes cannot hand down controllers: inside a container its own processes move to a leaf."""
    leaf = parent / "init"
    leaf.mkdir(exist_ok=True)
    for pid in (files.read(parent / "cgroup.procs") or "").split():
        with contextlib.suppress(OSError):
            (leaf / "cgroup.procs").write_text(pid)


def _copy_cpuset(parent: Path, child: Path) -> None:
    """v1 only: a new cpuset is empty, and an empty one takes no process."""
    if (parent / "cgroup.controllers").exists():
        return
    for name in ("cpuset.cpus", "cpuset.mems"):
        value = files.read(parent / name)
        if value and not (files.read(child / name) or "").strip():
            (child / name).write_text(value)
