"""One machine as the node sees it: what was gathered and what came of the plan in, the Report out.

Called by the agent after every round, and between the steps of a start. No clock, no I/O: the same in, the same out, so
that nothing is told twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from berth.api.kept import SnapshotReport, SnapshotState
from berth.api.order import GuestState, NicReport, Report, ReportCondition
from berth.api.virtualmachine import ConditionStatus, ConditionType, GuestInfo
from berth.domain.observed import Guest, TransferStats
from berth.plan import gathered, moving, plug, reverting, snapshots, steps
from berth.plan.gathered import Gathered, Life, Saving
from berth.plan.steps import Plan, Step

_NO_PLAN: Final = Plan()
_NOTHING: Final = TransferStats()
_T: Final = ConditionType
_S: Final = ConditionStatus
_DISK_STEPS: Final = (steps.PrepareMedia,)
_NETWORK_STEPS: Final = (
    steps.CreateTaps,
    steps.AttachNetwork,
    steps.ServeNetwork,
    steps.PlugNic,
    steps.UnplugNic,
    steps.SetLink,
)
_ALIVE: Final = (GuestState.RUNNING, GuestState.PAUSED, GuestState.STOPPING)
_SEEN: Final = (*_ALIVE, GuestState.MOVED, GuestState.ENDED)
_LOST_HYPERVISOR: Final = "libvirtd does not answer; a running guest goes on. Next: see the agent pod's log"


@dataclass(frozen=True, slots=True)
class Failure:
    """The step that could not be taken, and why."""

    step: Step
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class SaveFailure:
    """Why the guest was not saved."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What the agent knows of its own work, beside what was gathered."""

    plan: Plan = _NO_PLAN
    doing: Step | None = None
    failure: Failure | None = None
    files_ready: bool = False
    guest: GuestInfo | None = None
    guest_nics: tuple[NicReport, ...] = ()
    pause_ms: int | None = None
    connections: int | None = None
    save_failure: SaveFailure | None = None
    transfer: TransferStats = _NOTHING
    before: Report | None = None
    """The report that was told last: what is kept while libvirt does not answer."""


def report(g: Gathered, p: Progress) -> Report | None:
    """None while nobody knows the machine's name: then nobody has ordered it either."""
    pod, named = gathered.pod(g), _named(g)
    if named is None or pod is None:
        return None
    state = _state(g, p)
    namespace, name, epoch = named
    return Report(
        uid=g.uid,
        namespace=namespace,
        name=name,
        epoch=epoch,
        pod_uid=pod,
        state=state,
        accelerator=_accelerator(g, p),
        machine_type=g.guest.machine if g.guest is not None else "",
        cpu_mode=g.guest.cpu_mode if g.guest is not None else "",
        qemu_version=g.record.qemu if g.record is not None and g.guest is not None else "",
        started_at=(g.record.at or None) if g.record is not None else None,
        fate=g.fate if state is GuestState.ENDED else None,
        guest=p.guest if state in _ALIVE else None,
        guest_nics=p.guest_nics if state in _ALIVE else (),
        migration=moving.report(g, p.pause_ms),
        connections=p.connections if state is GuestState.MOVED else None,
        snapshot=_snapshot(g, p),
        forgotten=snapshots.forgotten(g),
        reverted=_reverted(g),
        conditions=(_disks(g, p), _network(g, p, state), _running(g, p, state), *_suspendable(p)),
    )


def _named(g: Gathered) -> tuple[str, str, int] | None:
    """Namespace, name and epoch of the start that the report is about: the same one that ``gathered.pod`` is of."""
    if g.guest is not None:
        return g.guest.order.namespace, g.guest.order.name, g.guest.order.epoch
    if g.record is not None:
        known = g.record if g.record.name else g.order
        return (known.namespace, known.name, g.record.epoch) if known is not None else None
    return (g.order.namespace, g.order.name, g.order.epoch) if g.order is not None else None


def _state(g: Gathered, p: Progress) -> GuestState:
    seen = gathered.state(g)
    if not g.hypervisor:
        known = _before(g, p)
        return known if known is not None and known in _SEEN else seen  # nobody saw it change
    if p.failure is not None and isinstance(p.failure.step, steps.Resume):
        return GuestState.FAILED  # it is there, and cannot be let run
    if _ends_by_itself(g) and (last := _before(g, p)) is not None and last in _ALIVE:
        return last  # how it went is told when that is known
    if seen is GuestState.PAUSED and snapshots.runs_on(g):
        return GuestState.RUNNING
    if seen in _SEEN:
        return seen
    if p.failure is not None or _refused(p) is not None:
        return GuestState.FAILED
    match p.doing:
        case steps.CreatePaused() | steps.AttachNetwork() | steps.MarkStarted() | steps.Resume():
            return GuestState.STARTING
        case _:
            return seen


def _before(g: Gathered, p: Progress) -> GuestState | None:
    """What was told last, of this start."""
    return p.before.state if p.before is not None and p.before.pod_uid == gathered.pod(g) else None


def _ends_by_itself(g: Gathered) -> bool:
    return gathered.life(g) is Life.ENDING and not g.shutdown_asked


def _accelerator(g: Gathered, p: Progress) -> str:
    if g.guest is not None:
        return g.guest.accelerator.value
    return p.before.accelerator if p.before is not None and not g.hypervisor else ""


def _refused(p: Progress) -> steps.CannotRun | None:
    return next((s for s in p.plan.steps if isinstance(s, steps.CannotRun)), None)


def _condition(kind: ConditionType, status: ConditionStatus, reason: str, message: str = "") -> ReportCondition:
    return ReportCondition(type=kind, status=status, reason=reason, message=message)


