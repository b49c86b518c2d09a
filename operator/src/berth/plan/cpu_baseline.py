"""The CPU that every node can give, so that a machine may go from any of them to any other and back: nodes' CPUs in,
one CPU for each vendor out. Called by hardware.py. Pure.

CPUs of two vendors have no baseline: KVM does not hide from a guest whose CPU it is on. A node that lacks what the
floor asks for is left out, and named with what it lacks: it would take that from the guests of all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from berth.api.hardware import CpuOrder
from berth.domain.host import PLAIN_MODEL
from berth.plan.hosts import Cpu

_V2: Final = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4.1", "sse4.2", "ssse3"})
_V3: Final = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4: Final = _V3 | {"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"}
FLOORS: Final = {"x86-64-v1": frozenset[str](), "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}
"""The levels of the x86-64 ABI, by libvirt's names of features."""
FLOOR: Final = "x86-64-v2"
"""What today's distributions are built for."""
_SVM: Final = frozenset(
    {
        *("avic", "decodeassists", "flushbyasid", "lbrv", "npt", "nrip-save", "pause-filter", "pfthreshold"),
        *("svm", "svm-lock", "svme-addr-chk", "tsc-scale", "v-vmsave-vmload", "vgif", "vmcb-clean", "vnmi"),
    }
)
"""For guests that are hosts themselves. Models may bring them along: they are taken away by name."""
NESTING: Final = frozenset({"svm", "vmx"})
"""Who asks for one of these gets all that belongs to it."""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes between which machines go freely, and the CPU that they have in common."""

    vendor: str
    nodes: tuple[str, ...]
    cpu: CpuOrder
    nested: tuple[str, ...] = ()  # features that all have and that are not part of it


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A node that excludes itself."""

    node: str
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    groups: tuple[Group, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def baseline(cpus: Iterable[tuple[str, Cpu]], floor: str = FLOOR) -> Baseline:
    """``cpus``: by node."""
    wanted, vendors = FLOORS[floor], dict[str, list[tuple[str, Cpu]]]()
    left_out: list[LeftOut] = []
    for node, cpu in sorted(cpus, key=lambda each: each[0]):
        if missing := wanted - cpu.features:
            left_out.append(LeftOut(node, tuple(sorted(missing))))
        else:
            vendors.setdefault(cpu.vendor, []).append((node, cpu))
    return Baseline(tuple(_group(vendor, members) for vendor, members in sorted(vendors.items())), tuple(left_out))


def _group(vendor: str, members: list[tuple[str, Cpu]]) -> Group:
    cpus = list(dict.fromkeys(cpu for _, cpu in members))
    features = frozenset.intersection(*(cpu.features for cpu in cpus))
    nested = tuple(sorted(name for name in features if _nested(name)))
    off = tuple(name for name in nested if not name.startswith("vmx-"))  # those fall with vmx itself
    order = CpuOrder(model=_model(cpus), require=tuple(sorted(features - {*nested})), disable=off)
    return Group(vendor, tuple(node for node, _ in members), order, nested)


def _model(cpus: list[Cpu]) -> str:
    """The one with the most features that runs on all: the features beside it are asked for one by one anyway."""
    everywhere = set.intersection(*(set(cpu.models) for cpu in cpus))
    return next((model for model in reversed(cpus[0].models) if model in everywhere), PLAIN_MODEL)


def _nested(feature: str) -> bool:
    return feature in _SVM or feature == "vmx" or feature.startswith("vmx-")
