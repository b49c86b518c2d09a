"""A machine's past: how many starts, when the last one ended and how, and whether it is to be started again.

``advance`` folds what is seen now into what the status remembers; ``verdict`` reads the restart policy. Called by
cluster.py (what to do) and status.py (what to say). The status is the only memory: both sides of a controller's crash
come to the same history, because an ended berth is kept until its end is written down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from berth.api.order import Fate, FateReason, GuestState
from berth.api.savedstate import RevertStatus, SavedStateStatus
from berth.api.virtualmachine import LastExit, Power, Restart
from berth.plan import backoff, hardware, revert_request
from berth.plan.fate import SAVED
from berth.plan.world import RESTARTED_AT, Pod, World, format_time, parse_time

LOST: Final = "BerthLost"
EVICTED: Final = "Evicted"
NOT_THE_GUEST: Final = frozenset({FateReason.SHUT_DOWN, FateReason.FORCED_OFF, LOST, EVICTED, "BerthFailed"})
"""Ends that the guest did not bring about: its berth was taken away."""
ENDED_BY_NODE: Final = (
    "Shut down in order because its node ended its berth, which nobody had deleted: the pod's sandbox died, the pod was"
    " evicted, or its container was stopped there."
)


@dataclass(frozen=True, slots=True)
class History:
    """What is known of the starts so far."""

    epoch: int = 0
    started_at: datetime | None = None  # of the last start; None until its guest ran
    restarts: int = 0
    next_start_at: datetime | None = None
    last_exit: LastExit | None = None
    ending: int | None = None  # the start that was asked to end
    saved: SavedStateStatus | None = None  # what the next start begins with
    revert: RevertStatus | None = None  # what it begins with in place of that, or an earlier one has begun with

    @property
    def reverts(self) -> bool:
        return self.revert is not None and not self.revert.done

    @property
    def ended(self) -> bool:
        """Whether the last start ended and nobody had asked for it: spec.restart decides."""
        return self.last_exit is not None and 0 < self.last_exit.epoch == self.epoch


@dataclass(frozen=True, slots=True)
class StartNow:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StartLater:
    at: datetime


@dataclass(frozen=True, slots=True)
class StayEnded:
    """The restart policy says no. ``failed``: it did not end in order."""

    failed: bool


@dataclass(frozen=True, slots=True)
class StayOff:
    """spec.power is Off, or the machine is being deleted; or it is Suspended and there was nothing to save."""


@dataclass(frozen=True, slots=True)
class StaySuspended:
    """spec.power is Suspended, and its state is in its volume, as far as is known."""

    sure: bool = True


Verdict = StartNow | StartLater | StayEnded | StayOff | StaySuspended


def stored(world: World) -> History:
    """What the status remembers."""
    status = world.machine.status
    if status is None:
        return History()
    return History(
        epoch=status.epoch,
        started_at=parse_time(status.started_at),
        restarts=status.restarts,
        next_start_at=parse_time(status.next_start_at),
        last_exit=status.last_exit,
        ending=status.ending,
        saved=status.saved_state,
        revert=status.revert,
    )


def advance(world: World) -> History:
    """What the status has to remember from now on. A revert takes the place of a state that was saved."""
    history = replace(_advance(world), revert=revert_request.remembered(world))
    return replace(history, saved=None) if history.reverts else history


def _advance(world: World) -> History:
    history, pod = stored(world), world.last_berth
    if pod is not None and pod.epoch > history.epoch and pod.migration:  # it was handed over to it: no new start
        history = replace(history, epoch=pod.epoch, ending=None)
    elif pod is not None and pod.epoch > history.epoch:  # a new start
        history = replace(history, epoch=pod.epoch, started_at=None, next_start_at=None, ending=None)
    report = world.report if world.berth is not None else None
    kept = pod is not None and bool(pod.migration) and history.started_at is not None
    if report is not None and report.started_at and report.epoch == history.epoch and not kept:
        history = replace(history, started_at=parse_time(report.started_at))
    if history.saved is not None and _ran(world, history):
        history = replace(history, saved=None)  # it began with that state, which is used now
    if world.berth is not None and not world.berth.terminal and asked(world):
        history = replace(history, ending=history.epoch)
    if _over(world, history):
        return _settle(world, _end(world, history))
    return _settle(world, _calm(world, history))


def _ran(world: World, history: History) -> bool:
    """Whether the guest of a start after the saved one has run."""
    report, saved = world.report, history.saved
    started = report is not None and report.epoch == history.epoch and bool(report.started_at)
    return saved is not None and history.epoch > saved.epoch and started


def _over(world: World, history: History) -> bool:
    """The last start is over, and its end is not recorded yet. A start whose guest never ran may just vanish."""
    berth, recorded = world.berth, history.last_exit.epoch if history.last_exit else 0
    if history.epoch == 0 or recorded == history.epoch:
        return False
    if berth is not None:
        return berth.terminal
    return history.started_at is not None  # an end that was asked for is recorded by clearing it


def _saved(world: World, epoch: int, at: str, *, sure: bool) -> SavedStateStatus:
    berth = world.last_berth
    if berth is None:
        return SavedStateStatus(epoch=epoch, at=at, sure=sure)
    return SavedStateStatus(epoch=epoch, at=at, machine=berth.machine, hardware=ran_with(world, berth), sure=sure)


def ran_with(world: World, berth: Pod) -> str:
    """Of all that its start was resolved to, what its own node took."""
    found = hardware.from_text(berth.hardware)
    if found is None:
        return ""
    cpu = hardware.pick(found, world.cluster.kind(berth.node), world.cluster.emulation_of(berth))
    cpus = (hardware.Choice(cpu=cpu),) if cpu is not None else ()
    return hardware.to_text(hardware.Hardware(machine_type=found.machine_type, cpus=cpus))


def _end(world: World, history: History) -> History:
    exit_ = describe(world, history)
    ended_at = parse_time(exit_.at) or world.now
    if exit_.reason == FateReason.SAVED or _saved_perhaps(world, history, exit_):
        sure = exit_.reason == FateReason.SAVED
        kept = _saved(world, history.epoch, exit_.at, sure=sure)
        forgotten = exit_.model_copy(update={"epoch": 0})
        return replace(history, last_exit=forgotten, started_at=None, restarts=0, next_start_at=None, saved=kept)
    unused = world.wanted is Power.SUSPENDED and history.started_at is None  # it was taken away before it ran
    if asked(world) or history.ending == history.epoch or unused:
        forgotten = exit_.model_copy(update={"epoch": 0})
        return replace(history, last_exit=forgotten, started_at=None, restarts=0, next_start_at=None)
    quiet = history.started_at is not None and ended_at - history.started_at >= backoff.QUIET
    before = 0 if quiet else history.restarts
    ended = replace(history, last_exit=exit_)
    if not _again(world, ended):
        return replace(ended, restarts=before, next_start_at=None)
    orderly = exit_.exit_code == 0
    return replace(ended, restarts=before + 1, next_start_at=ended_at + backoff.restart_delay(before, orderly))


def _saved_perhaps(world: World, history: History, exit_: LastExit) -> bool:
    """Whether it went while it was to be saved, and nobody can tell how far that was."""
    told = exit_.reason not in (LOST, EVICTED, FateReason.UNKNOWN)
    return world.wanted is Power.SUSPENDED and history.started_at is not None and not told


def _settle(world: World, history: History) -> History:
    """A machine that is off has nothing to be restarted for, and starts counting anew; its saved state is given up."""
    if world.wanted is not Power.OFF or world.berth is not None:
        return history
    history = replace(history, saved=None)
    if history.last_exit is None:
        return history
    forgotten = history.last_exit.model_copy(update={"epoch": 0})
    return replace(history, last_exit=forgotten, started_at=None, restarts=0, next_start_at=None)


def _calm(world: World, history: History) -> History:
    """Ten quiet minutes make good for all restarts before."""
    running = world.berth is not None and not world.berth.terminal
    if running and history.restarts and history.started_at and world.now - history.started_at >= backoff.QUIET:
        return replace(history, restarts=0)
    return history


def asked(world: World) -> bool:
    """Whether the user wants the last berth to end: by its power, by deletion, by a restart or a revert."""
    if world.wanted is Power.OFF or restart_wanted(world, world.last_berth):
        return True
    return revert_request.wanted(world.machine, world.last_berth) is not None


def restart_wanted(world: World, pod: Pod | None) -> bool:
    """Whether a restart was asked for since this berth was made: it carries the request that it answers."""
    wanted = world.machine.restarted_at
    return wanted is not None and pod is not None and wanted != pod.restarted_at


def describe(world: World, history: History) -> LastExit:
    """How the last start ended: by the agent's word, else by the berth's exit code, else nobody knows."""
    pod, report = world.last_berth, world.report
    if report is not None and report.state is GuestState.ENDED and report.fate is not None:
        return _by_fate(report.fate, history.epoch, by_node=pod is not None and pod.deleted is None)
    if pod is None:
        message = "Its berth went while nobody looked."
        return LastExit(reason=LOST, exit_code=1, message=message, at=format_time(world.now), epoch=history.epoch)
    ended_at = pod.ended.at if pod.ended else pod.deleted
    at = format_time(ended_at or pod.created or world.now)  # the same at every look
    if pod.reason == EVICTED:
        return LastExit(reason=EVICTED, exit_code=1, message=pod.message, at=at, epoch=history.epoch)
    if pod.ended is None:
        message = pod.message or "Its berth pod went without a word on how its guest ended."
        reason = pod.reason or LOST
        return LastExit(reason=reason, exit_code=1, message=message, at=at, epoch=history.epoch)
    return _by_exit_code(pod, history, at)


def _by_fate(fate: Fate, epoch: int, *, by_node: bool) -> LastExit:
    """``by_node``: nobody deleted the pod."""
    message = ENDED_BY_NODE if by_node and fate.reason is FateReason.SHUT_DOWN else fate.message
    return LastExit(reason=fate.reason.value, exit_code=fate.exit_code, message=message, at=fate.at, epoch=epoch)


def _by_exit_code(pod: Pod, history: History, at: str) -> LastExit:
    assert pod.ended is not None  # the caller looked
    code = pod.ended.exit_code
    if history.started_at is None and code != 0:
        message = f"The berth's container ended with {pod.ended.reason or code}: {pod.ended.message or 'no message'}"
        return LastExit(reason="BerthFailed", exit_code=1, message=message, at=at, epoch=history.epoch)
    if code == 0 and pod.ended.message.strip() == SAVED:
        return LastExit(reason=FateReason.SAVED.value, exit_code=0, message=SAVED, at=at, epoch=history.epoch)
    orderly = FateReason.SHUT_DOWN if pod.deleted else FateReason.GUEST_POWEROFF
    reason = orderly if code == 0 else FateReason.UNKNOWN
    message = f"Told by the berth's exit code {code}; the node's agent did not say how the guest ended."
    return LastExit(reason=reason.value, exit_code=min(code, 1), message=message, at=at, epoch=history.epoch)


def verdict(world: World, history: History) -> Verdict:
    """Whether a machine without a living berth is to have one."""
    if world.wanted is Power.OFF:
        return StayOff()
    if world.wanted is Power.SUSPENDED:
        return StaySuspended(history.saved.sure) if history.saved is not None else StayOff()
    exit_ = history.last_exit
    if history.revert is not None and _reverts_now(world):
        return StartNow("Revert", f"a revert to Snapshot {history.revert.name} was asked for")
    if history.saved is not None:
        return StartNow(
            "Restore", f"spec.power is {world.wanted}, and the state of start {history.saved.epoch} is kept"
        )
    if not history.ended or exit_ is None:
        return StartNow("Start", f"spec.power is {world.wanted}")
    if _asked_again(world, exit_):
        return StartNow("RestartRequested", f"a restart was asked for at {world.machine.annotations[RESTARTED_AT]}")
    if not _again(world, history):
        return StayEnded(failed=exit_.exit_code != 0)
    if history.next_start_at and history.next_start_at > world.now:
        return StartLater(history.next_start_at)
    return StartNow("Restart", f"spec.restart, after the guest ended ({exit_.reason})")


def _reverts_now(world: World) -> bool:
    """Whether no start was made for it yet; one that failed is followed by others as any is."""
    berth = world.last_berth
    return revert_request.pending(world.machine) is not None and (
        berth is None or revert_request.wanted(world.machine, berth) is not None
    )


def _asked_again(world: World, exit_: LastExit) -> bool:
    """Whether a restart was asked for since this end. Times decide only where the berth that ended is gone."""
    if world.last_berth is not None:
        return restart_wanted(world, world.last_berth)
    wanted, ended_at = world.machine.restarted_at, parse_time(exit_.at)
    return wanted is not None and ended_at is not None and wanted > ended_at


def _again(world: World, history: History) -> bool:
    """Whether the restart policy wants another start after this end."""
    spec, exit_ = world.machine.spec, history.last_exit
    policy = spec.restart if spec else Restart.NEVER
    ran = history.started_at is not None
    if policy is Restart.ALWAYS or not ran or exit_ is None:
        return True
    if policy is Restart.NEVER:
        return False
    return exit_.exit_code != 0 or exit_.reason in NOT_THE_GUEST
