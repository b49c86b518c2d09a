"""cgroups on a pretended file system: v1, v2 and what belongs to each."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.cluster import cgroups


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.procs").write_text("1\n")
    return tmp_path


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for name in ("cpu", "cpuset", "systemd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text("1\n")
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-1\n")
    (tmp_path / "cpuset" / "cpuset.mems").write_text("0\n")
    (tmp_path / "cpu,cpuacct").symlink_to(tmp_path / "cpu")
    return tmp_path


def test_v2_is_one_hierarchy(v2: Path) -> None:
    assert cgroups.hierarchies(v2) == [v2]


def test_v1_is_one_hierarchy_per_controller_and_links_do_not_count_twice(v1: Path) -> None:
    assert [path.name for path in cgroups.hierarchies(v1)] == ["cpu", "cpuset", "systemd"]


def test_v1_hands_the_cpuset_down_to_every_level(v1: Path) -> None:
    cgroups.ensure("bed/daemons", v1)
    for level in ("bed", "bed/daemons"):
        assert (v1 / "cpuset" / level / "cpuset.cpus").read_text() == "0-1\n"
        assert (v1 / "cpuset" / level / "cpuset.mems").read_text() == "0\n"
    assert not (v1 / "cpu" / "bed" / "cpuset.cpus").exists()


def test_v2_hands_down_controllers_from_the_parents_but_not_from_the_leaf(v2: Path) -> None:
    cgroups.ensure("bed/daemons", v2)
    # A pretended kernel keeps only the last write; a real one adds each.
    assert (v2 / "cgroup.subtree_control").read_text() == "+pids"
    assert not (v2 / "bed" / "daemons" / "cgroup.subtree_control").exists()


def test_all_processes_below_a_cgroup_are_found(v1: Path) -> None:
    cgroups.ensure("bed/daemons", v1)
    (v1 / "cpu" / "bed" / "daemons" / "cgroup.procs").write_text("12\n13\n")
    (v1 / "systemd" / "bed" / "cgroup.procs").write_text("14\n")
    assert cgroups.processes("bed", v1) == {12, 13, 14}


def test_existence_means_every_hierarchy_and_leftovers_name_the_rest(v1: Path) -> None:
    cgroups.ensure("bed", v1)
    assert cgroups.exists("bed", v1)
    (v1 / "cpu" / "bed").rmdir()
    assert not cgroups.exists("bed", v1)
    assert [path.parent.name for path in cgroups.leftovers("bed", v1)] == ["cpuset", "systemd"]


def test_other_testbeds_are_seen_whatever_their_number(v1: Path) -> None:
    cgroups.ensure("bed", v1)
    cgroups.ensure("bed2/daemons", v1)
    assert cgroups.siblings("bed", v1) == {"bed", "bed2"}


def test_entries_are_the_files_a_process_writes_itself_into(v2: Path) -> None:
    assert cgroups.entries("bed/daemons", v2) == [v2 / "bed" / "daemons" / "cgroup.procs"]
