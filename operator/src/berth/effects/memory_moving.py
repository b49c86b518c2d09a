"""Guests that move, in memory: their QEMU's processes, and a libvirt that sends them. Used by memory.py and tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from berth.domain.observed import HandoverRecord, Pace, QemuProcess
from berth.effects.ports_moving import TransferStats, Way
from berth.errors import HostFault


@dataclass(slots=True)
class Moving:
    """Of one node. ``gone`` and ``frozen`` are pids, as the keys of ``paces``; ``sending`` is by machine."""

    records: dict[str, HandoverRecord] = field(default_factory=dict)
    processes: dict[str, QemuProcess] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    frozen: set[int] = field(default_factory=set)
    sending: dict[str, TransferStats] = field(default_factory=dict)
    disks: dict[str, int] = field(default_factory=dict)  # by libvirt's name of it, of every machine
    paces: dict[int, Pace] = field(default_factory=dict)


class MemoryQemus:
    def __init__(self, moving: Moving) -> None:
        self.moving = moving

    def find(self, vm_uid: str, domain_name: str) -> QemuProcess | None:
        found = self.moving.processes.get(vm_uid)
        return found if found is not None and self.alive(found) else None

    def alive(self, process: QemuProcess) -> bool:
        return process.pid not in self.moving.gone

    def freeze(self, process: QemuProcess) -> None:
        self.moving.frozen.add(process.pid)

    def thaw(self, process: QemuProcess) -> None:
        self.moving.frozen.discard(process.pid)

    def kill(self, process: QemuProcess) -> None:
        self.moving.gone.add(process.pid)

    def pace(self, process: QemuProcess, memory_bytes: int, cpus: int, seconds: float) -> Pace | None:
        return self.moving.paces.get(process.pid) if self.alive(process) else None


class Records:
    """The part of the Berths protocol that is about moving."""

    def __init__(self, moving: Moving, did: Callable[[str, str], None]) -> None:
        self._moving, self._did = moving, did

    def record_handover(self, vm_uid: str, record: HandoverRecord) -> None:
        self._did("record_handover", f"{vm_uid} {record.state.value}")
        self._moving.records[vm_uid] = record

    def handover_record(self, vm_uid: str) -> HandoverRecord | None:
        return self._moving.records.get(vm_uid)


class Sender:
    """The part of the Hypervisor protocol that is about moving. There is no other node: nothing arrives anywhere."""

    def __init__(self, moving: Moving, did: Callable[[str, str], None], has: Callable[[str], bool]) -> None:
        self._moving, self._did, self._has = moving, did, has

    def migrate(self, uid: str, way: Way) -> None:
        if not self._has(uid):
            raise HostFault(f"domain {uid} is not there", reason="DomainGone")
        self._did("migrate", uid)
        raise HostFault("there is no other node in memory: it stayed here", reason="HypervisorError")

    def disk_bytes(self, uid: str, target: str) -> int:
        if not self._has(uid) or target not in self._moving.disks:
            raise HostFault(f"domain {uid} has no disk {target}", reason="HypervisorError")
        return self._moving.disks[target]

    def transfer(self, uid: str) -> TransferStats | None:
        return self._moving.sending.get(uid) if self._has(uid) else None

    def allow_pause(self, uid: str, milliseconds: int) -> None:
        if self._has(uid) and uid in self._moving.sending:
            self._did("allow_pause", f"{uid} {milliseconds}")

    def abort_migration(self, uid: str) -> None:
        self._has(uid)
        if self._moving.sending.pop(uid, None) is not None:
            self._did("abort_migration", uid)
