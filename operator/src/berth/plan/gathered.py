"""What the agent gathered of one machine, and the questions that have one answer: its life, its state, is it gone.

Filled in by the agent's reconcile from the ports; read by machine.py and by the agent's reports. No clock, no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, assert_never

from berth.api.handover import DoorOrder, Forward
from berth.api.kept import SnapshotReport
from berth.api.order import Fate, GuestState, NicOrder, Order, OrderPower
from berth.domain.observed import (
    DomainState,
    Guest,
    HandoverRecord,
    HandoverState,
    KeptSnapshots,
    KeptStates,
    StartRecord,
    Survey,
    TransferStats,
)
from berth.plan import steps
from berth.plan.handover import Answer, Gate
from berth.plan.method import Method

FATE_PATIENCE: Final = 2.0
"""Seconds that the event which tells a guest's fate may come later than its absence is seen."""


class Saving(enum.Enum):
    """This agent's own work on a machine's state."""

    NONE = "none"
    BUSY = "busy"
    RESTORING = "restoring"
    REVERTING = "reverting"
    REVERTED = "reverted"  # its disks are a snapshot's, as the order that counts now wants them, and it is to boot
    FAILED = "failed"  # a moment ago, for the order that counts now


@dataclass(frozen=True, slots=True)
class Unplug:
    """Seconds since the guest was asked to let go of a NIC: for the first and for the last time."""

    since: float = 0.0
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a plan rests on. The defaults are those of a machine nothing is known of."""

    uid: str
    order: Order | None = None
    """The newest order that came in; None while the controller is silent."""
    hypervisor: bool = True
    """Whether libvirt answered: without an answer nothing is known of the domain."""
    guest: Guest | None = None
    record: StartRecord | None = None
    folder: bool = False
    """Whether the machine has a folder on this node."""
    present: frozenset[str] = frozenset()
    """The pods whose berth process runs here (of those that order, guest and record name)."""
    lost: frozenset[str] = frozenset()
    """The pods whose berth process was here once (a guest or record of it proves that) and positively is not now."""
    linked: bool = False
    """Whether the control connection to the berth is open."""
    network: tuple[NicOrder, ...] | None = None
    """The NICs that this agent has set the network up for and serves; None while it has not."""
    network_lost: bool = False
    """The berth's network namespace is positively another one than the guest was wired to."""
    unplugs: Mapping[str, Unplug] = field(default_factory=dict)
    """The NICs that the guest was asked to let go of, by name."""
    shutdown_asked: bool = False
    """The berth said that its pod is to end."""
    stop_age: float | None = None
    """Seconds since this agent first heard that."""
    button_age: float | None = None
    """Seconds since the power button was pressed last."""
    presses: int = 0
    """How often it was pressed."""
    resume_age: float | None = None
    """Seconds since the guest was last resumed."""
    fate: Fate | None = None
    """How the guest of this record ended, from libvirt's event."""
    ended_age: float = FATE_PATIENCE
    """Seconds since this agent first missed the domain."""
    exit_told: bool = False
    """The berth was told to exit."""
    kvm_usable: bool = False
    kvm_reason: str = ""
    doors: tuple[DoorOrder, ...] = ()
    """The doors that the network is set up for."""
    handover: HandoverRecord | None = None
    """What this node has written down of a migration."""
    gate: Gate = Gate.NONE
    """This agent's own transfer of the guest to another node."""
    held_age: float | None = None
    """Seconds since all memory was there and the guest stands still for the other node's agent."""
    overdue: bool = False
    """The ordered migration's deadline is over."""
    transfer: TransferStats = field(default_factory=TransferStats)
    survey: Survey | None = None
    """What was found out before it is sent away, for whichever migration."""
    surveying: bool = False
    """That is being found out now."""
    method: Method | None = None
    """How this agent sends it."""
    listening: bool = False
    """Disks and taps are ready for a guest that comes from another node."""
    answer: Answer = Answer.NONE
    """What the source said when it was asked to let go."""
    source_silent: bool = False
    """It was asked, and said nothing."""
    forward: Forward | None = None
    """Where the berth leads to, as a door."""
    saving: Saving = Saving.NONE
    save_begun: bool = False
    """The mark that a save of this machine was begun here, and neither given up nor carried to the end."""
    kept: KeptStates | None = None
    """What is in its volume; None: there was no reason to look, or it cannot be read."""
    kept_error: str = ""
    restore_failure: tuple[str, str] | None = None
    """Reason and message of a restore, or a revert, that failed a moment ago."""
    put_back: int | None = None
    """How many per cent of the disks are put back."""
    taking: SnapshotReport | None = None
    """This agent's own work on a snapshot; FAILED for as long as the order names it."""
    taking_ends: bool = False
    """It was given up, and is about to end."""
    snapshot_begun: bool = False
    """The mark that a snapshot was begun here, and neither given up nor carried to the end."""
    snapshots: KeptSnapshots | None = None
    """What is in its volume; None: there was no reason to look, or it cannot be read."""
    snapshots_error: str = ""
    forgets: bool = True
    """Snapshots may be removed now: that has not failed a moment ago."""
    clock_due: bool = False
    """It was restored, its agent answers, and its clock is still that of the moment in which it was saved."""

    @property
    def served(self) -> bool:
        """Whether this agent has set up this machine's network and answers its DHCP."""
        return self.network is not None