def _disks(g: Gathered, p: Progress) -> ReportCondition:
    if p.failure is not None and isinstance(p.failure.step, _DISK_STEPS):
        return _condition(_T.DISKS_READY, _S.FALSE, p.failure.reason, p.failure.message)
    if g.guest is not None and g.guest.detail == "ioerror":
        message = "QEMU stopped the guest at an I/O error. Next: see whether a disk's storage is full or broken"
        return _condition(_T.DISKS_READY, _S.FALSE, "IoError", message)
    if p.files_ready or g.guest is not None or g.record is not None:
        return _condition(_T.DISKS_READY, _S.TRUE, "Ready")
    return _condition(_T.DISKS_READY, _S.UNKNOWN, "Preparing", "the disks are not prepared yet")


def _network(g: Gathered, p: Progress, state: GuestState) -> ReportCondition:
    if p.failure is not None and isinstance(p.failure.step, _NETWORK_STEPS):
        return _condition(_T.NETWORK_READY, _S.FALSE, p.failure.reason, p.failure.message)
    if g.guest is not None and (told := _nics(g, g.guest)) is not None:
        return told
    if g.served or state is GuestState.ENDED:
        return _condition(_T.NETWORK_READY, _S.TRUE, "Ready")
    return _condition(_T.NETWORK_READY, _S.UNKNOWN, "Preparing", "the network is not set up yet")


def _suspendable(p: Progress) -> tuple[ReportCondition, ...]:
    """Only when it was tried, and failed: the guest runs on."""
    if p.save_failure is None:
        return ()
    text = f"its state was not saved, and the guest runs on: {p.save_failure.message}. It is tried again in a while, or"
    text += " when spec.power is set to On and Suspended again"
    return (_condition(_T.SUSPENDABLE, _S.FALSE, p.save_failure.reason, text),)


def _saving(p: Progress) -> str:
    done = p.transfer
    far = f": {100 * (done.total - done.remaining) // done.total} %" if done.total else ""
    return f"its memory and devices are being saved{far}"


def _snapshot(g: Gathered, p: Progress) -> SnapshotReport | None:
    told, done = snapshots.report(g), p.transfer
    if told is None or told.state is not SnapshotState.SAVING or not done.total:
        return told
    return told.model_copy(update={"percent": 100 * (done.total - done.remaining) // done.total})


def _reverted(g: Gathered) -> str:
    order = gathered.wanted(g, g.guest) if g.guest is not None else gathered.accepted(g)
    return reverting.done(g, order) if order is not None else ""


def _nics(g: Gathered, guest: Guest) -> ReportCondition | None:
    """NICs that do not come or go as ordered, while the others work."""
    if homeless := plug.without_slot(g, guest):
        message = f"no free slot to plug in NIC {', '.join(homeless)}. Next: stop and start the machine"
        return _condition(_T.NETWORK_READY, _S.FALSE, "NoFreeSlot", message)
    if g.served and (kept := plug.kept(g, guest)):
        message = f"the guest does not let go of NIC {', '.join(kept)}, whose link is down; it is asked again"
        return _condition(_T.NETWORK_READY, _S.TRUE, "UnplugPending", message)
    return None


def _running(g: Gathered, p: Progress, state: GuestState) -> ReportCondition:
    kind = _T.GUEST_RUNNING
    if not g.hypervisor:
        return _condition(kind, _S.UNKNOWN, "HypervisorDown", _LOST_HYPERVISOR)
    if _ends_by_itself(g):
        return _condition(kind, _S.FALSE, "GuestEnding", "the guest is ending; how it went is about to be told")
    if state is GuestState.PAUSED and g.saving is Saving.BUSY:
        return _condition(kind, _S.FALSE, "Saving", _saving(p))
    if state is GuestState.RUNNING and snapshots.runs_on(g):
        return _condition(kind, _S.TRUE, "Running", "It stands still while its memory is written to a snapshot.")
    match state:
        case GuestState.RUNNING:
            return _condition(kind, _S.TRUE, "Running")
        case GuestState.PAUSED:
            return _condition(kind, _S.FALSE, "Paused", "the guest's CPUs are stopped")
        case GuestState.STOPPING:
            return _condition(kind, _S.FALSE, "ShuttingDown", "the guest was asked to shut down")
        case GuestState.MOVED:
            return _condition(kind, _S.FALSE, "Moved", "the guest runs on another node; this berth leads there")
        case GuestState.ENDED:
            return _ended(g)
        case GuestState.FAILED:
            return _failed(p)
        case GuestState.WAITING | GuestState.PREPARING | GuestState.STARTING:
            waits = next((s.reason for s in p.plan.steps if isinstance(s, steps.WaitFor)), "")
            return _condition(kind, _S.FALSE, "Starting" if state is not GuestState.WAITING else "Waiting", waits)


def _ended(g: Gathered) -> ReportCondition:
    if g.fate is None:
        return _condition(_T.GUEST_RUNNING, _S.FALSE, "GuestEnded", "the guest ended")
    return _condition(_T.GUEST_RUNNING, _S.FALSE, g.fate.reason.value, g.fate.message)


def _failed(p: Progress) -> ReportCondition:
    refused = _refused(p)
    if refused is not None:
        return _condition(_T.GUEST_RUNNING, _S.FALSE, refused.code, refused.reason)
    if p.failure is not None and not isinstance(p.failure.step, _DISK_STEPS + _NETWORK_STEPS):
        return _condition(_T.GUEST_RUNNING, _S.FALSE, p.failure.reason, p.failure.message)
    return _condition(_T.GUEST_RUNNING, _S.FALSE, "NotReady", "its disks or its network are not ready")
