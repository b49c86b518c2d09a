"""What the agent remembers of each machine beside what it can gather anew; orders come in here. Used by reconcile.py.

All of it may be lost at any moment: an agent that starts with nothing comes to the same plans. Nothing here acts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from berth.agent.questions import Released
from berth.api.handover import DoorOrder, Forward
from berth.api.order import Fate, NicOrder, NicReport, Order, Report
from berth.api.virtualmachine import GuestInfo
from berth.domain.copied import Copied
from berth.domain.files import DiskFile, MediaFiles
from berth.domain.observed import Guest, KeptSnapshots, StartRecord, Survey, TransferStats
from berth.effects.ports import Berth, BerthLink
from berth.errors import HostFault, Refused, StaleEpoch
from berth.plan import gathered
from berth.plan.handover import Answer
from berth.plan.report import Failure


@dataclass(slots=True, eq=False)
class Place:
    """One berth of a machine, as far as this agent dealt with it."""

    pod_uid: str
    berth: Berth | None = None  # the process, when it was last looked for
    seen: bool = False  # this agent has seen the process alive
    missed_at: float | None = None  # since when it is not found
    link: BerthLink | None = None
    linking: asyncio.Task[None] | None = None
    shutdown_asked: bool = False
    asked_at: float | None = None  # when this agent first heard of it
    exit_told_at: float | None = None
    network: tuple[NicOrder, ...] | None = None  # the NICs it is set up for and served
    files: MediaFiles | None = None
    taps: dict[str, str] = field(default_factory=dict)
    doors: tuple[DoorOrder, ...] = ()  # that the network is set up for
    forward: Forward | None = None  # where it leads, as a door

    def close(self) -> None:
        if self.linking is not None:
            self.linking.cancel()
        if self.link is not None:
            self.link.close()
        self.linking = self.link = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """All is ready for a guest that comes from another node."""

    migration: str
    source: str  # the node
    xml: str
    guest_uid: int
    order: Order
    berth: Berth
    disks: tuple[tuple[Copied, DiskFile], ...] = ()  # into which the guest's are copied


@dataclass(slots=True, eq=False)
class Ended:
    """What libvirt's events told of the end of the present start."""

    stopped: str | None = None
    by_host: bool = False
    panicked: bool = False
    missed_at: float | None = None  # when the domain was first missed
    fate: Fate | None = None


@dataclass(slots=True, eq=False)
class Unplugging:
    """When the guest was asked to let go of a NIC: for the first and for the last time."""

    first: float
    last: float


@dataclass(slots=True, eq=False)
class Machine:
    uid: str
    order: Order | None = None
    ordered_at: float = 0.0
    guest_uid: int | None = None
    guest: Guest | None = None  # as last gathered
    record: StartRecord | None = None  # as last gathered
    places: dict[str, Place] = field(default_factory=dict)
    ended: Ended = field(default_factory=Ended)
    cut_off: str = ""  # why Berth destroyed the guest
    pressed_at: float | None = None
    presses: int = 0
    unplugs: dict[str, Unplugging] = field(default_factory=dict)  # by NIC
    resumed_at: float | None = None
    failure: Failure | None = None
    failures: int = 0  # in a row
    retry_at: float = 0.0
    info: GuestInfo | None = None
    nics: tuple[NicReport, ...] = ()  # as the guest tells
    agent_channel: bool | None = None  # None: not known since this agent started
    told: bool = False  # a listener was sent the fate
    arrival: Arrival | None = None
    answer: Answer = Answer.NONE
    source_silent: bool = False
    released: Released | None = None  # the source's yes
    released_at: float = 0.0
    pause_ms: int | None = None  # of the migration that brought it here
    stopped_at: float | None = None  # when a migration stopped it here
    transfer: TransferStats = field(default_factory=TransferStats)
    transfer_at: float = 0.0  # when that was told
    survey: Survey | None = None
    surveying: bool = False
    connections: int | None = None
    snapshots: KeptSnapshots | None = None  # what its volume was seen to hold
    forget_failed_at: float | None = None
    saved: bool = False  # this agent ended it because its state is whole
    clock_tried_at: float | None = None
    left_at: float | None = None  # since when nothing of it is here
    phases: dict[str, float] = field(default_factory=dict)  # seconds per phase of the start under way

    def place(self, pod_uid: str) -> Place:
        return self.places.setdefault(pod_uid, Place(pod_uid))

    def pods(self) -> list[str]:
        """The pods that order, guest and record name."""
        named = (
            self.guest.order.berth.pod_uid if self.guest is not None else None,
            self.record.pod_uid if self.record is not None else None,
            self.order.berth.pod_uid if self.order is not None else None,
        )
        return list(dict.fromkeys(pod for pod in named if pod is not None))

    def new_start(self) -> None:
        """What was known of the last guest's end does not count for the one that is being made."""
        self.ended = Ended()
        self.pressed_at = self.resumed_at = self.left_at = None
        self.info, self.nics, self.agent_channel, self.told = None, (), None, False
        self.cut_off, self.presses, self.unplugs = "", 0, {}
        self.saved, self.clock_tried_at, self.snapshots = False, None, None
        self.answer, self.source_silent, self.released, self.pause_ms = Answer.NONE, False, None, None


