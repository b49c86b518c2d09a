"""The lifecycle: one total table from where the berth is and how the guest is to the phase a user sees.

``place`` and ``life`` put what was observed into two words, ``TABLE`` has a row for every pair of them, ``resting``
says what a machine without a living berth is. ``MOVES`` are the changes a user can see; the picture in the docs
(``diagram``) is made from them, and the scenario tests refuse any other.
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from typing import Final, assert_never

from berth.api.order import GuestState
from berth.api.virtualmachine import Phase
from berth.plan import berths
from berth.plan.history import StartLater, StartNow, StayEnded, StayOff, StaySuspended, Verdict
from berth.plan.world import Pod, World

UNKNOWN_AFTER: Final = timedelta(seconds=30)
"""An agent that is silent for so long may have lost its guests: before, they are taken to run on."""


class Place(enum.Enum):
    """How far the berth pod is."""

    NONE = "no berth"
    WAITING = "berth has no node"
    BOUND = "berth has a node"
    UP = "berth is up"
    LEAVING = "berth is ending"
    OVER = "berth has ended"


class Life(enum.Enum):
    """How the guest is, by its agent."""

    UNSEEN = "not reported"
    COMING = "being started"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "shutting down"
    MOVED = "handed over"  # to the node of another berth
    ENDED = "ended"
    FAILED = "cannot be started"
    SILENT = "agent silent"  # it ran when the agent was last heard


_COMING: Final = frozenset({GuestState.WAITING, GuestState.PREPARING, GuestState.STARTING})


def place(pod: Pod | None, ending: int | None = None) -> Place:
    """``ending``: the start that is being ended, whose berth is about to be deleted."""
    if pod is None:
        return Place.NONE
    if pod.terminal:
        return Place.OVER
    if pod.deleted is not None or (pod.node is not None and pod.epoch == ending):
        return Place.LEAVING
    if pod.node is None:
        return Place.WAITING
    return Place.UP if pod.running else Place.BOUND


def life(world: World) -> Life:
    report = world.report
    if report is None:
        return Life.SILENT if _ran(world) and agent_silent(world, UNKNOWN_AFTER) else Life.UNSEEN
    if report.state in _COMING:
        return Life.COMING
    seen = Life[report.state.name]
    alive = seen in (Life.RUNNING, Life.PAUSED, Life.STOPPING)
    return Life.SILENT if alive and agent_silent(world, UNKNOWN_AFTER) else seen


def agent_silent(world: World, grace: timedelta) -> bool:
    """Whether the agent of the berth's node has not been heard for longer than ``grace``."""
    agent = world.agent
    if agent is None or agent.connected:
        return False
    since: datetime | None = agent.silent_since
    return since is None or world.now - since >= grace


def _ran(world: World) -> bool:
    """Whether the guest in this berth had started, as far as the status remembers."""
    status, berth = world.machine.status, world.berth
    return bool(status and berth and status.started_at and status.epoch == berth.epoch)


def _row(**by_life: Phase) -> dict[Life, Phase]:
    return {Life[name]: phase for name, phase in by_life.items()}


_P: Final = Phase
TABLE: Final[dict[Place, dict[Life, Phase]]] = {
    Place.WAITING: dict.fromkeys(Life, _P.PENDING),
    Place.BOUND: dict.fromkeys(Life, _P.STARTING) | _row(SILENT=_P.UNKNOWN),
    Place.UP: _row(
        UNSEEN=_P.STARTING,
        COMING=_P.STARTING,
        RUNNING=_P.RUNNING,
        PAUSED=_P.PAUSED,
        STOPPING=_P.STOPPING,
        MOVED=_P.MIGRATING,
        ENDED=_P.STOPPING,
        FAILED=_P.STARTING,
        SILENT=_P.UNKNOWN,
    ),
    Place.LEAVING: dict.fromkeys(Life, _P.STOPPING) | _row(SILENT=_P.UNKNOWN),
}
"""A berth that lives decides with its guest; without one (NONE, OVER) the restart policy does: see ``resting``."""


def _moves(world: World, seen: Life) -> bool:
    """Whether it is on its way: another node has a place for it, or it is just coming to this one."""
    if berths.arriving(world) and world.move is not None:
        return seen in (Life.UNSEEN, Life.COMING, Life.RUNNING, Life.PAUSED, Life.MOVED)
    under_way = world.move is not None and world.incoming is not None and world.incoming.node is not None
    return under_way and seen in (Life.RUNNING, Life.PAUSED)


