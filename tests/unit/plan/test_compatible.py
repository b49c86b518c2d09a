"""Which nodes a machine can start on and go to, and the words in which the others are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from berth.api.hardware import CpuMode, CpuOrder
from berth.api.order import Emulation, GuestState
from berth.plan import compatible, hardware, migratable
from berth.plan.hardware import Choice, Hardware
from berth.plan.hosts import Host
from berth.plan.world import World
from tests.unit.plan import cpus
from tests.unit.plan.cluster_worlds import agent, machine, report, up, world

HASWELL, SKYLAKE, ROME = (
    cpus.node(name, c) for name, c in (("a", cpus.HASWELL), ("b", cpus.SKYLAKE), ("c", cpus.ROME))
)


def at(source: Host, *others: Host, emulation: Emulation = Emulation.NEVER, **said: Any) -> World:
    """A machine that runs on ``source``, started when all of them were there."""
    cluster = cpus.cluster(source, *others, emulation=emulation)
    spec = machine(**said.pop("spec", {})).spec
    assert spec is not None
    found = hardware.resolve(spec, cluster)
    assert found is not None
    cpu = hardware.pick(found, source.kind, emulation)
    assert cpu is not None
    accelerator = source.kind.accelerator(emulation)
    told = {"accelerator": accelerator, "machine_type": found.machine_type, "cpu_mode": cpu.mode}
    told |= {"qemu_version": source.kind.qemu, **said}
    berth = replace(up(), node=source.node, hardware=hardware.to_text(found), emulation=emulation.value)
    return world(cluster=cluster, pod=berth, agent=agent(report(GuestState.RUNNING, **told)))


def seen_by(seen: World, *nodes: Host) -> World:
    """The nodes have become these since."""
    cluster = cpus.cluster(*nodes, emulation=seen.cluster.emulation)
    return replace(seen, cluster=cluster)


def reasons(seen: World) -> dict[str, str]:
    return {node: trouble.reason for node, trouble in compatible.move_troubles(seen).items()}


def test_the_baseline_goes_both_ways_and_not_to_another_vendor() -> None:
    assert reasons(at(HASWELL, SKYLAKE, ROME)) == {"c": "CpuVendorDiffers"}
    assert reasons(at(SKYLAKE, HASWELL, ROME)) == {"c": "CpuVendorDiffers"}
    assert reasons(at(ROME, HASWELL, SKYLAKE)) == {"a": "CpuVendorDiffers", "b": "CpuVendorDiffers"}


def test_an_older_node_that_comes_later_is_named_with_what_it_lacks() -> None:
    started = at(SKYLAKE, SKYLAKE)
    later = seen_by(started, SKYLAKE, replace(HASWELL, node="late"))
    told = compatible.told(compatible.move_troubles(later))
    assert told.startswith("node late lacks 3dnowprefetch, adx, avx512bw")
    assert told.endswith("and 8 more")


def test_all_of_a_nodes_cpu_goes_to_equal_nodes_only() -> None:
    twin = replace(SKYLAKE, node="twin")
    host = {"spec": {"cpu": {"model": "Host"}}}
    assert reasons(at(SKYLAKE, twin, HASWELL, ROME, **host)) == {"a": "CpuDiffers", "c": "CpuVendorDiffers"}


def test_what_runs_counts_not_what_was_ordered() -> None:
    """An agent that knew no CPU models gave the whole of the node's CPU."""
    seen = at(HASWELL, SKYLAKE, cpu_mode=CpuMode.HOST_PASSTHROUGH)
    assert reasons(seen) == {"b": "CpuDiffers"}
    assert reasons(at(HASWELL, SKYLAKE, cpu_mode="", machine_type="")) == {"b": "CpuDiffers"}
    there = compatible.as_it_runs(seen)
    assert there is not None
    assert [choice.cpu.mode for choice in there.cpus] == [CpuMode.HOST_PASSTHROUGH]


def test_the_berth_it_goes_to_has_what_it_runs_with() -> None:
    seen = at(SKYLAKE, HASWELL, ROME)
    there = compatible.as_it_runs(seen)
    assert there is not None
    assert there.machine_type == "pc-q35-10.0"
    assert [choice.cpu.model for choice in there.cpus] == ["Haswell-noTSX"]


def test_a_newer_qemu_takes_the_guest_and_an_older_one_does_not() -> None:
    older = cpus.node("old", cpus.HASWELL, qemu="9.2.0")
    new = at(HASWELL, older)
    assert reasons(new) == {"old": "QemuOlder"}
    told = compatible.told(compatible.move_troubles(new))
    assert told == "node old has QEMU 9.2.0, which is older than the guest's QEMU 10.0.0"
    assert reasons(at(older, HASWELL)) == {}


def test_a_guest_is_as_old_as_the_qemu_that_runs_it() -> None:
    """Its node got a newer agent meanwhile: the guest may still go to nodes that have the old one."""
    older = cpus.node("old", cpus.HASWELL, qemu="9.2.0")
    assert reasons(at(HASWELL, older, qemu_version="9.2.0")) == {}
    assert reasons(at(older, replace(older, node="too"), qemu_version="10.0.0")) == {"too": "QemuOlder"}


