"""cgroups in words: both versions, both of kubelet's drivers, nested roots; and what /proc says of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.effects import berths, cgroups, mounts
from berth.effects.cgroups import Hierarchy
from berth.errors import HostFault

UID = "8fbe443d-2405-4017-bae6-5eca2c7fc654"
UID_ = UID.replace("-", "_")
V2 = Hierarchy(Path("/sys/fs/cgroup"), frozenset(), 2)
V1 = [
    Hierarchy(Path("/sys/fs/cgroup/memory"), frozenset({"memory"}), 1),
    Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), frozenset({"cpu", "cpuacct"}), 1),
    Hierarchy(Path("/sys/fs/cgroup/systemd"), frozenset({"name=systemd"}), 1),
    Hierarchy(Path("/sys/fs/cgroup/unified"), frozenset(), 2),
]
MOUNTINFO = """\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 /node/kubepods/podX/c /sys/fs/cgroup/memory ro master:9 - cgroup cgroup rw,memory
40 30 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
42 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/systemd/agent,name=systemd
43 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
44 30 0:27 / /mnt/other\\040place rw - cgroup cgroup rw,memory
45 30 0:31 /part /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
50 23 8:1 / / rw - ext4 /dev/vda1 rw
"""


def test_hierarchies_of_version_1_with_unified_beside_them() -> None:
    assert cgroups.parse_hierarchies(MOUNTINFO) == V1


def test_version_2() -> None:
    line = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
    assert cgroups.parse_hierarchies(line) == [V2]


@pytest.mark.parametrize(
    ("path", "pod", "root"),
    [
        (f"/kubepods/burstable/pod{UID}/abc", f"/kubepods/burstable/pod{UID}", "/kubepods"),
        (f"/node-a/kubepods/pod{UID}/abc", f"/node-a/kubepods/pod{UID}", "/node-a/kubepods"),
        (
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/cri-containerd-1.scope",
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice",
            "/kubepods.slice",
        ),
        (
            f"/a.slice/a-kubepods.slice/a-kubepods-pod{UID_}.slice/crio-1.scope/container",
            f"/a.slice/a-kubepods.slice/a-kubepods-pod{UID_}.slice",
            "/a.slice/a-kubepods.slice",
        ),
        (f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/x",
         f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice",
         "/kubelet.slice/kubelet-kubepods.slice"),
    ],
)  # fmt: skip
def test_a_pods_part_of_a_path_and_where_it_is_looked_for(path: str, pod: str, root: str) -> None:
    assert cgroups.pod_path(path, UID) == pod
    assert cgroups.kubepods_root(path) == root
    assert pod in cgroups.pod_candidates(root, UID)
    assert cgroups.pod_path(path, "00000000-0000-0000-0000-000000000000") is None


@pytest.mark.parametrize("path", ["/", "/system.slice/kubelet.service", f"/x/notpod{UID}", f"/pod{UID}x"])
def test_other_paths_are_no_pods(path: str) -> None:
    assert cgroups.pod_path(path, UID) is None
    assert cgroups.kubepods_root(path) is None


def test_membership() -> None:
    assert cgroups.parse_membership("9:name=systemd:/a\n4:cpu,cpuacct:/b:c\n0::/d\n") == {
        frozenset({"name=systemd"}): "/a",
        frozenset({"cpu", "cpuacct"}): "/b:c",
        frozenset(): "/d",
    }


def test_the_guest_counts_as_the_berths_container_but_is_not_held_to_its_devices() -> None:
    pod = f"/n/kubepods/pod{UID}"
    member = cgroups.parse_membership(f"3:memory:{pod}/c\n2:cpu,cpuacct:{pod}/c\n1:name=systemd:{pod}/c\n0::/\n")
    assert cgroups.entries(V1, member, UID) == [
        Path(f"/sys/fs/cgroup/memory{pod}/c"),
        Path(f"/sys/fs/cgroup/cpu,cpuacct{pod}/c"),
        Path(f"/sys/fs/cgroup/systemd{pod}"),
        Path("/sys/fs/cgroup/unified"),  # the root: the pod is not in it
    ]


def test_on_version_2_the_guest_gets_a_leaf_of_its_own() -> None:
    member = cgroups.parse_membership(f"0::/kubepods/pod{UID}/c\n")
    assert cgroups.entries([V2], member, UID) == [Path(f"/sys/fs/cgroup/kubepods/pod{UID}/berth-guest")]


def test_a_berth_in_no_cgroup_of_its_pod_is_refused() -> None:
    with pytest.raises(HostFault, match="has no cgroup in any of") as caught:
        cgroups.entries([V2], {frozenset(): "/user.slice"}, UID)
    assert caught.value.reason == "CgroupMissing"


def test_leaves_are_made_once(tmp_path: Path) -> None:
    pod = tmp_path / "pod"
    pod.mkdir()
    for _ in range(2):
        cgroups.make_leaves([pod / cgroups.GUEST_LEAF, tmp_path / "v1"])
    assert [p.name for p in tmp_path.rglob("*")] == ["pod", "berth-guest"]
    with pytest.raises(HostFault, match="cannot be made"):
        cgroups.make_leaves([tmp_path / "gone" / cgroups.GUEST_LEAF])


def test_kubelets_roots_are_found_wherever_they_are(tmp_path: Path) -> None:
    for path in (
        "a/kubepods/burstable/podX",
        "b.slice/b-kubepods.slice/b-kubepods-podY.slice",
        "kubepods",
        "c/d/e/f/kubepods",
    ):
        (tmp_path / path).mkdir(parents=True)
    assert sorted(cgroups.find_kubepods(tmp_path)) == ["/a/kubepods", "/b.slice/b-kubepods.slice", "/kubepods"]
    assert list(cgroups.find_kubepods(tmp_path / "none")) == []


def test_ticket() -> None:
    assert cgroups.ticket(1_900_000_000, -3, [Path("/sys/fs/cgroup/x")]) == (
        "1900000000\noom_score_adj -3\n/sys/fs/cgroup/x/cgroup.procs\n"
    )


STAT = "812 (be) R 1 (rth) S 1 812 812 0 -1 4194560 97 0 0 0 0 0 0 0 20 0 1 0 5551 1 1 1\n"
STATUS = "Name:\tberth\nUid:\t1\t2\t3\t4\nGid:\t1\t65532\t3\t4\nNSpid:\t812\t5\t1\n"


def test_what_proc_says_of_a_process_whatever_it_calls_itself() -> None:
    assert berths.parse_facts(STAT, STATUS) == berths.ProcessFacts("be) R 1 (rth", "S", 5551, 1, 65532)


def test_mounts_beneath_a_folder() -> None:
    places = ("/run", "/run/vms/a\\040b", "/run/vmsx")
    text = "".join(f"1 0 0:1 / {place} rw - tmpfs t rw\n" for place in places)
    assert mounts.parse_mountinfo(text, "/run/vms") == ["/run/vms/a b"]
    assert mounts.parse_mountinfo(text, "/run") == ["/run", "/run/vms/a b", "/run/vmsx"]