def resting(verdict: Verdict) -> Phase:
    """The phase of a machine whose berth has ended, or that has none."""
    match verdict:
        case StayOff():
            return Phase.STOPPED
        case StaySuspended():
            return Phase.SUSPENDED
        case StayEnded(failed=failed):
            return Phase.FAILED if failed else Phase.STOPPED
        case StartLater():
            return Phase.FAILED
        case StartNow():
            return Phase.PENDING
    assert_never(verdict)


def phase(world: World, verdict: Verdict, ending: int | None = None) -> Phase:
    """The one word for what was observed."""
    where = place(world.berth, ending)
    if where is Place.OVER and isinstance(verdict, StayOff | StaySuspended):
        return Phase.STOPPING  # the ended berth is being removed
    if where in (Place.NONE, Place.OVER):
        return resting(verdict)
    seen = life(world)
    status = world.machine.status
    if where in (Place.BOUND, Place.UP) and _moves(world, seen):
        return Phase.MIGRATING
    if seen is Life.UNSEEN and where in (Place.BOUND, Place.UP) and _ran(world) and status is not None:
        return status.phase if status.phase in (Phase.RUNNING, Phase.PAUSED, Phase.UNKNOWN) else Phase.STARTING
    return TABLE[where][seen]


MOVES: Final[tuple[tuple[Phase, Phase, str], ...]] = (
    (_P.PENDING, _P.STARTING, "the scheduler finds a node"),
    (_P.STARTING, _P.RUNNING, "the guest runs"),
    (_P.STARTING, _P.PAUSED, "power: Paused"),
    (_P.RUNNING, _P.PAUSED, "power: Paused"),
    (_P.PAUSED, _P.RUNNING, "power: On"),
    (_P.PENDING, _P.STOPPING, "power: Off"),
    (_P.STARTING, _P.STOPPING, "power: Off"),
    (_P.RUNNING, _P.STOPPING, "power: Off, restart, berth deleted"),
    (_P.PAUSED, _P.STOPPING, "power: Off, restart, berth deleted"),
    (_P.STOPPING, _P.STOPPED, "off, or ended for good"),
    (_P.STOPPING, _P.PENDING, "it is to be started again"),
    (_P.STOPPING, _P.FAILED, "it did not end in order"),
    (_P.RUNNING, _P.FAILED, "crash, panic, kill"),
    (_P.RUNNING, _P.STOPPED, "the guest powers itself off"),
    (_P.FAILED, _P.PENDING, "the back-off ends, or a restart is asked for"),
    (_P.FAILED, _P.STOPPED, "power: Off"),
    (_P.STOPPED, _P.PENDING, "power: On"),
    (_P.STOPPING, _P.SUSPENDED, "power: Suspended, and its state is saved"),
    (_P.SUSPENDED, _P.PENDING, "power: On: its state is restored"),
    (_P.SUSPENDED, _P.STOPPED, "power: Off: its state is given up"),
    (_P.PENDING, _P.SUSPENDED, "power: Suspended, before its state was used"),
    (_P.RUNNING, _P.MIGRATING, "a Migration moves it"),
    (_P.PAUSED, _P.MIGRATING, "a Migration moves it"),
    (_P.MIGRATING, _P.RUNNING, "it arrived, or stayed where it was"),
    (_P.MIGRATING, _P.PAUSED, "it arrived, or stayed where it was"),
    (_P.MIGRATING, _P.STOPPING, "power: Off, restart, berth deleted"),
    (_P.MIGRATING, _P.FAILED, "crash, panic, kill"),
    (_P.MIGRATING, _P.STOPPED, "the guest powers itself off"),
    (_P.MIGRATING, _P.UNKNOWN, "the agent is silent"),
    (_P.RUNNING, _P.UNKNOWN, "the agent is silent"),
    (_P.UNKNOWN, _P.RUNNING, "the agent is back"),
    (_P.UNKNOWN, _P.STOPPING, "power: Off, node drained"),
    (_P.UNKNOWN, _P.PENDING, "the node is gone for good"),
)


def diagram() -> str:
    """The lifecycle as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> Pending: created", "    [*] --> Stopped: created with power#58; Off"]
    lines += [f"    {old} --> {new}: {why.replace(':', '#58;')}" for old, new, why in MOVES]
    return "\n".join(lines) + "\n"
