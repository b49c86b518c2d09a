"""The world of a node in memory: what is on it, and what it does by itself: pods come and go, guests end, libvirtd goes
down. It outlives any agent; the ports in memory.py are views of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from berth.api.hardware import HostCpu
from berth.api.order import NicOrder, NicReport, SegmentMembers
from berth.domain.host import MACHINE, PLAIN_MODEL
from berth.domain.observed import DomainState, StartRecord
from berth.effects import memory_doors, memory_moving, memory_nics
from berth.effects.ports import Abilities, Berth, DomainEvent, DomainEventKind, KvmProbe
from berth.errors import BerthError

OnEvent = Callable[[DomainEvent], None]
OnConnection = Callable[[bool, str], None]
_FIRST_PID = 1000
_EMULATED: Final = HostCpu(accelerator="tcg", features=("cx16", "sse4.2"), models=(PLAIN_MODEL, "Nehalem"))
_ABILITIES: Final = Abilities((MACHINE,), (_EMULATED,))


@dataclass(slots=True)
class MemoryDomain:
    name: str
    xml: str
    state: DomainState = DomainState.PAUSED
    detail: str = "user"


@dataclass(slots=True)
class MemoryPod:
    berth: Berth
    terminating: bool = False
    network: int = 1
    on_shutdown: list[Callable[[], None]] = field(default_factory=list)
    on_lost: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class MemoryNode:
    """``failing``: a port's method name → the error it raises. ``log``: what was done to the world, in order."""

    domains: dict[str, MemoryDomain] = field(default_factory=dict)
    abilities: Abilities = _ABILITIES
    pods: dict[str, MemoryPod] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    folders: dict[str, StartRecord | None] = field(default_factory=dict)
    taps: set[str] = field(default_factory=set)
    attached: set[str] = field(default_factory=set)
    served: set[str] = field(default_factory=set)
    segments: dict[str, SegmentMembers] = field(default_factory=dict)
    moves: memory_doors.Moves = field(default_factory=memory_doors.Moves)
    marks: set[tuple[str, str]] = field(default_factory=set)  # folder and name: nodes may have one set in common
    moving: memory_moving.Moving = field(default_factory=memory_moving.Moving)
    failing: dict[str, BerthError] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    up: bool = True
    deaf_guests: bool = False
    clinging_guests: bool = False
    """They do not let go of what is unplugged, until they are told to with ``let_go``."""
    asked: set[tuple[str, str]] = field(default_factory=set)  # uid and alias of what was to be let go
    wired: dict[str, tuple[NicOrder, ...]] = field(default_factory=dict)  # what attach and serve were last given
    torn: list[str] = field(default_factory=list)  # NICs that lost their taps while their guests had them: a fault
    functions: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of every pod
    said: tuple[NicReport, ...] = ()  # by every guest
    kvm: KvmProbe = field(default_factory=lambda: KvmProbe(True, "in memory"))
    folder_marks: tuple[set[str], ...] = ()  # machines that have a mark in their folder, by kind of mark
    on_event: OnEvent | None = None
    on_connection: OnConnection | None = None

    def did(self, method: str, uid: str) -> None:
        """Every change of the world goes through here, and can be made to fail here."""
        if method in self.failing:
            raise self.failing[method]
        self.log.append(f"{method} {uid}")

    def start_pod(self, pod_uid: str) -> None:
        self.pods[pod_uid] = MemoryPod(Berth(pod_uid, _FIRST_PID + len(self.pods) + len(self.exits), len(self.log)))

    def terminate_pod(self, pod_uid: str) -> None:
        """kubelet sends SIGTERM."""
        self.pods[pod_uid].terminating = True
        for call in list(self.pods[pod_uid].on_shutdown):
            call()

    def kill_pod(self, pod_uid: str, code: int = 137) -> None:
        """The berth process ends; kubelet kills whatever is left in the pod's cgroup."""
        pod = self.pods.pop(pod_uid)
        self.exits[pod_uid] = code
        for uid, domain in list(self.domains.items()):
            if f'"podUid": "{pod_uid}"' in domain.xml:
                self.end(uid, "failed")
        for call in pod.on_lost:
            call()

    def end(self, uid: str, detail: str = "shutdown") -> None:
        """The guest's QEMU is gone, for the reason that libvirt calls ``detail``."""
        if self.domains.pop(uid, None) is None:
            return
        if detail == "shutdown":
            self.emit(DomainEvent(uid, DomainEventKind.SHUTDOWN, "guest"))
        if detail == "crashed":
            self.emit(DomainEvent(uid, DomainEventKind.CRASHED, "panicked"))
        self.emit(DomainEvent(uid, DomainEventKind.STOPPED, detail))

    def change_network(self, pod_uid: str) -> None:
        """Somebody made the pod's network namespace anew, and its berth lives in that."""
        self.pods[pod_uid].network += 1

    def let_go(self) -> None:
        """The guests do what they were asked to."""
        for uid, alias in sorted(self.asked):
            if (domain := self.domains.get(uid)) is not None:
                domain.xml = memory_nics.unplugged(domain.xml, alias)
                self.emit(DomainEvent(uid, DomainEventKind.DEVICE, alias))
        self.asked.clear()

    def set_up(self, up: bool) -> None:
        """libvirtd comes or goes; guests do not notice."""
        self.up = up
        if self.on_connection is not None:
            self.on_connection(up, "" if up else "libvirtd was stopped")

    def emit(self, event: DomainEvent) -> None:
        if self.up and self.on_event is not None:
            self.on_event(event)
