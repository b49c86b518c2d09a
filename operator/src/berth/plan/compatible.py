"""Which nodes can run a machine with the hardware it has, and for those that cannot, why: told before anything is sent.

``start_troubles`` is about a berth that is to be scheduled, ``move_troubles`` about a guest that runs and has to find
the same CPU, the same machine type and no older QEMU. Of a node that has not told its facts nothing is held against it.
Called by cluster.py, incoming.py, migration.py, moving_on.py, evacuation.py and conditions.py. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from berth.api.hardware import CpuMode, CpuOrder
from berth.api.order import Emulation
from berth.plan import hardware as resolved
from berth.plan.cpu_baseline import FLOORS
from berth.plan.hardware import Choice, Hardware
from berth.plan.hosts import Cpu, Kind, release
from berth.plan.migratable import Answer
from berth.plan.world import Cluster, Pod, World

MOST_NAMES: Final = 8
_NO_KVM: Final = "KvmUnavailable"
_NEXT: Final = "start it with spec.cpu.model Baseline, or add a node like its own"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a node does not do: ``message`` goes on after the node's name."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Running:
    """What a guest really runs with."""

    accelerator: str
    machine_type: str
    cpu: CpuOrder | None  # None: the plain one of an earlier Berth
    qemu: str


def start_troubles(hardware: Hardware | None, emulation: Emulation, cluster: Cluster) -> dict[str, Trouble]:
    """By node: those where a berth with this hardware could not be started."""
    if hardware is None:
        return {}
    judged: dict[Kind, Trouble | None] = {}
    for host in cluster.hosts:
        if host.kind not in judged:
            judged[host.kind] = _start(hardware, emulation, host.kind, cluster)
    return {host.node: found for host in cluster.hosts if (found := judged[host.kind]) is not None}


def start_trouble(pod: Pod, cluster: Cluster) -> Trouble | None:
    """Of a berth, on the node that it is on."""
    hardware, kind = resolved.from_text(pod.hardware), cluster.kind(pod.node)
    return _start(hardware, cluster.emulation_of(pod), kind, cluster) if hardware is not None and kind else None


def _start(hardware: Hardware, emulation: Emulation, kind: Kind, cluster: Cluster) -> Trouble | None:
    accelerator = kind.accelerator(emulation)
    if not kind.known or not accelerator:
        return None  # what KVM the node has is told by its label
    if (found := _machine_type(hardware.machine_type, kind)) is not None:
        return found
    cpu, has = resolved.pick(hardware, kind, emulation), kind.cpu(accelerator)
    if has is None or (cpu is None and not hardware.cpus):
        return None
    by_vendor = [each.vendor for each in hardware.cpus if each.vendor]
    if accelerator == "kvm" and by_vendor and (below := FLOORS[cluster.cpu_floor] - has.features):
        text = f"lacks {names(below)}, which the cluster's floor {cluster.cpu_floor} asks for"
        return Trouble("CpuFeatureMissing", text)
    if cpu is None:
        others = ", ".join(sorted(by_vendor)) or "another kind"
        return Trouble("CpuVendorDiffers", f"has a CPU of {has.vendor}, and the CPU of this start is of {others}")
    return _custom(cpu, has)


def move_troubles(world: World) -> dict[str, Trouble]:
    """By node: those that the running guest could not go to."""
    berth, guest = world.berth, running(world)
    if berth is None or guest is None:
        return {}
    emulation, source = world.cluster.emulation_of(berth), world.cluster.kind(berth.node)
    judged: dict[Kind, Trouble | None] = {}
    for host in world.cluster.hosts:
        if host.kind not in judged:
            judged[host.kind] = _move(guest, emulation, source, host.kind)
    return {
        host.node: found
        for host in world.cluster.hosts
        if host.node != berth.node and (found := judged[host.kind]) is not None
    }


def running(world: World) -> Running | None:
    """By the node's report, and by what was ordered where that does not say; None while nothing runs."""
    berth, report = world.berth, world.report
    if berth is None or berth.node is None or report is None:
        return None
    hardware, kind = resolved.from_text(berth.hardware), world.cluster.kind(berth.node)
    emulation = world.cluster.emulation_of(berth)
    accelerator = report.accelerator or (kind.accelerator(emulation) if kind is not None else "")
    if not accelerator:
        return None
    cpu = resolved.pick(hardware, kind, emulation)
    whole = [mode for mode in (CpuMode.HOST_PASSTHROUGH, CpuMode.MAXIMUM) if mode == report.cpu_mode]
    if whole or (accelerator == "kvm" and not report.machine_type):  # an older agent knows no other CPU under KVM
        cpu = CpuOrder(mode=whole[0] if whole else CpuMode.HOST_PASSTHROUGH)
    machine_type = report.machine_type or (hardware.machine_type if hardware is not None else "")
    return Running(accelerator, machine_type, cpu, report.qemu_version or (kind.qemu if kind is not None else ""))


