"""What unlike nodes' CPUs have in common, who leaves itself out, and that a guest with it may go both ways."""

from __future__ import annotations

import itertools

import pytest

from berth.api.hardware import HostCpu
from berth.plan.cpu_baseline import FLOORS, Baseline, LeftOut, baseline
from berth.plan.hosts import Cpu
from tests.unit.plan import cpus


def of(floor: str = "x86-64-v2", **nodes: HostCpu) -> Baseline:
    found = {name: cpus.node(name, host_cpu).kind.kvm for name, host_cpu in nodes.items()}
    return baseline([(name, cpu) for name, cpu in found.items() if cpu is not None], floor)


def test_a_newer_and_an_older_cpu_have_the_older_ones_features() -> None:
    (group,) = of(a=cpus.HASWELL, b=cpus.SKYLAKE).groups
    assert (group.vendor, group.nodes, group.cpu.model) == ("Intel", ("a", "b"), "Haswell-noTSX")
    assert "avx2" in group.cpu.require
    assert "avx512f" not in group.cpu.require


def test_alike_nodes_lose_nothing_but_nesting() -> None:
    (group,) = of(a=cpus.SKYLAKE, b=cpus.SKYLAKE).groups
    assert group.cpu.model == "Skylake-Server-noTSX-IBRS"
    assert {*cpus.SKYLAKE.features} - {*group.cpu.require} == {"vmx", "vmx-ept"}
    (amd,) = of(a=cpus.ROME).groups
    assert {*cpus.ROME.features} - {*amd.cpu.require} == {"svm", "npt", "nrip-save"}
    assert (group.cpu.disable, amd.cpu.disable) == (("vmx",), ("npt", "nrip-save", "svm")), "models may bring it along"


def test_each_vendor_has_its_own() -> None:
    amd, intel = of(a=cpus.SKYLAKE, b=cpus.ROME, c=cpus.HASWELL).groups
    assert (amd.vendor, amd.nodes, amd.cpu.model) == ("AMD", ("b",), "EPYC-Rome")
    assert (intel.nodes, intel.cpu.model) == (("a", "c"), "Haswell-noTSX")


def test_a_node_below_the_floor_is_left_out_and_told_what_it_lacks() -> None:
    found = of(a=cpus.SKYLAKE, old=cpus.PENRYN)
    assert found.left_out == (LeftOut("old", ("popcnt", "sse4.2")),)
    assert [group.nodes for group in found.groups] == [("a",)]
    assert "avx512f" in found.groups[0].cpu.require


def test_the_floor_can_be_raised() -> None:
    assert of("x86-64-v2", a=cpus.SKYLAKE, b=cpus.NEHALEM).groups[0].cpu.model == "Nehalem"
    found = of("x86-64-v3", a=cpus.SKYLAKE, b=cpus.NEHALEM)
    assert [out.node for out in found.left_out] == ["b"]
    assert {"avx", "avx2", "bmi1", "fma"} <= {*found.left_out[0].missing}
    assert [out.node for out in of("x86-64-v4", a=cpus.SKYLAKE, b=cpus.HASWELL).left_out] == ["b"]
    assert of("x86-64-v1", a=cpus.SKYLAKE, b=cpus.PENRYN).groups[0].cpu.model == "Penryn"


def test_the_floors_are_a_stair() -> None:
    stairs = list(FLOORS.values())
    assert all(low < high for low, high in itertools.pairwise(stairs))


def test_no_model_in_common_is_the_plain_one() -> None:
    features = FLOORS["x86-64-v2"]
    odd = [("a", Cpu("V", "x", features, ("one",))), ("b", Cpu("V", "y", features, ("other",)))]
    assert baseline(odd).groups[0].cpu.model == "qemu64"


def test_no_nodes_have_no_baseline() -> None:
    assert baseline([]) == Baseline()


@pytest.mark.parametrize("pair", list(itertools.combinations((cpus.NEHALEM, cpus.HASWELL, cpus.SKYLAKE), 2)))
def test_whatever_a_baseline_asks_for_both_sides_have(pair: tuple[HostCpu, HostCpu]) -> None:
    (group,) = of(a=pair[0], b=pair[1]).groups
    for side in pair:
        assert {*group.cpu.require} <= {*side.features}
        assert group.cpu.model in side.models
