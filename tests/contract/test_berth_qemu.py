"""The emulator wrapper, installed setuid root and started as libvirt starts it: unprivileged, without capabilities.

The program it becomes is a shell script that tells who and where it is.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from berth.effects import berths as node_berths
from berth.effects import cgroups
from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders
from tests.contract import pods

GUEST_UID = 1_900_000_123
BEFORE = (
    "setpriv",
    f"--reuid={GUEST_UID}",
    f"--regid={GUEST_UID}",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
)
TELL = r"""#!/bin/sh
echo "args $*"
grep -E '^(Uid|Gid|Cap|NoNewPrivs)' /proc/self/status
sed 's/^/cgroup /' /proc/self/cgroup
echo "oom $(cat /proc/self/oom_score_adj)"
if [ -e /proc/$$/fd/7 ]; then cat <&7; fi
"""


@dataclass(slots=True)
class Wrapper:
    program: Path
    vms: Path
    uuid: str

    def ticket(self, text: str, mode: int = 0o644, uid: int = 0) -> None:
        folder = self.vms / self.uuid
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)
        (folder / "cgroup").write_text(text)
        (folder / "cgroup").chmod(mode)
        os.chown(folder / "cgroup", uid, uid)

    def run(self, *arguments: str, before: tuple[str, ...] = BEFORE, fds: tuple[int, ...] = ()) -> tuple[int, str, str]:
        command = [*before, str(self.program), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, pass_fds=fds, timeout=10, check=False)
        return result.returncode, result.stdout, result.stderr

    def start(self, **options: tuple[str, ...]) -> tuple[int, str, str]:
        return self.run("-name", "x", "-uuid", self.uuid, **options)  # type: ignore[arg-type]


INSTALLED_QEMU = Path("/usr/bin/qemu-system-x86_64")


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The wrapper, setuid, and the folder it reads tickets from, built for its paths. Where there is no compiler
    (the agent's image): the installed one, with the shell script mounted over QEMU."""
    folder = tmp_path_factory.mktemp("wrapper")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    (folder / "vms").mkdir()
    (folder / "qemu").write_text(TELL)
    (folder / "qemu").chmod(0o755)
    built = pods.binary("berth-qemu", folder, f'QEMU_BINARY="{folder}/qemu"', f'VMS_DIR="{folder}/vms"')
    built.chmod(0o4711)
    if built.parent == folder:
        yield built, folder / "vms"
        return
    Path("/run/berth/vms").mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", folder / "qemu", INSTALLED_QEMU], check=True)
    yield built, Path("/run/berth/vms")
    subprocess.run(["umount", INSTALLED_QEMU], check=True)


@pytest.fixture
def wrapper(wrapped: tuple[Path, Path]) -> Wrapper:
    return Wrapper(*wrapped, str(uuid.uuid4()))


@pytest.fixture
def places() -> Iterator[list[Path]]:
    """One cgroup in every hierarchy; for "unified" beside version 1 its root, as for a real pod."""
    hierarchies, made = pods.hierarchies(), []
    places = [h.mountpoint for h in hierarchies]
    for index, hierarchy in enumerate(hierarchies):
        if hierarchy.version == 1 or len(hierarchies) == 1:
            places[index] = hierarchy.at(f"/wrapper-test-{uuid.uuid4()}")
            places[index].mkdir()
            made.append(places[index])
            if "cpuset" in hierarchy.controllers:
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (places[index] / name).write_text((hierarchy.mountpoint / name).read_text())
    yield places
    for place in made:
        pods.until(lambda p=place: pods.FakePod._remove(p))  # type: ignore[misc]


def test_enters_every_hierarchy_and_keeps_nothing_of_root(wrapper: Wrapper, places: list[Path]) -> None:
    wrapper.ticket(cgroups.ticket(GUEST_UID, 900, places))
    code, out, err = wrapper.start()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"args -name x -uuid {wrapper.uuid}"
    assert f"Uid:\t{GUEST_UID}\t{GUEST_UID}\t{GUEST_UID}\t{GUEST_UID}" in lines
    assert f"Gid:\t{GUEST_UID}\t{GUEST_UID}\t{GUEST_UID}\t{GUEST_UID}" in lines
    assert all(line.endswith("0000000000000000") for line in lines if line.startswith("Cap")), out
    assert "NoNewPrivs:\t1" in lines
    assert "oom 900" in lines
    seen = cgroups.parse_membership("".join(line[7:] + "\n" for line in lines if line.startswith("cgroup ")))
    for hierarchy, place in zip(pods.hierarchies(), places, strict=True):
        assert hierarchy.at(seen[hierarchy.controllers]) == place


def test_open_files_stay_open_under_their_numbers(wrapper: Wrapper, places: list[Path], tmp_path: Path) -> None:
    wrapper.ticket(cgroups.ticket(GUEST_UID, 900, places))
    (tmp_path / "passed").write_text("through fd 7\n")
    fd = os.open(tmp_path / "passed", os.O_RDONLY)
    os.dup2(fd, 7)
    _, out, _ = wrapper.start(fds=(7,))  # type: ignore[arg-type]
    assert out.endswith("through fd 7\n")


def test_capabilities_go_even_if_the_caller_did_not_clear_the_bounding_set(wrapper: Wrapper) -> None:
    code, out, _ = wrapper.run("-version", before=BEFORE[:4])
    assert code == 0
    assert "CapEff:\t0000000000000000" in out
    assert "CapPrm:\t0000000000000000" in out
    assert "CapBnd:\t0000000000000000" in out
    assert f"Uid:\t{GUEST_UID}\t{GUEST_UID}\t{GUEST_UID}\t{GUEST_UID}" in out


