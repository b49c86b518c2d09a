"""The desired domain: a machine in libvirt's terms, complete and frozen. build.py makes it, xml.py writes it."""

from __future__ import annotations

from dataclasses import dataclass

from berth.api.hardware import CpuOrder
from berth.domain.devices import Device
from berth.domain.host import Accelerator


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel that QEMU loads itself."""

    kernel: str
    initrd: str | None
    args: str


@dataclass(frozen=True, slots=True)
class Domain:
    name: str
    uuid: str
    order_json: str
    accelerator: Accelerator
    machine: str
    emulator: str
    guest_uid: int
    cpus: int
    cpu: CpuOrder | None
    """None: what the accelerator gives."""
    memory_bytes: int
    boot: DirectBoot | None
    firmware_on_serial: bool
    """BIOS and boot loader talk on the serial console: they have something to say, and there is no screen."""
    devices: tuple[Device, ...]
