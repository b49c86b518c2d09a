"""What moving a guest asks of the world, beside ports.py: values, and the Protocol for QEMU's process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from berth.domain.observed import Pace, QemuProcess
from berth.domain.observed import TransferStats as TransferStats
from berth.plan.method import Method


@dataclass(frozen=True, slots=True)
class Way:
    """How a guest gets to the other node: unix sockets here, behind which the other node's agent is."""

    libvirt_socket: str
    memory_socket: str
    xml: str  # of the copy
    method: Method
    bytes_per_second: int | None = None
    shares: bool = False  # it has files on claims, which the other node has seen there, too
    disks: tuple[str, ...] = ()  # libvirt's names of those that are copied, through ``disks_socket``
    disks_socket: str = ""


class Qemus(Protocol):
    """QEMU's processes, without libvirt."""

    def find(self, vm_uid: str, domain_name: str) -> QemuProcess | None: ...

    def alive(self, process: QemuProcess) -> bool: ...

    def freeze(self, process: QemuProcess) -> None: ...

    def thaw(self, process: QemuProcess) -> None: ...

    def kill(self, process: QemuProcess) -> None: ...

    def pace(self, process: QemuProcess, memory_bytes: int, cpus: int, seconds: float) -> Pace | None:
        """Watch the guest for so long: how fast it changes its memory. None when nobody can say."""
        ...
