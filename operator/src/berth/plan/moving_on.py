"""How far one Migration is, and how it ends: the machine's world in, a Word out. Called by controller/migrations.py.

Whatever ends it early is written down first (``ending``) and carried out afterwards (migration.py): only when the other
node is cleared, and the guest has not gone there meanwhile, is it over. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from berth.api.handover import MigrationReport, MigrationState
from berth.api.migration import MigrationPhase as Phase
from berth.api.migration import Priority
from berth.api.order import GuestState
from berth.api.virtualmachine import Power
from berth.plan import berths, compatible, doors, history, incoming, migratable, migration
from berth.plan.moves import Limits, Move, nodes, turn
from berth.plan.phases import Life, life
from berth.plan.times import format_time
from berth.plan.world import Agent, World, frozen_spec


@dataclass(frozen=True, slots=True)
class Word:
    """What is to be said of a Migration."""

    phase: Phase
    reason: str
    message: str = ""
    ending: Phase | None = None


_RUNS: Final = (Life.RUNNING, Life.PAUSED)


def without_machine(move: Move) -> Word:
    name = move.machine or "(none)"
    message = f"There is no VirtualMachine {name} in namespace {move.namespace}. Next: mend spec.vm in a new Migration."
    return Word(Phase.FAILED, "MachineMissing", message)


def word(world: World, move: Move, others: Iterable[Move], limits: Limits) -> Word:
    """For one that is not finished."""
    everybody = list(others)
    if not move.underway:
        return _refused(world, move) or _waits(world, move, everybody, limits) or Word(Phase.SCHEDULING, "Scheduling")
    berth = world.berth
    if berth is not None and berth.migration == move.uid:
        return _handed_over(world, move)
    if move.ending is not None and move.status is not None:
        mine = world.incoming is not None and world.incoming.migration == move.uid
        if mine:
            return Word(move.phase, move.status.reason, move.status.message, move.ending)
        return Word(move.ending, move.status.reason, move.status.message)
    return _given_up(world, move) or _progress(world, move, everybody, limits)


def _failed(reason: str, message: str) -> Word:
    return Word(Phase.FAILED, reason, message)


def _refused(world: World, move: Move) -> Word | None:
    """Before anything was done: what can never become of it is told at once."""
    machine, berth, spec = world.machine, world.berth, move.spec
    if spec is None:
        return _failed("InvalidSpec", f"{move.problem}. Next: make a new Migration.")
    if spec.cancel or move.deleted:
        return Word(Phase.CANCELLED, "Cancelled", "It was cancelled before its turn came.")
    if move.deadline is not None and move.deadline <= world.now:
        return _failed(
            "DeadlineExceeded", f"It was to be done by {format_time(move.deadline)}, and had no turn before."
        )
    if _uncordoned(world, move):
        return Word(Phase.CANCELLED, "Uncordoned", f"Node {berth.node if berth else ''} takes pods again.")
    if world.move is not None and world.move.uid != move.uid:
        return _failed("AlreadyMigrating", f"Migration {world.move.name} moves {machine.name} already.")
    if machine.deleted is not None or world.wanted is Power.OFF or berth is None or berth.terminal:
        return _failed("MachineNotRunning", f"{machine.name} does not run: there is nothing to move. Next: start it.")
    frozen = frozen_spec(berth)
    able = migratable.answer(frozen, world.cluster) if frozen is not None else None
    if able is not None and not able.able:
        return _failed(able.reason, able.message)
    if _too_old(world.agent, world):
        text = f"The agent of node {berth.node} cannot move {machine.name}. Next: upgrade the agents."
        return _failed("AgentTooOld", text)
    named = spec.target.node_name if spec.target is not None else None
    if named is not None and named == berth.node:
        return _failed("SameNode", f"{machine.name} is on node {named} already. Next: name another one, or none.")
    if named is not None and world.cluster.nodes and named not in world.cluster.nodes:
        return _failed("TargetMissing", f"There is no node {named} with an agent. Next: name another one, or none.")
    unlike = compatible.move_troubles(world).get(named) if named is not None else None
    if unlike is not None:
        text = f"Node {named} {unlike.message}: nothing was sent there. Next: name another one, or none."
        return _failed(unlike.reason, text)
    fits = compatible.narrowed(able, world) if able is not None else None
    if fits is not None and not fits.able:
        return _failed(fits.reason, fits.message)
    return None


def _uncordoned(world: World, move: Move) -> bool:
    """Whether a drain made it, and that was taken back before any memory went."""
    drains = move.own and move.spec is not None and move.spec.priority is Priority.DRAIN
    node = world.berth.node if world.berth is not None else None
    return drains and not move.sending and node is not None and node not in world.cluster.cordoned


def _too_old(agent: Agent | None, world: World) -> bool:
    """Whether an agent is there that serves no other, or would leave disks behind that are to be copied."""
    facts = agent.facts if agent is not None and agent.connected else None
    if facts is None or facts.peer_port == 0:
        return facts is not None
    frozen = frozen_spec(world.berth) if world.berth is not None else None
    return frozen is not None and bool(migratable.copied(frozen)) and not facts.copies_disks


def _waits(world: World, move: Move, others: list[Move], limits: Limits) -> Word | None:
    """What comes first."""
    berth, alive = world.berth, life(world) in _RUNS
    if world.wanted is Power.SUSPENDED:
        return Word(Phase.PENDING, "MachineSuspending", f"{world.machine.name} is to be suspended.")
    if berth is not None and (berth.deleted is not None or history.asked(world)):
        return Word(Phase.PENDING, "MachineStopping", f"{world.machine.name} is shutting down, or being restarted.")
    if not alive:
        agent = world.agent
        if agent is not None and not agent.connected:
            message = (
                f"The agent of node {agent.node} does not answer. Next: see the machine's AgentConnected condition."
            )
            return Word(Phase.PENDING, "AgentDown", message)
        return Word(Phase.PENDING, "MachineStarting", f"{world.machine.name} does not run yet.")
    source = berth.node if berth is not None else None
    first = turn(move, source, others, limits)
    return Word(Phase.PENDING, "WaitsForTurn", f"{first}.") if first else None


def _handed_over(world: World, move: Move) -> Word:
    """The guest is on the other side for good, whatever was wanted meanwhile."""
    berth = world.berth
    assert berth is not None  # the caller looked
    report = berths.report_of(world, berth)
    if berths.arrived(world, berth) and report is not None and report.state is not GuestState.ENDED:
        return Word(Phase.SUCCEEDED, "Arrived", f"{world.machine.name} runs on node {berth.node}.")
    if berth.terminal or (report is not None and report.state is GuestState.ENDED):
        return _failed("GuestEnded", f"It was handed over to node {berth.node} and ended there.")
    if report is not None and report.state is GuestState.FAILED:
        return Word(Phase.HANDING_OVER, "Arriving", f"Node {berth.node} has trouble letting it run: see the machine.")
    return Word(Phase.HANDING_OVER, "Arriving", f"It is about to run on node {berth.node}.")


def _given_up(world: World, move: Move) -> Word | None:
    """Why it does not go on; it stays as it is until the other node is cleared."""
    found = _cancelled(world, move) or _broken(world, move)
    return Word(move.phase, found.reason, found.message, found.phase) if found is not None else None


def _cancelled(world: World, move: Move) -> Word | None:
    machine, berth = world.machine, world.berth
    if move.deleted or (move.spec is not None and move.spec.cancel):
        return Word(Phase.CANCELLED, "Cancelled", f"It was cancelled: {machine.name} stays where it is.")
    if _uncordoned(world, move):
        node = berth.node if berth is not None else ""
        return Word(Phase.CANCELLED, "Uncordoned", f"Node {node} takes pods again: {machine.name} stays there.")
    if world.wanted is Power.SUSPENDED and not move.sending:
        return Word(Phase.CANCELLED, "MachineSuspending", f"{machine.name} was to be suspended meanwhile.")
    if machine.deleted is not None or history.asked(world):
        return Word(Phase.CANCELLED, "MachineStopping", f"{machine.name} was to be shut down or restarted meanwhile.")
    if move.deadline is not None and move.deadline <= world.now:
        said = f" It waited for: {move.status.message}" if move.status is not None and move.status.message else ""
        message = f"It was not done by {format_time(move.deadline)}: {machine.name} stays where it is.{said}"
        return _failed("DeadlineExceeded", message)
    if berth is None or berth.terminal or berth.deleted is not None or life(world) is Life.ENDED:
        return _failed("GuestEnded", f"{machine.name} ended before it could be moved.")
    return None


def _broken(world: World, move: Move) -> Word | None:
    pod, status = world.incoming, move.status
    if pod is None and status is not None and status.target is not None and status.target.berth:
        return _failed(
            "TargetBerthEnded", f"The pod {status.target.berth} went: {world.machine.name} stays where it is."
        )
    if pod is not None and (pod.terminal or pod.deleted is not None):
        said = f": {pod.message}" if pod.message else ""
        return _failed("TargetBerthEnded", f"The pod {pod.name} ended{said}. {world.machine.name} stays where it is.")
    if pod is not None and (unlike := migration.unlike(world, move)) is not None:
        return _failed(unlike.reason, f"Node {pod.node} {unlike.message}. {world.machine.name} stays where it is.")
    if _too_old(berths.agent_of(world, pod), world):
        node = pod.node if pod is not None else None
        return _failed("AgentTooOld", f"The agent of node {node} cannot take machines in. Next: upgrade the agents.")
    for side, report in (("source", world.report), ("target", berths.report_of(world, pod))):
        said_of = report.migration if report is not None else None
        if said_of is not None and said_of.uid == move.uid and said_of.state is MigrationState.FAILED:
            text = said_of.message or "no more is known"
            return _failed(said_of.reason or "TransferFailed", f"The {side} gave up: {text}. It stays where it is.")
    found, target = migration.cause(world), move.spec.target if move.spec is not None else None
    if found is not None and pod is not None and pod.node is None and target is not None and target.node_name:
        return _failed(found.reason, found.message)  # no other node will do: why wait
    return None


def _progress(world: World, move: Move, others: list[Move], limits: Limits) -> Word:
    pod, found = world.incoming, migration.cause(world)
    if pod is None or pod.node is None:
        to = incoming.selects(move)
        return Word(Phase.SCHEDULING, *(_of(found) or ("Scheduling", f"The scheduler looks for {to}.")))
    said = _said(world, move)
    if move.sending:
        last = said is not None and said.state in (MigrationState.RECEIVED, MigrationState.ARRIVED)
        return Word(Phase.HANDING_OVER if last else Phase.RUNNING, "HandingOver" if last else "Sending")
    if said is None or said.state is not MigrationState.LISTENING:
        return Word(
            Phase.PREPARING,
            *(_of(found) or _door(world) or _trouble(world) or ("Preparing", f"Node {pod.node} gets ready.")),
        )
    busy = nodes(other for other in others if other.uid != move.uid and other.sending)
    if busy[pod.node] >= limits.per_node:
        text = f"{busy[pod.node]} machines move from or to node {pod.node} now, and {limits.per_node} may at a time."
        return Word(Phase.PREPARING, "WaitsForTurn", text)
    return Word(Phase.RUNNING, "Sending")


def _of(found: object) -> tuple[str, str] | None:
    reason, message = getattr(found, "reason", ""), getattr(found, "message", "")
    return (reason, message) if reason else None


def _said(world: World, move: Move) -> MigrationReport | None:
    """The target's word on this very move."""
    report = berths.report_of(world, world.incoming)
    said = report.migration if report is not None else None
    return said if said is not None and said.uid == move.uid else None


