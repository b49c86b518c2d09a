"""One finding per prerequisite, in the order they come true: what was observed in, conditions out. Called by status.py.

A finding is ``progress`` when it only says "not yet": such ones may be held back for a moment and raise no warning.
Each message is made of stable words, so that a fault that lasts is written once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from berth.api.order import ReportCondition
from berth.api.virtualmachine import Condition, ConditionStatus, ConditionType, Phase, Power
from berth.plan import berths, compatible, diagnose, migration, networks, restoring, revert_request
from berth.plan import migratable as able
from berth.plan.diagnose import Cause
from berth.plan.history import (
    History,
    StartLater,
    StartNow,
    StayEnded,
    StayOff,
    StaySuspended,
    Verdict,
    restart_wanted,
)
from berth.plan.phases import Life, Place, agent_silent, life, place
from berth.plan.place import blocker, occupied, overdue
from berth.plan.world import World, format_time, frozen_spec

AGENT_GRACE: Final = timedelta(seconds=5)
"""An agent that is back so soon was never missed: a rollout takes less."""
HYPERVISOR_GRACE: Final = timedelta(seconds=3)
"""The same for libvirtd, which its agent has missed for some seconds already when it says so."""

_T: Final = ConditionType
_S: Final = ConditionStatus


@dataclass(frozen=True, slots=True)
class Finding:
    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str
    progress: bool = False

    @property
    def problem(self) -> bool:
        return self.status is not ConditionStatus.TRUE and not self.progress


@dataclass(frozen=True, slots=True)
class Scene:
    """What every condition is judged from, put together once."""

    world: World
    history: History
    verdict: Verdict
    cause: Cause | None  # of a berth that cannot be made, scheduled or brought up
    place: Place
    life: Life


def scene(world: World, history: History, verdict: Verdict) -> Scene:
    return Scene(world, history, verdict, _cause(world, verdict), place(world.berth, history.ending), life(world))


def findings(seen: Scene) -> list[Finding]:
    """All of them; Ready, which sums up the others, is the last."""
    found = [judge(seen) for judge in _JUDGES]
    return [*found, _ready(seen, found)]


def _cause(world: World, verdict: Verdict) -> Cause | None:
    berth, spec = world.berth, world.machine.spec
    if berth is None and isinstance(verdict, StartNow):
        if world.pod is not None and occupied(world) is None:
            return diagnose.name_taken(world.pod)
        return diagnose.refused(world.create_refusal) if world.create_refusal else None
    if berth is None or berth.deleted is not None:
        return None
    if berth.node is None:
        return diagnose.unscheduled(berth, spec, world.cluster)
    return diagnose.stuck(berth, spec, world.events)


def _true(kind: ConditionType, reason: str, message: str = "") -> Finding:
    return Finding(kind, _S.TRUE, reason, message)


def _problem(kind: ConditionType, reason: str, message: str) -> Finding:
    return Finding(kind, _S.FALSE, reason, message)


def _not_yet(kind: ConditionType, reason: str, message: str, status: ConditionStatus = _S.FALSE) -> Finding:
    return Finding(kind, status, reason, message, progress=True)


def _caused(seen: Scene, kind: ConditionType) -> Finding | None:
    return _problem(kind, seen.cause.reason, seen.cause.message) if seen.cause and seen.cause.type is kind else None


def _kept(seen: Scene, kind: ConditionType) -> Finding | None:
    """What the status said of this very start, where nothing newer is known."""
    status, berth = seen.world.machine.status, seen.world.berth
    if status is None or berth is None or status.epoch != berth.epoch:
        return None
    old = next((c for c in status.conditions if c.type == kind), None)
    return Finding(kind, old.status, old.reason, old.message, progress=_is_progress(old)) if old else None


def _is_progress(old: Condition) -> bool:
    return old.status is not _S.TRUE and old.reason in PROGRESS


def _spec_valid(seen: Scene) -> Finding:
    problem = seen.world.machine.problem
    if problem:
        return _problem(_T.SPEC_VALID, "InvalidSpec", f"{problem}. Next: mend the field and apply the machine again.")
    annotations = seen.world.machine.annotations
    if "berth.dev/restartedAt" in annotations and seen.world.machine.restarted_at is None:
        given = annotations["berth.dev/restartedAt"][:60]
        message = f"The annotation berth.dev/restartedAt is no time and is ignored (given: {given!r})."
        return _true(_T.SPEC_VALID, "AnnotationIgnored", f"{message} Next: write one such as 2026-01-31T12:00:00Z.")
    return _true(_T.SPEC_VALID, "Valid", "")


def _placement(seen: Scene) -> Finding:
    kind, world, berth = _T.PLACEMENT_READY, seen.world, seen.world.berth
    caused = _caused(seen, kind)
    if caused is not None:
        return caused
    if berth is not None and seen.place is Place.LEAVING and overdue(world):
        return _problem(kind, "BerthStuckTerminating", blocker(world))
    if berth is not None and seen.place not in (Place.NONE, Place.OVER):
        if berth.node is not None:
            return _true(kind, "Placed", f"On node {berth.node}.")
        if seen.cause is not None:
            return _not_yet(kind, "WaitsForDisks", "The scheduler waits for the machine's claims.")
        return _not_yet(kind, "Scheduling", "The scheduler looks for a node.")
    wait = occupied(world) if berth is None else None
    if wait is not None and not isinstance(seen.verdict, StayOff | StaySuspended):
        return Finding(kind, _S.FALSE, wait.reason, wait.message, progress=wait.reason == "GuestEnding")
    return _not_yet(kind, *_resting(seen))


def _resting(seen: Scene) -> tuple[str, str]:
    match seen.verdict:
        case StayOff() if seen.world.wanted is Power.SUSPENDED:
            return "PoweredOff", "It does not run, so that there is nothing to save. Next: set spec.power to On."
        case StayOff():
            return "PoweredOff", "The machine is off. Next: set spec.power to On."
        case StaySuspended(sure=True):
            return "Suspended", "Its memory and devices are saved. Next: set spec.power to On, and it goes on there."
        case StaySuspended():
            text = "Its berth went while its state was being saved. Next: set spec.power to On: it is restored if the"
            return "SuspendedPerhaps", f"{text} state turns out to be complete, and boots if not."
        case StayEnded():
            return "GuestEnded", "spec.restart does not start it again. Next: `berth restart`, or change spec.restart."
        case StartLater(at=at):
            return "BackOff", f"The next start is at {format_time(at)}."
        case StartNow():
            return "Starting", "A berth is being made."


def _agent(seen: Scene) -> Finding:
    kind, agent, world = _T.AGENT_CONNECTED, seen.world.agent, seen.world
    berth = world.berth
    if agent is None or berth is None or berth.node is None or seen.place is Place.OVER:
        return _not_yet(kind, "NotPlaced", "The machine has no node.", _S.UNKNOWN)
    down = agent.hypervisor_down_since
    if agent.connected and down is not None and world.now - down >= HYPERVISOR_GRACE:
        said = f": {agent.facts.hypervisor_message}" if agent.facts and agent.facts.hypervisor_message else ""
        message = f"libvirtd on node {agent.node} does not answer{said}. A running guest goes on."
        return _problem(kind, "HypervisorDown", f"{message} Next: see the libvirt container of the agent pod there.")
    if agent.connected:
        return _true(kind, "Connected", f"The agent of node {agent.node} answers.")
    if not agent_silent(world, AGENT_GRACE):
        return _kept(seen, kind) or _not_yet(kind, "Connecting", "Connecting to the node's agent.", _S.UNKNOWN)
    if not agent.exists:
        message = f"Node {agent.node} has no agent pod. A running guest goes on."
        return _problem(kind, "AgentMissing", f"{message} Next: see why the berth-agent DaemonSet has no pod there.")
    message = f"The agent of node {agent.node} does not answer ({agent.error or 'silent'}). A running guest goes on."
    return _problem(kind, "AgentDown", f"{message} Next: see the berth-agent pod on that node.")


def _disks(seen: Scene) -> Finding:
    return _prepared(seen, _T.DISKS_READY, "The disks are being prepared.")


def _network(seen: Scene) -> Finding:
    """An interface without its place on a Network; else what the node says."""
    wanted = isinstance(seen.verdict, StartNow) or seen.place not in (Place.NONE, Place.OVER)
    troubles = networks.check(seen.world)[1] if wanted else []
    if troubles:
        return _problem(_T.NETWORK_READY, troubles[0].reason, " ".join(trouble.message for trouble in troubles))
    return _prepared(seen, _T.NETWORK_READY, "The network is being set up.")


def _prepared(seen: Scene, kind: ConditionType, doing: str) -> Finding:
    """Disks and network: by the berth's own trouble, by the agent's word, else as it was said before."""
    caused = _caused(seen, kind)
    if caused is not None:
        return caused
    if seen.place in (Place.NONE, Place.OVER):
        return _not_yet(kind, "NotPlaced", "The machine has no berth.", _S.UNKNOWN)
    said = _reported(seen, kind)
    if said is not None:
        return said
    if seen.life in (Life.RUNNING, Life.PAUSED, Life.STOPPING):
        return _true(kind, "Ready", "")
    kept = _kept(seen, kind)
    stuck = kept is not None and kept.problem and seen.place is Place.BOUND
    if kept is not None and (stuck or seen.life is Life.SILENT or _ran(seen)):
        return kept
    return _not_yet(kind, "Preparing", doing, _S.UNKNOWN)


def _ran(seen: Scene) -> bool:
    return seen.history.started_at is not None


def _reported(seen: Scene, kind: ConditionType) -> Finding | None:
    report = seen.world.report
    said = next((c for c in report.conditions if c.type == kind), None) if report is not None else None
    return _as_finding(kind, said) if said is not None else None


PROGRESS: Final = frozenset(
    {
        *(
            "NotPlaced",
            "Connecting",
            "Preparing",
            "Starting",
            "Scheduling",
            "WaitsForDisks",
            "GuestStarting",
            "Waiting",
        ),
        *("NotReady", "Paused", "ShuttingDown", "GuestEnding", "GuestEnded", "PoweredOff", "BackOff", "InProgress"),
        *("GuestPoweroff", "ShutDown", "ForcedOff", "Moved", "Arriving", "Saving", "Saved", "Suspended"),
        *("Reverting", "SnapshotNotReady"),
    }
)
"""Reasons that mean "not yet" or "as asked", never that something is wrong."""


def _as_finding(kind: ConditionType, said: ReportCondition) -> Finding:
    progress = said.status is not _S.TRUE and (said.reason in PROGRESS or said.status is _S.UNKNOWN)
    return Finding(kind, said.status, said.reason, said.message, progress)


def _guest(seen: Scene) -> Finding:
    kind, world = _T.GUEST_RUNNING, seen.world
    if seen.place in (Place.NONE, Place.OVER):
        return _ended(seen)
    if world.move is not None and berths.arriving(world) and seen.life in (Life.UNSEEN, Life.COMING):
        return _not_yet(kind, "Arriving", "The guest is being handed over to this node.")
    refusal = world.agent.refusal if world.agent else None
    if refusal is not None and seen.life in (Life.UNSEEN, Life.COMING, Life.FAILED):
        message = f"The agent of node {world.agent.node if world.agent else ''} refuses the order: {refusal.message}"
        return _problem(kind, refusal.reason, f"{message}. Next: see the agent's log; it is asked again.")
    old = restoring.too_old(world.agent) if seen.history.saved is not None else ""
    if old and seen.life in (Life.UNSEEN, Life.COMING):
        return _problem(kind, "AgentTooOld", f"Its saved state waits. {old}")
    match seen.life:
        case Life.RUNNING:
            said = _reported(seen, kind)
            return _true(kind, "Running", said.message if said is not None and said.status is _S.TRUE else "")
        case Life.PAUSED if (said := _reported(seen, kind)) is not None and said.reason == "Saving":
            return said
        case Life.PAUSED:
            return _not_yet(kind, "Paused", "The guest's CPUs are stopped. Next: set spec.power to On.")
        case Life.STOPPING:
            return _not_yet(kind, "ShuttingDown", "The guest was asked to shut down.")
        case Life.MOVED:
            return _not_yet(kind, "Moved", "The guest was handed over to the node of another berth.")
        case Life.ENDED:
            return _not_yet(kind, "GuestEnded", "The guest has ended; its berth is ending.")
        case Life.SILENT:
            message = "The guest ran when its node's agent was last heard. Next: see AgentConnected."
            return Finding(kind, _S.UNKNOWN, "AgentDown", message)
        case Life.FAILED | Life.COMING | Life.UNSEEN:
            return _coming(seen)


def _coming(seen: Scene) -> Finding:
    kind = _T.GUEST_RUNNING
    if seen.life is Life.UNSEEN and _ran(seen):
        kept = _kept(seen, kind)
        if kept is not None:
            return kept
    said = _reported(seen, kind)
    if said is not None:
        return said
    if seen.life is Life.FAILED:
        return _problem(kind, "StartFailed", "The guest cannot be started. Next: see the other conditions.")
    return _not_yet(kind, "GuestStarting", "The guest is not running yet.")


def _ended(seen: Scene) -> Finding:
    """The machine is at rest: its last end is the reason, unless that was wanted."""
    kind, exit_ = _T.GUEST_RUNNING, seen.history.last_exit
    reason, rest = _resting(seen)
    if exit_ is None or not seen.history.ended:
        return _not_yet(kind, reason, rest)
    said = f"The guest ended: {exit_.reason}{': ' + exit_.message if exit_.message else ''}. {rest}"
    return Finding(kind, _S.FALSE, exit_.reason, said, progress=exit_.exit_code == 0)


def _ready(seen: Scene, others: list[Finding]) -> Finding:
    kind = _T.READY
    guest = next(f for f in others if f.type is _T.GUEST_RUNNING)
    berth = seen.world.berth
    first = next((f for f in others if f.problem), None)
    if berth is not None and seen.place is Place.UP and guest.status is _S.TRUE:
        if berth.ready:
            return _true(kind, "Ready", "")
        return _not_yet(kind, "NotReady", "The guest runs; its readiness probe has not succeeded yet.")
    if seen.place is Place.LEAVING and guest.status is _S.TRUE:
        return _not_yet(kind, "ShuttingDown", "The guest is being shut down.")
    if seen.life is Life.SILENT and seen.place is not Place.OVER:
        return Finding(kind, _S.UNKNOWN, "AgentDown", guest.message, progress=True)
    if first is not None:
        return Finding(kind, _S.FALSE, first.reason, first.message, progress=True)
    waiting = next((f for f in others if f.status is not _S.TRUE), guest)
    return _not_yet(kind, waiting.reason, waiting.message)


def migratable(world: World) -> Finding:
    """Whether it could move to another node, and why not: by what it runs with, else by what it will be started with.
    While a move waits for something, that is what is told."""
    kind, berth = _T.MIGRATABLE, world.berth
    cause = migration.cause(world) if world.move is not None else None
    if cause is not None and world.move is not None:
        return _problem(kind, cause.reason, f"Migration {world.move.name}: {cause.message}")
    frozen = frozen_spec(berth) if berth is not None and not berth.terminal else None
    spec = frozen or world.machine.spec
    if spec is None:
        return _not_yet(kind, "InvalidSpec", "See the condition SpecValid.", _S.UNKNOWN)
    if not world.cluster.settled and (said := _said_before(world, kind)) is not None:
        return said
    found = compatible.narrowed(able.answer(spec, world.cluster), world)
    return Finding(kind, _S.TRUE if found.able else _S.FALSE, found.reason, found.message)


def _said_before(world: World, kind: ConditionType) -> Finding | None:
    """What stands in the status, while the nodes have not all told what they are: it is not unsaid and said again."""
    status = world.machine.status
    old = next((c for c in status.conditions if c.type == kind), None) if status is not None else None
    return Finding(kind, old.status, old.reason, old.message) if old is not None else None


def reverted(world: World, history: History) -> list[Finding]:
    """Whether it has gone back to the Snapshot that it was last asked to. Only told of one that was asked."""
    trouble = revert_request.trouble(world)
    if trouble is not None:
        return [_problem(_T.REVERTED, trouble.reason, trouble.message)]
    revert = history.revert
    if revert is None:
        return []
    if revert.done:
        return [_true(_T.REVERTED, "Reverted", f"It has run from Snapshot {revert.name}.")]
    return [_not_yet(_T.REVERTED, "Reverting", revert_request.waits_for(world, revert))]


def suspendable(world: World) -> list[Finding]:
    """Whether its state could be saved, and why not; or why it was not. Only told of one that has to do with that."""
    found = restoring.suspendable(world)
    if found is None:
        return []
    return [Finding(_T.SUSPENDABLE, _S.TRUE if found.able else _S.FALSE, found.reason, found.message)]


def summary(seen: Scene, found: list[Finding], phase: Phase) -> str:
    """The status' message: the first thing that is wrong, else what is waited for, else nothing."""
    if seen.world.machine.deleted is not None:
        return f"Being deleted. {blocker(seen.world)}"
    problem = next((f for f in found if f.problem), None)
    if problem is not None:
        return problem.message
    if seen.place is Place.LEAVING and restart_wanted(seen.world, seen.world.berth):
        return "Shutting down for the restart that was asked for."
    if phase in (Phase.FAILED, Phase.STOPPED, Phase.SUSPENDED):
        return next(f.message for f in found if f.type is _T.GUEST_RUNNING)
    if phase in (Phase.PENDING, Phase.STARTING, Phase.STOPPING):
        return found[-1].message
    saving = next((f for f in found if f.type is _T.GUEST_RUNNING and f.reason == "Saving"), None)
    return saving.message if saving is not None else restoring.runs_on(seen.world, phase)


_JUDGES: Final[tuple[Callable[[Scene], Finding], ...]] = (_spec_valid, _placement, _agent, _disks, _network, _guest)
