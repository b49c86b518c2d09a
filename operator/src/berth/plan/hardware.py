"""What a start is resolved to beside its spec: the machine type and the CPU, written on the berth and kept over moves.

``resolve`` is called when a berth is planned, from what is known of the nodes then; which node it will be is not. So
there is a CPU for each vendor, and ``pick`` takes the node's. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

from pydantic import ValidationError

from berth.api.base import Lenient
from berth.api.cpu import BASELINE, HOST, Cpu
from berth.api.hardware import AcceleratorName, CpuMode, CpuOrder
from berth.api.order import Emulation
from berth.api.virtualmachine import VirtualMachineSpec
from berth.domain.host import MACHINE, PLAIN_MODEL
from berth.plan import hosts as nodes
from berth.plan.cpu_baseline import NESTING, Baseline, baseline
from berth.plan.hosts import Host, Kind
from berth.plan.world import Cluster

_HOST_MODES: Final[dict[AcceleratorName, CpuMode]] = {"kvm": CpuMode.HOST_PASSTHROUGH, "tcg": CpuMode.MAXIMUM}


class Choice(Lenient):
    """A CPU, and for which nodes it is meant; empty: for all."""

    accelerator: AcceleratorName | None = None
    vendor: str = ""
    cpu: CpuOrder


class Hardware(Lenient):
    machine_type: str = ""
    cpus: tuple[Choice, ...] = ()


def resolve(spec: VirtualMachineSpec, cluster: Cluster, kept: str | None = None) -> Hardware | None:
    """None when no node is known and nothing was asked for. ``kept`` is the machine type of earlier starts."""
    able = [host for host in cluster.hosts if host.kind.accelerator(cluster.emulation)]
    machine_type = spec.machine_type or _machine_type(able, kept)
    cpus = tuple(_choices(spec.cpu, able, cluster))
    return Hardware(machine_type=machine_type, cpus=cpus) if machine_type or cpus else None


def _machine_type(able: Sequence[Host], kept: str | None) -> str:
    """A machine keeps its own as long as any node knows it; a new one gets the newest that all know."""
    known = [host for host in able if host.kind.known]
    if kept and any(kept in host.kind.machine_types for host in known):
        return kept
    return nodes.newest_common(known) or (MACHINE if known else "")


def _choices(asked: Cpu, able: Sequence[Host], cluster: Cluster) -> Iterator[Choice]:
    extra = {"require": tuple(asked.require_features), "disable": tuple(asked.disable_features)}
    if asked.model == HOST:
        yield from (Choice(accelerator=name, cpu=CpuOrder(mode=mode)) for name, mode in _HOST_MODES.items())
    elif asked.model != BASELINE:
        yield Choice(cpu=CpuOrder(model=asked.model, **extra))
    else:
        yield from _baseline(asked, cluster)
        emulated = any(host.kind.accelerator(cluster.emulation) == "tcg" for host in able)
        if emulated or any(extra.values()):
            yield Choice(accelerator="tcg", cpu=CpuOrder(model=PLAIN_MODEL, **extra))


def nodes_baseline(cluster: Cluster) -> Baseline:
    """Of all nodes that run guests with KVM."""
    with_kvm = [host for host in cluster.hosts if host.kind.accelerator(cluster.emulation) == "kvm"]
    known = [(host.node, host.kind.kvm) for host in with_kvm if host.kind.kvm is not None]
    return baseline(known, cluster.cpu_floor)


def _baseline(asked: Cpu, cluster: Cluster) -> Iterator[Choice]:
    for group in nodes_baseline(cluster).groups:
        wanted, unwanted = {*asked.require_features}, {*asked.disable_features}
        wanted |= {*group.nested} if wanted & NESTING else set()
        require = tuple(sorted({*group.cpu.require, *wanted} - unwanted))
        disable = tuple(sorted({*group.cpu.disable} - wanted | unwanted))
        cpu = CpuOrder(model=group.cpu.model, require=require, disable=disable)
        yield Choice(accelerator="kvm", vendor=group.vendor, cpu=cpu)


def pick(hardware: Hardware | None, kind: Kind | None, emulation: Emulation) -> CpuOrder | None:
    """The CPU for a node. One of which nothing is known yet gets the first: libvirt refuses what is not there."""
    if hardware is None:
        return None
    accelerator = kind.accelerator(emulation) if kind is not None else ""
    found = [each for each in hardware.cpus if not accelerator or each.accelerator in (None, accelerator)]
    cpu = kind.cpu(accelerator) if kind is not None else None
    if cpu is not None:
        found = [each for each in found if each.vendor in ("", cpu.vendor)]
    return found[0].cpu if found else None


def to_text(hardware: Hardware) -> str:
    content = hardware.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(content, separators=(",", ":"), sort_keys=True)


@lru_cache(maxsize=256)
def from_text(text: str) -> Hardware | None:
    """None when there is none, or somebody spoiled it. Machines that were started alike have the same text."""
    try:
        return Hardware.model_validate_json(text) if text else None
    except ValidationError:
        return None