def _door(world: World) -> tuple[str, str] | None:
    """The node led connections to it until now, and has to be rid of them before it takes the guest in."""
    door = doors.in_the_way(world)
    if door is None:
        return None
    count = doors.connections(world, door)
    through = f" ({count})" if count is not None else ""
    message = f"Node {door.node} still leads connections{through} through {door.name}, which has to be gone before."
    return "DoorOpen", f"{message} Next: wait until they end, delete that pod, or name another node."


def _trouble(world: World) -> tuple[str, str] | None:
    """What the target's node lacks."""
    pod, agent = world.incoming, berths.agent_of(world, world.incoming)
    if pod is None or pod.node is None:
        return None
    if agent is None or not agent.connected:
        return "AgentDown", f"The agent of node {pod.node} does not answer. Next: see the berth-agent pod there."
    if agent.refusal is not None:
        return agent.refusal.reason, f"The agent of node {pod.node} refuses: {agent.refusal.message}."
    report = berths.report_of(world, pod)
    wrong = next((c for c in report.conditions if c.status == "False"), None) if report is not None else None
    return (wrong.reason, f"Node {pod.node}: {wrong.message}") if wrong is not None else None


MOVES: Final[tuple[tuple[Phase, Phase, str], ...]] = (
    (Phase.PENDING, Phase.SCHEDULING, "its turn has come"),
    (Phase.PENDING, Phase.FAILED, "it can never become of it"),
    (Phase.PENDING, Phase.CANCELLED, "cancel"),
    (Phase.SCHEDULING, Phase.PREPARING, "the scheduler has a node for its berth"),
    (Phase.SCHEDULING, Phase.FAILED, "deadline"),
    (Phase.SCHEDULING, Phase.CANCELLED, "cancel"),
    (Phase.PREPARING, Phase.RUNNING, "the node waits for the guest's memory"),
    (Phase.PREPARING, Phase.FAILED, "deadline, or the other node gave up"),
    (Phase.PREPARING, Phase.CANCELLED, "cancel"),
    (Phase.RUNNING, Phase.HANDING_OVER, "all memory is over there"),
    (Phase.RUNNING, Phase.FAILED, "deadline, or a side gave up"),
    (Phase.RUNNING, Phase.CANCELLED, "cancel"),
    (Phase.HANDING_OVER, Phase.SUCCEEDED, "it runs there"),
    (Phase.HANDING_OVER, Phase.FAILED, "a side gave up before the source let go"),
    (Phase.HANDING_OVER, Phase.CANCELLED, "cancel, before the source let go"),
)
"""The steps that a user can see. A controller that looks seldom sees several at once."""


def diagram() -> str:
    """A Migration's phases as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> Pending: created"]
    return "\n".join(lines + [f"    {old} --> {new}: {why}" for old, new, why in MOVES]) + "\n"
