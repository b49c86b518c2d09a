"""Where a berth's cgroups are: mountinfo and /proc/PID/cgroup in, paths out; and the ticket for the emulator wrapper.

Called by berths.py. The parsing is pure. Both cgroup versions, both of kubelet's drivers and any cgroup root are known:
a pod's cgroup is `pod<uid>` with the cgroupfs driver and `…-pod<uid with _>.slice` with systemd's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from berth.effects.mounts import unescape
from berth.errors import HostFault

GUEST_LEAF = "berth-guest"
"""On cgroup v2 a pod's cgroup has children, so it may hold no processes itself: QEMU gets this child."""
_COUNTED = frozenset({"memory", "cpu", "cpuacct"})
_QOS = ("", "burstable", "besteffort")
_OPTIONS = frozenset({"rw", "ro", "clone_children", "xattr", "noprefix", "cpuset_v2_mode", "favordynmods"})


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree of cgroups. ``controllers`` as in /proc/PID/cgroup's second field; "" is version 2."""

    mountpoint: Path
    controllers: frozenset[str]
    version: int

    def at(self, path: str) -> Path:
        return self.mountpoint / path.lstrip("/")


def parse_hierarchies(mountinfo: str) -> list[Hierarchy]:
    """The hierarchies whose root is visible; of several mounts at one place the last is the one that is seen."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(" "), right.split(" ", 2)
        root, point = fields[3], unescape(fields[4])
        if kind not in ("cgroup", "cgroup2"):
            continue
        found.pop(point, None)
        if root != "/":
            continue  # only a part of the tree: a container's own view of itself
        version = 2 if kind == "cgroup2" else 1
        names = frozenset() if version == 2 else frozenset(o for o in options.split(",") if _is_controller(o))
        found[point] = Hierarchy(Path(point), names, version)
    unique: dict[frozenset[str], Hierarchy] = {}
    for hierarchy in found.values():
        unique.setdefault(hierarchy.controllers, hierarchy)
    return list(unique.values())


def _is_controller(option: str) -> bool:
    return option not in _OPTIONS and not option.startswith("release_agent=")


def parse_membership(text: str) -> dict[frozenset[str], str]:
    """/proc/PID/cgroup: controllers → path; the empty set is version 2."""
    rows = (line.split(":", 2) for line in text.splitlines())
    return {frozenset(filter(None, names.split(","))): path for _, names, path in rows}


def pod_path(path: str, pod_uid: str) -> str | None:
    """The pod's part of a container's cgroup path, or None when the path is not within that pod."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if part == f"pod{pod_uid}" or part.endswith(f"-pod{pod_uid.replace('-', '_')}.slice"):
            return "/".join(parts[: index + 1])
    return None


def kubepods_root(path: str) -> str | None:
    """The part of a pod's cgroup path that is kubelet's root for pods."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if part == "kubepods" or part == "kubepods.slice" or part.endswith("-kubepods.slice"):
            return "/".join(parts[: index + 1])
    return None


def pod_candidates(root: str, pod_uid: str) -> list[str]:
    """Every place where a pod's cgroup may be beneath kubelet's root, one for each class of service."""
    if not root.endswith(".slice"):
        return [f"{root}/{qos}/pod{pod_uid}" if qos else f"{root}/pod{pod_uid}" for qos in _QOS]
    # systemd: a slice's name repeats the names of all slices above it, and a dash in it stands for a level.
    prefix, uid = root.rsplit("/", 1)[-1].removesuffix(".slice"), pod_uid.replace("-", "_")
    classes = [f"{root}/{prefix}-{qos}.slice/{prefix}-{qos}" if qos else f"{root}/{prefix}" for qos in _QOS]
    return [f"{start}-pod{uid}.slice" for start in classes]


def find_kubepods(mountpoint: Path, depth: int = 4) -> Iterator[str]:
    """Search a hierarchy for kubelet's roots (more than one where several nodes share a machine)."""
    level = [""]
    for _ in range(depth):
        below: list[str] = []
        for path in level:
            for name in _folders(mountpoint / path.lstrip("/")):
                child = f"{path}/{name}"
                if kubepods_root(child):
                    yield child
                else:
                    below.append(child)
        level = below


def _folders(path: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []  # it went away meanwhile


def entries(hierarchies: list[Hierarchy], membership: dict[frozenset[str], str], pod_uid: str) -> list[Path]:
    """One cgroup for QEMU in every hierarchy: one of the pod's, and the root where the pod has none.

    A hierarchy left out would leave QEMU in the agent's cgroup there, and deleting the agent's pod would kill it.
    """
    places = [_entry(h, membership.get(h.controllers, "/"), pod_uid) for h in hierarchies]
    if all(place in {h.mountpoint for h in hierarchies} for place in places):
        raise HostFault(
            f"pod {pod_uid} has no cgroup in any of {[str(h.mountpoint) for h in hierarchies]}; "
            "is the host's /sys/fs/cgroup mounted in the agent?",
            reason="CgroupMissing",
        )
    return places


def _entry(hierarchy: Hierarchy, berth: str, pod_uid: str) -> Path:
    """Metrics count containers, so where it can be done the guest counts as the berth's container; but it may not be
    held to that container's devices, for it needs /dev/kvm. Version 2 cannot have one without the other.
    """
    pod = pod_path(berth, pod_uid)
    if pod is None:
        return hierarchy.mountpoint
    if hierarchy.version == 2:
        return hierarchy.at(pod) / GUEST_LEAF
    return hierarchy.at(berth if hierarchy.controllers & _COUNTED else pod)


def make_leaves(places: list[Path]) -> None:
    """Make the version 2 leaves; kubelet removes them with the pod."""
    for place in places:
        if place.name == GUEST_LEAF:
            try:
                place.mkdir(exist_ok=True)
            except OSError as error:
                raise HostFault(f"{place}: cannot be made: {error.strerror}", reason="CgroupMissing") from error


def ticket(guest_uid: int, oom_score_adj: int, places: list[Path]) -> str:
    """What images/agent/berth-qemu.c reads."""
    lines = [str(guest_uid), f"oom_score_adj {oom_score_adj}", *(f"{place}/cgroup.procs" for place in places)]
    return "".join(f"{line}\n" for line in lines)
