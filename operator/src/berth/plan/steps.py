"""Everything an agent can do for one machine, as values: a closed union, each step with the reason it is taken for.

Made by machine.py; carried out, in order, by the agent, which stops at the first that fails and plans anew.
Each step may be carried out twice: interrupted work is planned again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from berth.api.order import NicOrder, Order
from berth.plan.method import Method
from berth.plan.steps_kept import AbortSave as AbortSave
from berth.plan.steps_kept import AbortSnapshot as AbortSnapshot
from berth.plan.steps_kept import BeginRestore as BeginRestore
from berth.plan.steps_kept import BeginRevert as BeginRevert
from berth.plan.steps_kept import BeginSave as BeginSave
from berth.plan.steps_kept import BeginSnapshot as BeginSnapshot
from berth.plan.steps_kept import ForgetSnapshots as ForgetSnapshots
from berth.plan.steps_kept import KeptStep as KeptStep
from berth.plan.steps_kept import ScrapSnapshot as ScrapSnapshot
from berth.plan.steps_kept import ScrapState as ScrapState
from berth.plan.steps_kept import SetClock as SetClock
from berth.plan.steps_kept import UseRevert as UseRevert
from berth.plan.steps_kept import UseState as UseState


@dataclass(frozen=True, slots=True)
class RefuseOrder:
    """The order does not count: it is older than what was carried out, or names another berth for the same start."""

    code: str  # StaleEpoch | BerthMismatch
    reason: str


@dataclass(frozen=True, slots=True)
class CannotRun:
    """The order cannot be carried out on this host as it is; asking again changes nothing until the host changes."""

    code: str  # KvmNotUsable
    reason: str


@dataclass(frozen=True, slots=True)
class LinkBerth:
    """Connect to the berth's control socket, beside the other steps: none of them waits for it."""

    pod_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class PrepareCgroup:
    """Berths.prepare_cgroup: tell the emulator wrapper where QEMU belongs."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class CreateTaps:
    """Network.create_taps: CreatePaused uses what it returns."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class PrepareMedia:
    """Media.prepare: CreatePaused uses what it returns."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class CreatePaused:
    """Hypervisor.create_paused with the XML that domain.build makes of order, media, taps and host."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class AttachNetwork:
    """Network.attach: before the guest runs for the first time; ``silent`` while it runs elsewhere."""

    order: Order
    reason: str
    silent: bool = False


@dataclass(frozen=True, slots=True)
class ServeNetwork:
    """Network.serve: for a guest that runs already."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class PlugNic:
    """Network.create_taps, then Hypervisor.plug_nic: with its cable out until its network is there."""

    order: Order
    nic: NicOrder
    slot: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnplugNic:
    """Hypervisor.unplug_nic: the guest is asked to let go of it."""

    nic: str
    alias: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetLink:
    """Hypervisor.set_link."""

    nic: str
    alias: str
    up: bool
    reason: str


@dataclass(frozen=True, slots=True)
class MarkStarted:
    """Berths.record_start: from here on a missing domain means that the guest ended."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class Resume:
    reason: str


@dataclass(frozen=True, slots=True)
class Suspend:
    reason: str


@dataclass(frozen=True, slots=True)
class RecordOrder:
    """Hypervisor.set_metadata with the order, redacted: it was carried out."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class PressPowerButton:
    reason: str


@dataclass(frozen=True, slots=True)
class Destroy:
    """Hypervisor.destroy: there is positive evidence that this guest has no right to run any more."""

    code: str  # BerthGone | NetworkLost | NeverStarted | Crashed | GraceOver | Saved
    reason: str


@dataclass(frozen=True, slots=True)
class ExitBerth:
    """BerthLink.exit: the guest ended, so its berth does; ``note`` is its last line on the console."""

    pod_uid: str
    exit_code: int
    note: str
    reason: str


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Network.detach, then Berths.forget: no domain and no berth is left that could use what goes."""

    reason: str


@dataclass(frozen=True, slots=True)
class BeginSending:
    """Write down that the guest is sent, then send it."""

    order: Order
    method: Method
    reason: str


@dataclass(frozen=True, slots=True)
class AllowPause:
    """Hypervisor.allow_pause: the move does not come to its end otherwise."""

    method: Method
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the transfer: libvirt lets the guest run on here."""

    code: str  # Stopped | DeadlineExceeded | Cancelled | TargetSilent | Replaced
    reason: str


@dataclass(frozen=True, slots=True)
class FailSending:
    """Write down that it failed, for ever; thaw QEMU; the network stays here."""

    reason: str


@dataclass(frozen=True, slots=True)
class RunOn:
    """Thaw QEMU, Hypervisor.resume: the migration left the guest stopped."""

    reason: str


@dataclass(frozen=True, slots=True)
class LetGo:
    """Kill the frozen QEMU, see it dead, write that down."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeadOn:
    """Network.depart: the berth is a door, and leads to where the guest is now."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class AwaitGuest:
    """Disks and taps are there: let the other node's agent begin."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class AskSource:
    """Ask the source's agent to let go of its guest: Gathered.answer."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class Arrive:
    """Network.arrive, Network.announce: the guest is about to run here."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class FailReceiving:
    """Write down that it failed, for ever: the copy is about to be destroyed."""

    order: Order
    reason: str


class Awaited(enum.Enum):
    """What a machine waits for."""

    HYPERVISOR = "Hypervisor"
    BERTH = "Berth"
    GUEST = "Guest"
    DISK = "Disk"
    OLD_BERTH = "OldBerth"
    BERTH_END = "BerthEnd"
    FATE = "Fate"
    UNPLUG = "Unplug"
    MIGRATION = "Migration"
    SAVE = "Save"
    STATE = "State"
    SNAPSHOT = "Snapshot"


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Nothing to do but to look again in ``seconds``, or when a bell rings. No other step follows but further waits."""

    what: Awaited
    seconds: float
    reason: str


MovingStep = (
    BeginSending
    | AllowPause
    | GiveUp
    | FailSending
    | RunOn
    | LetGo
    | LeadOn
    | AwaitGuest
    | AskSource
    | Arrive
    | FailReceiving
)

Step = (
    RefuseOrder
    | CannotRun
    | LinkBerth
    | PrepareCgroup
    | CreateTaps
    | PrepareMedia
    | CreatePaused
    | AttachNetwork
    | ServeNetwork
    | PlugNic
    | UnplugNic
    | SetLink
    | MarkStarted
    | Resume
    | Suspend
    | RecordOrder
    | PressPowerButton
    | Destroy
    | ExitBerth
    | CleanUp
    | MovingStep
    | KeptStep
    | WaitFor
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps to take now, in order. Nothing to do: no steps."""

    steps: tuple[Step, ...] = ()

    @property
    def acts(self) -> bool:
        """Whether a step changes the world: waits and refusals do not."""
        return any(not isinstance(step, RefuseOrder | CannotRun | WaitFor) for step in self.steps)