def as_it_runs(world: World) -> Hardware | None:
    """For the berth that a guest goes to: what it runs with, whatever would be resolved today."""
    guest = running(world)
    if guest is None or not (guest.machine_type or guest.cpu):
        return resolved.from_text(world.berth.hardware) if world.berth is not None else None
    cpus = (Choice(cpu=guest.cpu),) if guest.cpu is not None else ()
    return Hardware(machine_type=guest.machine_type, cpus=cpus)


def _move(guest: Running, emulation: Emulation, source: Kind | None, target: Kind) -> Trouble | None:
    accelerator = target.accelerator(emulation)
    if not target.known:
        return None
    if not accelerator:
        return Trouble(_NO_KVM, "has no KVM that works")
    if accelerator != guest.accelerator:
        words = {"kvm": "runs it with KVM", "tcg": "emulates it"}
        return Trouble("AcceleratorDiffers", f"{words[accelerator]}, and its own node {words[guest.accelerator]}")
    return _machine_type(guest.machine_type, target, guest.qemu) or _older(guest, target) or _cpu(guest, source, target)


def _machine_type(wanted: str, kind: Kind, qemu: str = "") -> Trouble | None:
    if not wanted or wanted in kind.machine_types:
        return None
    by = f", with which QEMU {qemu} runs it" if qemu else ""
    return Trouble("MachineTypeUnknown", f"has QEMU {kind.qemu}, which does not know machine type {wanted}{by}")


def _older(guest: Running, target: Kind) -> Trouble | None:
    """A newer QEMU reads what an older one writes; the other way round nobody promises anything."""
    if not guest.qemu or not target.qemu or release(target.qemu) >= release(guest.qemu):
        return None
    return Trouble("QemuOlder", f"has QEMU {target.qemu}, which is older than the guest's QEMU {guest.qemu}")


def _cpu(guest: Running, source: Kind | None, target: Kind) -> Trouble | None:
    has = target.cpu(guest.accelerator)
    had = source.cpu(guest.accelerator) if source is not None else None
    if guest.cpu is None or has is None:
        return None
    if had is not None and had.vendor != has.vendor:
        return Trouble("CpuVendorDiffers", f"has a CPU of {has.vendor}, and the guest runs on one of {had.vendor}")
    if guest.cpu.mode is CpuMode.CUSTOM:
        return _custom(guest.cpu, has)
    return _same(guest.cpu.mode, had, has)


def _custom(cpu: CpuOrder, has: Cpu) -> Trouble | None:
    if cpu.mode is not CpuMode.CUSTOM:
        return None
    if missing := {*cpu.require} - has.features:
        return Trouble("CpuFeatureMissing", f"lacks {names(missing)}")
    if cpu.model not in has.models:
        return Trouble("CpuModelMissing", f"cannot give CPU model {cpu.model}")
    return None


def _same(mode: CpuMode, had: Cpu | None, has: Cpu) -> Trouble | None:
    """A guest that was given all of its node's CPU finds it only where that is the same."""
    if had is None or had == has:
        return None
    other = names((had.features ^ has.features) or {had.model, has.model})
    text = f"has another CPU ({other} differ), and the guest has all of its node's ({mode})"
    return Trouble("CpuDiffers", text)


def names(features: Iterable[str]) -> str:
    """Sorted, and not more of them than one reads."""
    found = sorted(features)
    more = f" and {len(found) - MOST_NAMES} more" if len(found) > MOST_NAMES else ""
    return ", ".join(found[:MOST_NAMES]) + more


def told(troubles: Mapping[str, Trouble]) -> str:
    """Nodes and what is wrong with them, those alike together."""
    alike: dict[str, list[str]] = {}
    for node, trouble in sorted(troubles.items()):
        alike.setdefault(trouble.message, []).append(node)
    return "; ".join(f"node {names(nodes)} {message}" for message, nodes in alike.items())


def narrowed(found: Answer, world: World) -> Answer:
    """Whether it could move, with regard to what the other nodes are."""
    troubles = move_troubles(world) if found.able else {}
    if not troubles or world.berth is None:
        return found
    if {*world.cluster.nodes, *troubles} - {world.berth.node} == troubles.keys():
        text = f"No other node can take it: {told(troubles)}. Next: {_NEXT}."
        return Answer(False, "NoCompatibleNode", text)
    unlike = {node: trouble for node, trouble in troubles.items() if trouble.reason != _NO_KVM}
    if not unlike:
        return found  # that a node runs no guests at all is nothing to tell every machine
    return Answer(True, found.reason, f"{found.message} It cannot go to every node: {told(unlike)}.")
