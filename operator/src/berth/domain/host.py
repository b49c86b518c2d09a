"""What a domain needs to know of the host it is built for. Gathered by the agent, read by build.py; touches nothing."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from berth.api.order import Emulation

EMULATOR: Final = "/usr/local/bin/berth-qemu"
MACHINE: Final = "pc-q35-10.0"
"""Where no controller says which: a machine keeps its virtual hardware when the node's QEMU gets newer."""
PLAIN_MODEL: Final = "qemu64"
"""The CPU that is emulated when nobody asks for another one."""


class Accelerator(enum.Enum):
    """What runs the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class Host:
    """The host's side of one domain: ``guest_uid`` is the uid and gid that this machine's QEMU runs under."""

    accelerator: Accelerator
    guest_uid: int
    machine: str = MACHINE
    emulator: str = EMULATOR
    vhost: bool = False
    """Whether the host's kernel can move packets between tap and guest."""
    functions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Device plugin resource → addresses of the PCI functions that the pod was given of it."""


def choose_accelerator(emulation: Emulation, *, kvm_usable: bool) -> Accelerator | None:
    """KVM or emulation, as ordered and as the host can; None when the order cannot be carried out here."""
    if emulation is Emulation.ALWAYS:
        return Accelerator.TCG
    if kvm_usable:
        return Accelerator.KVM
    return Accelerator.TCG if emulation is Emulation.AUTO else None
