"""A node's facts → what matters of them for where a machine may run: its QEMU, and the CPU that it gives to guests.

Nodes that are alike have equal Kinds, so that a rule is tried once for all of them. Read by cpu_baseline.py,
hardware.py and compatible.py. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from berth.api.order import Emulation, NodeFacts
from berth.domain.host import choose_accelerator

_NUMBERS: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Cpu:
    """What guests can be given under one accelerator."""

    vendor: str = ""
    model: str = ""
    features: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()  # those with the fewest features first


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of node. Without ``machine_types`` nothing is known of its QEMU yet."""

    qemu: str = ""
    machine_types: frozenset[str] = frozenset()
    kvm_usable: bool = False
    kvm: Cpu | None = None
    tcg: Cpu | None = None

    @property
    def known(self) -> bool:
        return bool(self.machine_types)

    def accelerator(self, emulation: Emulation) -> str:
        """Under which a machine would run here; empty when it may not."""
        found = choose_accelerator(emulation, kvm_usable=self.kvm_usable)
        return found.value if found is not None else ""

    def cpu(self, accelerator: str) -> Cpu | None:
        return self.kvm if accelerator == "kvm" else self.tcg


@dataclass(frozen=True, slots=True)
class Host:
    node: str
    kind: Kind


def read(facts: NodeFacts) -> Host:
    cpus = {
        each.accelerator: Cpu(each.vendor, each.model, frozenset(each.features), each.models)
        for each in facts.host_cpus
    }
    types = frozenset(facts.machine_types)
    kind = Kind(facts.qemu_version, types, facts.kvm_usable, cpus.get("kvm"), cpus.get("tcg"))
    return Host(facts.node, _shared(kind))


@lru_cache(maxsize=1024)
def _shared(kind: Kind) -> Kind:
    """The first one that is equal: a thousand nodes that are alike are then told apart by their identity."""
    return kind


def version(text: str) -> tuple[int, ...]:
    """The numbers in it: 10.0.3 comes after 9.2."""
    return tuple(int(number) for number in _NUMBERS.findall(text))


def release(qemu: str) -> tuple[int, ...]:
    """What decides whether a guest may go from one to the other: not the last number, which counts repairs."""
    return version(qemu)[:2]


def machine_version(machine_type: str) -> tuple[int, ...]:
    return version(machine_type.rpartition("-")[2])


def newest_common(hosts: Iterable[Host]) -> str:
    """The newest machine type that every one of them knows; empty when there is none, or nothing is known."""
    known = [host.kind.machine_types for host in hosts if host.kind.known]
    common = frozenset.intersection(*known) if known else frozenset()
    return max(common, key=machine_version, default="")