class Life(enum.Enum):
    """Where in its life the machine is: see the table above."""

    ABSENT = "absent"
    LOADED = "loaded"
    RUNNING = "running"
    PAUSED = "paused"
    ENDING = "ending"
    ENDED = "ended"
    MOVED = "moved"


def life(g: Gathered) -> Life:
    """Which row of the table applies."""
    if g.guest is None:
        if g.record is None:
            return Life.ABSENT
        return Life.MOVED if moved(g) else Life.ENDED
    match g.guest.state:
        case DomainState.RUNNING:
            return Life.RUNNING
        case DomainState.PAUSED:
            return Life.PAUSED if marked(g, g.guest) else Life.LOADED
        case DomainState.SHUTTING_DOWN | DomainState.CRASHED | DomainState.SHUTOFF:
            return Life.LOADED if never_ran(g, g.guest) else Life.ENDING  # one that never ran has nothing to end
        case _ as never:
            assert_never(never)


def refusal(order: Order, guest: Guest | None, record: StartRecord | None) -> steps.RefuseOrder | None:
    """Why this order does not count, from what this node has carried out; also the answer to a PUT of it."""
    for epoch, pod in _carried_out(guest, record):
        if order.epoch < epoch:
            return steps.RefuseOrder("StaleEpoch", f"order of epoch {order.epoch}: epoch {epoch} was carried out here")
        if order.epoch == epoch and order.berth.pod_uid != pod:
            text = f"order of epoch {epoch} names berth {order.berth.pod_uid}: it was started in berth {pod}"
            return steps.RefuseOrder("BerthMismatch", text)
    return None


def gone(g: Gathered) -> bool:
    """Whether nothing of the machine is left here and nothing will come: the agent may forget it and say so."""
    if not g.hypervisor or g.guest is not None or g.record is not None or g.folder:
        return False
    return g.order is None or g.order.berth.pod_uid in g.lost


def state(g: Gathered) -> GuestState:
    """The word for the report, as far as what was gathered tells (a failed step makes it FAILED, the agent knows)."""
    if not g.hypervisor:
        return GuestState.WAITING
    match life(g):
        case Life.ABSENT:
            ready = g.order is not None and g.order.berth.pod_uid in g.present
            return GuestState.PREPARING if ready else GuestState.WAITING
        case Life.LOADED:
            held = g.guest is not None and wanted(g, g.guest).power is OrderPower.PAUSED and g.served
            held = held and g.guest is not None and g.guest.order.incoming is None  # a copy is no guest yet
            return GuestState.PAUSED if held else GuestState.STARTING
        case Life.RUNNING:
            return GuestState.STOPPING if g.shutdown_asked else GuestState.RUNNING
        case Life.PAUSED:
            return GuestState.STOPPING if g.shutdown_asked else GuestState.PAUSED
        case Life.ENDING:
            return GuestState.STOPPING
        case Life.ENDED:
            return GuestState.ENDED
        case Life.MOVED:
            return GuestState.MOVED
        case _ as never:
            assert_never(never)


def accepted(g: Gathered) -> Order | None:
    """The newest order, unless it is refused."""
    return None if g.order is None or refusal(g.order, g.guest, g.record) else g.order


def wanted(g: Gathered, guest: Guest) -> Order:
    """The order this guest is to follow: the newest for its start, else the one recorded with it."""
    order = accepted(g)
    return order if order is not None and order.epoch == guest.order.epoch else guest.order


def pod(g: Gathered) -> str | None:
    """The berth that is, was or will be around the guest."""
    if g.guest is not None:
        return g.guest.order.berth.pod_uid
    if g.record is not None:
        return g.record.pod_uid
    return g.order.berth.pod_uid if g.order is not None else None


def moved(g: Gathered) -> bool:
    """Whether there is no QEMU any more, or only a frozen one, because the guest was handed over."""
    gone = (HandoverState.LETTING_GO, HandoverState.HANDED_OVER)
    return g.guest is None and g.handover is not None and g.handover.state in gone


def marked(g: Gathered, guest: Guest) -> bool:
    """Whether this guest was about to run, or has run."""
    return g.record is not None and g.record.epoch == guest.order.epoch


def never_ran(g: Gathered, guest: Guest) -> bool:
    """Whether its CPUs have had no chance: libvirt does not run them, and this node never wrote down that it would."""
    return guest.state is not DomainState.RUNNING and not marked(g, guest)


def _carried_out(guest: Guest | None, record: StartRecord | None) -> Iterator[tuple[int, str]]:
    if guest is not None:
        yield guest.order.epoch, guest.order.berth.pod_uid
    if record is not None:
        yield record.epoch, record.pod_uid
