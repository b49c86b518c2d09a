"""The berth pods' processes on this node: a pod's uid in, a verified process and safe descriptors into its pod out.

Called by the agent. A pid alone proves nothing: it is believed together with its start time, its name, its being the
first process of its container, and its cgroup; and each descriptor is taken first and its process verified afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from berth.domain.observed import HandoverRecord, HandoverState, QemuProcess
from berth.effects import cgroups, functions, paths
from berth.effects.folders import MachineFolders
from berth.effects.ports import Berth, Berths, StartRecord
from berth.errors import HostFault

PROCESS_NAME = "berth"


class BerthGone(HostFault):
    """The berth process is not there any more."""

    reason = "BerthGone"


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What /proc/PID says of one process."""

    name: str
    state: str
    start_time: int
    inner_pid: int  # its pid in its own, innermost pid namespace
    gid: int


def parse_facts(stat: str, status: str) -> ProcessFacts:
    """/proc/PID/stat and /proc/PID/status. A process names itself: only the last parenthesis ends the name."""
    name, rest = stat[stat.index("(") + 1 :].rsplit(")", 1)
    fields = rest.split()
    rows = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    inner, gid = rows.get("NSpid", "0").split()[-1], rows["Gid"].split()[1]
    return ProcessFacts(name, fields[0], int(fields[19]), int(inner), int(gid))