def test_repairs_of_a_release_go_both_ways() -> None:
    assert reasons(at(cpus.node("a", cpus.HASWELL, qemu="10.0.3"), cpus.node("b", cpus.HASWELL, qemu="10.0.2"))) == {}


def test_a_machine_type_that_is_not_there() -> None:
    seen = seen_by(at(HASWELL), HASWELL, cpus.node("old", cpus.HASWELL, qemu="7.2.1", types=("pc-q35-7.2",)))
    told = compatible.told(compatible.move_troubles(seen))
    assert told == (
        "node old has QEMU 7.2.1, which does not know machine type pc-q35-10.0, with which QEMU 10.0.0 runs it"
    )


def test_an_emulated_guest_and_one_with_kvm_do_not_change_places() -> None:
    emulated = cpus.node("tcg")
    assert reasons(at(HASWELL, emulated, emulation=Emulation.AUTO)) == {"tcg": "AcceleratorDiffers"}
    assert reasons(at(emulated, HASWELL, emulation=Emulation.AUTO)) == {"a": "AcceleratorDiffers"}
    assert reasons(at(emulated, cpus.node("too"), emulation=Emulation.ALWAYS)) == {}


def test_a_node_without_kvm_is_not_told_of_to_every_machine() -> None:
    seen = at(HASWELL, cpus.node("control"), replace(HASWELL, node="twin"))
    assert reasons(seen) == {"control": "KvmUnavailable"}
    fine = migratable.Answer(True, "Movable", "It can.")
    assert compatible.narrowed(fine, seen) is fine
    alone = at(HASWELL, cpus.node("control"))
    assert compatible.narrowed(fine, alone).message.startswith(
        "No other node can take it: node control has no KVM that"
    )


def test_nothing_is_held_against_a_node_that_has_not_told() -> None:
    silent = cpus.node("quiet", types=())
    assert reasons(seen_by(at(HASWELL), HASWELL, silent)) == {}


def test_nothing_is_said_of_a_machine_that_does_not_run() -> None:
    assert compatible.move_troubles(world()) == {}
    assert compatible.running(world(pod=up())) is None


def start(found: Hardware | None, *nodes: Host, **more: Any) -> dict[str, str]:
    troubles = compatible.start_troubles(found, Emulation.NEVER, cpus.cluster(*nodes, **more))
    return {node: f"{trouble.reason} {trouble.message}" for node, trouble in troubles.items()}


def test_a_start_is_kept_from_a_node_below_the_floor() -> None:
    old = cpus.node("old", cpus.PENRYN)
    spec = machine().spec
    assert spec is not None
    found = hardware.resolve(spec, cpus.cluster(HASWELL, ROME, old))
    text = "CpuFeatureMissing lacks popcnt, sse4.2, which the cluster's floor x86-64-v2 asks for"
    assert start(found, HASWELL, ROME, old) == {"old": text}


def test_a_start_is_kept_from_nodes_that_cannot_give_the_model() -> None:
    named = Hardware(cpus=(Choice(cpu=CpuOrder(model="Skylake-Server-noTSX-IBRS")),))
    assert start(named, HASWELL, SKYLAKE) == {"a": "CpuModelMissing cannot give CPU model Skylake-Server-noTSX-IBRS"}
    asked = Hardware(cpus=(Choice(cpu=CpuOrder(model="Nehalem", require=("avx512f", "avx"))),))
    assert start(asked, HASWELL, SKYLAKE) == {"a": "CpuFeatureMissing lacks avx512f"}


def test_a_vendor_that_came_later_is_named() -> None:
    spec = machine().spec
    assert spec is not None
    found = hardware.resolve(spec, cpus.cluster(HASWELL))
    assert start(found, HASWELL, ROME) == {
        "c": "CpuVendorDiffers has a CPU of AMD, and the CPU of this start is of Intel"
    }


def test_without_hardware_any_node_will_do() -> None:
    assert start(None, HASWELL, ROME) == {}


@pytest.mark.parametrize("lost", [True, False])
def test_migratable_names_the_nodes(lost: bool) -> None:
    older = cpus.node("old", cpus.HASWELL, qemu="9.2.0")
    seen = at(HASWELL, older) if lost else at(HASWELL, SKYLAKE, older)
    found = compatible.narrowed(migratable.Answer(True, "Movable", "It can."), seen)
    assert found.able is not lost
    assert found.reason == ("NoCompatibleNode" if lost else "Movable")
    assert "node old has QEMU 9.2.0, which is older than the guest's QEMU 10.0.0" in found.message


def test_what_cannot_move_anyway_keeps_its_reason() -> None:
    no = migratable.Answer(False, "NodeLocalDisk", "no")
    assert compatible.narrowed(no, at(HASWELL, ROME)) is no
