"""CPUs in libvirt's words, as controller and agent tell each other of them: part of Orders, Reports and NodeFacts."""

from __future__ import annotations

import enum
from typing import Literal

from berth.api.base import Lenient

AcceleratorName = Literal["kvm", "tcg"]


class CpuMode(enum.StrEnum):
    """libvirt's ``<cpu mode=…>``."""

    CUSTOM = "custom"  # a named model, with features added and taken away
    HOST_PASSTHROUGH = "host-passthrough"  # the node's own, under KVM
    MAXIMUM = "maximum"  # all that QEMU can emulate


class CpuOrder(Lenient):
    """The CPU that the guest sees. ``model`` and the features belong to ``custom`` alone."""

    mode: CpuMode = CpuMode.CUSTOM
    model: str = ""
    require: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()


class HostCpu(Lenient):
    """What a guest of this node can be given under one accelerator, as libvirt says."""

    accelerator: AcceleratorName
    vendor: str = ""
    model: str = ""  # the nearest named one
    features: tuple[str, ...] = ()  # all that may migrate
    models: tuple[str, ...] = ()  # the named ones that run here, those with the fewest features first