class Machines:
    """All machines this agent knows of, by uid, and the rules by which orders are taken."""

    def __init__(
        self,
        node: str,
        uids: range,
        ring: Callable[[str], None],
        now: Callable[[], float],
        first: Callable[[str], Report],
    ) -> None:
        self._node = node
        self._uids = uids
        self._ring = ring
        self._now = now
        self._known: dict[str, Machine] = {}
        self._report_of = first

    def get(self, uid: str) -> Machine | None:
        return self._known.get(uid)

    def add(self, uid: str) -> Machine:
        return self._known.setdefault(uid, Machine(uid))

    def drop(self, uid: str) -> None:
        self._known.pop(uid, None)

    def all(self) -> Iterable[Machine]:
        return list(self._known.values())

    def accept(self, order: Order) -> Report:
        """Keep the order and ring; the same order again changes nothing."""
        if order.berth.node != self._node:
            raise Refused(f"the order is for node {order.berth.node!r}, this is {self._node!r}", reason="WrongNode")
        machine = self._known.get(order.uid)
        if machine is not None:
            _check_epoch(machine, order)
        machine = self.add(order.uid)
        if machine.order != order:
            if machine.order is None or machine.order.berth != order.berth:
                machine.ordered_at = self._now()
                machine.phases = {}
            machine.order = order
            machine.failure, machine.failures, machine.retry_at = None, 0, 0.0
            self._ring(order.uid)
        return self._report_of(order.uid)

    def withdraw(self, uid: str) -> None:
        machine = self._known.get(uid)
        if machine is None:
            return
        if machine.guest is not None or machine.record is not None or any(p.berth for p in machine.places.values()):
            raise Refused(
                "a guest or a berth of this machine is on this node: delete its pod first", reason="StillHere"
            )
        machine.order = None
        self._ring(uid)

    def guest_uid(self, machine: Machine) -> int:
        """The uid and gid of this machine's QEMU: mostly the same after a restart of the agent, never another's."""
        if machine.guest_uid is None:
            taken = {m.guest_uid for m in self._known.values()}
            digest = hashlib.sha256(machine.uid.encode()).digest()
            first = int.from_bytes(digest[:8], "big") % len(self._uids)
            free = (self._uids[(first + i) % len(self._uids)] for i in range(len(self._uids)))
            machine.guest_uid = next((uid for uid in free if uid not in taken), None)
        if machine.guest_uid is None:
            raise HostFault(
                f"all {len(self._uids)} uids from {self._uids.start} on are in use; raise BERTH_UID_COUNT",
                reason="NoFreeUid",
            )
        return machine.guest_uid


def _check_epoch(machine: Machine, order: Order) -> None:
    known = machine.order
    if known is not None and order.epoch < known.epoch:
        raise StaleEpoch(f"order of epoch {order.epoch}: one of epoch {known.epoch} came before")
    if known is not None and order.epoch == known.epoch and order.generation < known.generation:
        text = f"order of generation {order.generation}: one of generation {known.generation} came before"
        raise StaleEpoch(text, reason="StaleGeneration")
    refusal = gathered.refusal(order, machine.guest, machine.record)
    if refusal is not None:
        raise (StaleEpoch if refusal.code == "StaleEpoch" else Refused)(refusal.reason, reason=refusal.code)
