"""What a start is resolved to, from what is asked for and what the nodes are; and which of it is for which node."""

from __future__ import annotations

from typing import Any

import pytest

from berth.api.hardware import CpuMode, CpuOrder
from berth.api.order import Emulation
from berth.api.virtualmachine import VirtualMachineSpec
from berth.plan import hardware
from berth.plan.hardware import Choice, Hardware
from berth.plan.hosts import Kind
from berth.plan.world import Cluster
from tests.unit.plan import cpus

UNLIKE = cpus.cluster(cpus.node("a", cpus.HASWELL), cpus.node("b", cpus.SKYLAKE), cpus.node("c", cpus.ROME))
NEVER = Emulation.NEVER


def spec(**fields: Any) -> VirtualMachineSpec:
    return VirtualMachineSpec.model_validate({"boot": {"kernel": {"image": "x"}}, **fields})


def resolved(cluster: Cluster, kept: str | None = None, **fields: Any) -> Hardware:
    found = hardware.resolve(spec(**fields), cluster, kept)
    assert found is not None
    return found


def on(cluster: Cluster, node: str, found: Hardware) -> CpuOrder | None:
    return hardware.pick(found, cluster.kind(node), cluster.emulation)


def test_each_node_gets_the_baseline_of_its_vendor() -> None:
    found = resolved(UNLIKE)
    models = {node: getattr(on(UNLIKE, node, found), "model", None) for node in "abc"}
    assert models == {"a": "Haswell-noTSX", "b": "Haswell-noTSX", "c": "EPYC-Rome"}


def test_emulation_has_the_plain_model() -> None:
    cluster = cpus.cluster(cpus.node("a"), cpus.node("b"), emulation=Emulation.ALWAYS)
    assert on(cluster, "a", resolved(cluster)) == CpuOrder(model="qemu64")


def test_where_both_are_allowed_each_node_gets_its_own() -> None:
    cluster = cpus.cluster(cpus.node("a"), cpus.node("b", cpus.HASWELL), emulation=Emulation.AUTO)
    found = resolved(cluster)
    assert on(cluster, "a", found) == CpuOrder(model="qemu64")
    assert (on(cluster, "b", found) or CpuOrder()).model == "Haswell-noTSX"


def test_the_nodes_own_cpu() -> None:
    found = resolved(UNLIKE, cpu={"model": "Host"})
    assert on(UNLIKE, "a", found) == CpuOrder(mode=CpuMode.HOST_PASSTHROUGH)
    assert hardware.pick(found, cpus.node("a").kind, Emulation.ALWAYS) == CpuOrder(mode=CpuMode.MAXIMUM)


def test_a_named_model_is_the_same_everywhere() -> None:
    asked = {"model": "Nehalem", "requireFeatures": ["aes"], "disableFeatures": ["lahf_lm"]}
    found = resolved(UNLIKE, cpu=asked)
    wanted = CpuOrder(model="Nehalem", require=("aes",), disable=("lahf_lm",))
    assert [on(UNLIKE, node, found) for node in "abc"] == [wanted] * 3


def test_features_are_added_to_the_baseline_and_taken_from_it() -> None:
    found = on(UNLIKE, "a", resolved(UNLIKE, cpu={"requireFeatures": ["vmx"], "disableFeatures": ["avx2"]}))
    assert found is not None
    assert "vmx" in found.require
    assert "avx2" not in found.require
    assert found.disable == ("avx2",)


def test_who_asks_for_nesting_gets_all_of_it() -> None:
    found = on(UNLIKE, "c", resolved(UNLIKE, cpu={"requireFeatures": ["svm"]}))
    assert found is not None
    assert {"svm", "npt", "nrip-save"} <= {*found.require}
    assert found.disable == ()
    without = on(UNLIKE, "c", resolved(UNLIKE, cpu={"disableFeatures": ["avx"]}))
    assert without is not None
    assert without.disable == ("avx", "npt", "nrip-save", "svm")


def test_what_was_asked_for_holds_without_any_node() -> None:
    nobody = Cluster()
    assert hardware.resolve(spec(), nobody) is None
    assert resolved(nobody, machineType="pc-q35-8.2").machine_type == "pc-q35-8.2"
    named = resolved(nobody, cpu={"model": "Nehalem"})
    assert hardware.pick(named, None, NEVER) == CpuOrder(model="Nehalem")


def test_a_new_machine_gets_the_newest_type_that_all_know() -> None:
    older = cpus.node("old", cpus.HASWELL, qemu="8.2.2", types=("pc-q35-7.2", "pc-q35-8.2"))
    assert resolved(UNLIKE).machine_type == "pc-q35-10.0"  # after 9.2, though not by the letter
    mixed = cpus.cluster(cpus.node("a", cpus.HASWELL), older)
    assert resolved(mixed).machine_type == "pc-q35-8.2"


def test_it_keeps_its_type_as_long_as_any_node_knows_it() -> None:
    assert resolved(UNLIKE, "pc-q35-7.2").machine_type == "pc-q35-7.2"
    assert resolved(UNLIKE, "pc-q35-2.4").machine_type == "pc-q35-10.0"
    assert resolved(UNLIKE, "pc-q35-7.2", machineType="pc-q35-9.2").machine_type == "pc-q35-9.2"


def test_nodes_without_a_type_in_common_get_the_usual_one() -> None:
    strange = cpus.cluster(cpus.node("a", cpus.HASWELL), cpus.node("b", cpus.HASWELL, types=("pc-q35-99.0",)))
    assert resolved(strange).machine_type == "pc-q35-10.0"


def test_a_node_that_has_not_told_gets_what_is_there() -> None:
    found = resolved(cpus.cluster(cpus.node("a", cpus.HASWELL)))
    assert (hardware.pick(found, None, NEVER) or CpuOrder()).model == "Haswell-noTSX"
    assert (hardware.pick(found, Kind(kvm_usable=True), NEVER) or CpuOrder()).model == "Haswell-noTSX"
    assert hardware.pick(None, None, NEVER) is None


def test_the_annotation_is_read_as_it_was_written() -> None:
    found = resolved(UNLIKE)
    assert hardware.from_text(hardware.to_text(found)) == found


@pytest.mark.parametrize("text", ["", "{", '{"cpus": 7}'])
def test_a_spoiled_annotation_is_none(text: str) -> None:
    assert hardware.from_text(text) is None


def test_a_later_versions_annotation_is_read() -> None:
    text = '{"machineType": "pc-q35-10.0", "later": 1, "cpus": [{"cpu": {"model": "X", "cache": 2}}]}'
    assert hardware.from_text(text) == Hardware(machine_type="pc-q35-10.0", cpus=(Choice(cpu=CpuOrder(model="X")),))