@pytest.mark.parametrize("before", [BEFORE, ()], ids=["unprivileged", "root"])
def test_without_a_uuid_it_is_just_qemu(wrapper: Wrapper, before: tuple[str, ...]) -> None:
    own = Path("/proc/self/cgroup").read_text()
    code, out, err = wrapper.run("-S", "-machine", "none", before=before)
    assert (code, err) == (0, "")
    assert "args -S -machine none" in out
    assert "".join(line[7:] + "\n" for line in out.splitlines() if line.startswith("cgroup ")) == own


def test_another_machines_place_is_refused(wrapper: Wrapper, places: list[Path]) -> None:
    wrapper.ticket(cgroups.ticket(GUEST_UID + 1, 900, places))
    code, out, err = wrapper.start()
    assert (code, out) == (126, "")
    assert f"started by uid {GUEST_UID}, which is not the uid of VM {wrapper.uuid}" in err


def test_root_is_no_machine(wrapper: Wrapper, places: list[Path]) -> None:
    wrapper.ticket(cgroups.ticket(GUEST_UID, 900, places))
    assert wrapper.start(before=())[0] == 126


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be whole lines of text"),
        ("1900000123", "must be whole lines of text"),
        ("0\n/sys/fs/cgroup/cgroup.procs\n", "must be a number from 1 to"),
        ("root\n", "must be a number from 1 to"),
        ("1900000123\n", "names no cgroup to enter"),
        ("1900000123\noom_score_adj 1001\n", "must be a number from -1000 to 1000"),
        ("1900000123\n/etc/passwd\n", "is not a /sys/fs/cgroup/"),
        ("1900000123\n/sys/fs/cgroup/../../tmp/cgroup.procs\n", "is not a /sys/fs/cgroup/"),
        ("1900000123\n/sys/fs/cgroup/no-such-pod/cgroup.procs\n", "is the berth pod still there?"),
        ("1900000123\n" + "x" * 20000 + "\n", "must be whole lines of text"),
    ],
)
def test_odd_tickets_are_refused(wrapper: Wrapper, text: str, message: str) -> None:
    wrapper.ticket(text)
    code, out, err = wrapper.start()
    assert (code, out) == (126, "")
    assert message in err


@pytest.mark.parametrize(("mode", "uid"), [(0o664, 0), (0o646, 0), (0o644, GUEST_UID)])
def test_a_ticket_that_others_could_write_is_refused(wrapper: Wrapper, places: list[Path], mode: int, uid: int) -> None:
    wrapper.ticket(cgroups.ticket(GUEST_UID, 900, places), mode, uid)
    code, _, err = wrapper.start()
    assert code == 126
    assert "must belong to root" in err


def test_a_folder_of_the_machines_own_is_refused(wrapper: Wrapper, places: list[Path]) -> None:
    wrapper.ticket(cgroups.ticket(GUEST_UID, 900, places))
    os.chown(wrapper.vms / wrapper.uuid, GUEST_UID, GUEST_UID)
    assert wrapper.start()[0] == 126


def test_a_link_as_ticket_is_refused(wrapper: Wrapper, places: list[Path]) -> None:
    wrapper.ticket("")
    place = wrapper.vms / wrapper.uuid / "cgroup"
    place.rename(place.with_name("other"))
    place.with_name("other").write_text(cgroups.ticket(GUEST_UID, 900, places))
    place.symlink_to("other")
    assert wrapper.start()[0] == 126


def test_no_ticket_is_refused(wrapper: Wrapper) -> None:
    code, _, err = wrapper.start()
    assert code == 126
    assert "the agent makes it before it starts a VM" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("-uuid",),
        ("-uuid", "../../etc"),
        ("-uuid", "00000000-0000-0000-0000-00000000000G"),
        ("-uuid", "00000000-0000-0000-0000-000000000000x"),
        ("-append", "-uuid", "-uuid", "00000000-0000-0000-0000-000000000000"),
        ("--uuid", ""),
    ],
)
def test_odd_arguments_are_refused(wrapper: Wrapper, arguments: tuple[str, ...]) -> None:
    code, out, err = wrapper.run(*arguments)
    assert (code, out) == (126, "")
    assert "-uuid" in err


@pytest.mark.parametrize("style", ["cgroupfs", "systemd"])
def test_on_version_2_a_guest_enters_a_leaf_of_its_pod(
    wrapper: Wrapper, start_pod: Callable[..., pods.FakePod], style: str
) -> None:
    """Version 2 has rules of its own about who may move whom, and a pod's own cgroup may hold no processes."""
    [unified] = [h for h in pods.hierarchies() if h.version == 2]
    pod = start_pod(style=style, version=2)
    berths = NodeBerths(MachineFolders(wrapper.vms), rescan_seconds=0, _hierarchies=[unified])
    berth = berths.find(pod.uid)
    assert berth is not None
    assert berth.pid == pod.pid
    berths.prepare_cgroup(wrapper.uuid, GUEST_UID, berth)
    ticket = (wrapper.vms / wrapper.uuid / "cgroup").read_text()
    assert ticket.splitlines()[2:] == [f"{unified.at(pod.pod_cgroup)}/berth-guest/cgroup.procs"]
    code, out, _ = wrapper.start()
    assert code == 0
    assert f"cgroup 0::{pod.pod_cgroup}/berth-guest" in out.splitlines()
    guest = subprocess.Popen(["sleep", "60"])
    try:
        (unified.at(pod.pod_cgroup) / "berth-guest/cgroup.procs").write_text(str(guest.pid))
        assert guest.pid not in node_berths._pids(unified.at(pod.pod_cgroup))  # no berth is looked for among guests
    finally:
        guest.kill()
        guest.wait()