def facts_of(pid: int) -> ProcessFacts | None:
    try:
        return parse_facts(Path(f"/proc/{pid}/stat").read_text(), Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_alive(berth: Berth) -> bool:
    facts = facts_of(berth.pid)
    return facts is not None and facts.start_time == berth.start_time and facts.state not in "ZX"


def open_root(berth: Berth) -> int:
    """An O_PATH descriptor of the root folder of the berth's container."""
    return _open_verified(berth, "root", os.O_PATH | os.O_DIRECTORY)


def open_namespace(berth: Berth, kind: str) -> int:
    """A descriptor of the berth's namespace: "net" or "mnt"."""
    return _open_verified(berth, f"ns/{kind}", os.O_RDONLY)


def _open_verified(berth: Berth, what: str, flags: int) -> int:
    try:
        fd = os.open(f"/proc/{berth.pid}/{what}", flags | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise _gone(berth) from error
    if not is_alive(berth):  # the pid may have been another process's when it was opened
        os.close(fd)
        raise _gone(berth)
    return fd


@dataclass(slots=True)
class NodeBerths:
    """Berths over cgroupfs and procfs."""

    machines: MachineFolders = field(default_factory=MachineFolders)
    rescan_seconds: float = 1.0
    _hierarchies: list[cgroups.Hierarchy] = field(default_factory=list)
    _roots: dict[Path, list[str]] = field(default_factory=dict)
    _scanned: float = -1e9

    def find(self, pod_uid: str) -> Berth | None:
        cgroup = self._pod_cgroup(pod_uid)
        for pid in _pids(cgroup) if cgroup else ():
            if (berth := _recognize(pid, pod_uid)) is not None:
                return berth
        return None

    def alive(self, berth: Berth) -> bool:
        return is_alive(berth)

    def network(self, berth: Berth) -> int:
        with paths.closing(open_namespace(berth, "net")) as netns:
            return os.fstat(netns).st_ino

    def functions(self, berth: Berth, resources: Sequence[str]) -> dict[str, tuple[str, ...]]:
        if not resources:
            return {}
        return functions.addresses(_read_process(berth, "environ").encode("utf-8", "surrogateescape"), resources)

    def prepare_cgroup(self, vm_uid: str, guest_uid: int, berth: Berth) -> None:
        membership = cgroups.parse_membership(_read_process(berth, "cgroup"))
        places = cgroups.entries(self._known_hierarchies(), membership, berth.pod_uid)
        oom_score_adj = int(_read_process(berth, "oom_score_adj"))
        if not is_alive(berth):
            raise _gone(berth)
        cgroups.make_leaves(places)
        self.machines.make(vm_uid, guest_uid)
        self.machines.write(vm_uid, "cgroup", cgroups.ticket(guest_uid, oom_score_adj, places))

    def record_start(self, vm_uid: str, record: StartRecord) -> None:
        self.machines.write(vm_uid, "start", json.dumps(asdict(record)) + "\n")

    def start_record(self, vm_uid: str) -> StartRecord | None:
        text = self.machines.read(vm_uid, "start")
        if text is None:
            return None
        known = {each.name for each in fields(StartRecord)}  # a newer agent may have written more
        return StartRecord(**{name: value for name, value in json.loads(text).items() if name in known})

    def record_handover(self, vm_uid: str, record: HandoverRecord) -> None:
        text = json.dumps({**asdict(record), "state": record.state.value})
        self.machines.write(vm_uid, "handover", text + "\n")

    def handover_record(self, vm_uid: str) -> HandoverRecord | None:
        text = self.machines.read(vm_uid, "handover")
        if text is None:
            return None
        said = json.loads(text)
        qemu = QemuProcess(**said.pop("qemu")) if said["qemu"] is not None else said.pop("qemu")
        return HandoverRecord(**{**said, "state": HandoverState(said["state"])}, qemu=qemu)

    def forget(self, vm_uid: str) -> None:
        self.machines.remove(vm_uid)

    def folders(self) -> list[str]:
        return self.machines.all()

    def _known_hierarchies(self) -> list[cgroups.Hierarchy]:
        if not self._hierarchies:
            self._hierarchies = cgroups.parse_hierarchies(Path("/proc/self/mountinfo").read_text())
        return self._hierarchies

    def _pod_cgroup(self, pod_uid: str) -> Path | None:
        """The pod's cgroup in the first hierarchy that has it."""
        self._refresh_roots()
        for hierarchy in self._known_hierarchies():
            for root in self._roots[hierarchy.mountpoint]:
                for path in cgroups.pod_candidates(root, pod_uid):
                    if (place := hierarchy.at(path)).is_dir():
                        return place
        return None

    def _refresh_roots(self) -> None:
        """The agent's own pod lies beneath the same root as every berth; one in no pod searches, now and then."""
        if time.monotonic() - self._scanned < self.rescan_seconds:
            return
        own = cgroups.parse_membership(Path("/proc/self/cgroup").read_text())
        for hierarchy in self._known_hierarchies():
            root = cgroups.kubepods_root(own.get(hierarchy.controllers, "/"))
            self._roots[hierarchy.mountpoint] = [root] if root else list(cgroups.find_kubepods(hierarchy.mountpoint))
        self._scanned = time.monotonic()


def _recognize(pid: int, pod_uid: str) -> Berth | None:
    facts = facts_of(pid)
    if facts is None or facts.name != PROCESS_NAME or facts.inner_pid != 1 or facts.state in "ZX":
        return None
    berth = Berth(pod_uid, pid, facts.start_time)
    try:
        members = cgroups.parse_membership(_read_process(berth, "cgroup")).values()
    except BerthGone:
        return None
    inside = any(cgroups.pod_path(path, pod_uid) for path in members)
    return berth if inside and is_alive(berth) else None


def _gone(berth: Berth) -> BerthGone:
    return BerthGone(f"the berth process of pod {berth.pod_uid} (pid {berth.pid}) is gone; its pod has to be made anew")


def _read_process(berth: Berth, name: str) -> str:
    try:
        return Path(f"/proc/{berth.pid}/{name}").read_text(errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise _gone(berth) from error


def _pids(pod_cgroup: Path) -> Iterator[int]:
    """The processes in the containers of a pod, QEMU's leaf left out."""
    for folder, below, _ in os.walk(pod_cgroup):
        if cgroups.GUEST_LEAF in below:
            below.remove(cgroups.GUEST_LEAF)
        with contextlib.suppress(OSError):  # a container of the pod is being taken down
            yield from map(int, Path(folder, "cgroup.procs").read_text().split())


def resolv_conf(berth: Berth) -> str:
    """The pod's own /etc/resolv.conf, as kubelet wrote it."""
    with paths.closing(open_root(berth)) as root:
        return paths.read_regular(root, "/etc/resolv.conf", 65536).decode("utf-8", "replace")


async def wait_for(berths: Berths, pod_uid: str, seconds: float, interval: float = 0.02) -> Berth | None:
    """Look for a berth process until it is there or the time is up; cgroupfs announces nothing, so this looks often."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (berth := await asyncio.to_thread(berths.find, pod_uid)) is None:
        if asyncio.get_running_loop().time() >= deadline:
            return None
        await asyncio.sleep(interval)
    return berth
