"""One machine's move to another node, as seen in the cluster: what is done to its pods, and what its nodes are told.

Called by cluster.py, which adds these steps to the machine's own. ``world.move`` is the Migration that is under way;
how far it is, moving_on.py says. The guest's own hand-over is the agents' matter (handover.py): here is only said who
may. Nothing here destroys the other node's copy unless the source positively has not let go, and does not any more.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from berth.api.duration import to_ms
from berth.api.handover import Incoming, MigrationState, Outgoing, Peer
from berth.api.order import GuestState, Order
from berth.api.quantity import to_bytes
from berth.plan import berths, compatible, diagnose, doors, history, incoming, networks, orders
from berth.plan.acts import CreateIncoming, DeleteBerth, SendOrder, SetHere, Step
from berth.plan.compatible import Trouble
from berth.plan.diagnose import Cause
from berth.plan.moves import Move
from berth.plan.place import occupied
from berth.plan.times import format_time
from berth.plan.world import Agent, Pod, World

POLL: Final = 3.0
_NO_GUEST: Final = frozenset({GuestState.WAITING, GuestState.PREPARING, GuestState.FAILED, GuestState.ENDED})
_NOT_SENT: Final = (MigrationState.FAILED, MigrationState.SURVEYED)
_HERE: Final = frozenset({GuestState.RUNNING, GuestState.PAUSED})


def goes_on(world: World) -> bool:
    """Whether the move is to be carried on: it is wanted, and there is a guest to move."""
    move, berth = world.move, world.berth
    if move is None or not move.underway or move.ending is not None or move.spec is None or move.deleted:
        return False
    if berth is None or berth.terminal or berth.deleted is not None or berth.migration == move.uid:
        return False
    return not move.spec.cancel and not history.asked(world)


def steps(world: World) -> tuple[Step, ...]:
    """For the berths beside the one that the machine is in."""
    return (*_incoming(world), *_gates(world), *_doors(world))


def _incoming(world: World) -> tuple[Step, ...]:
    pod, move = world.incoming, world.move
    if pod is None:
        return _create(world, move) if move is not None and goes_on(world) and not _was_there(move) else ()
    if pod.deleted is not None:
        return ()
    if move is not None and goes_on(world) and pod.migration == move.uid and not pod.terminal:
        if unlike(world, move) is not None:
            return ()  # it is being given up
        return _tell(world, pod, target_order(world, pod), f"Migration {move.name}: epoch {pod.epoch}")
    if not may_drop(world):
        return ()
    return (DeleteBerth(pod.name, pod.uid, "its Migration is over" if move is None else f"Migration {move.name} is"),)


def unlike(world: World, move: Move) -> Trouble | None:
    """Why the incoming berth's node cannot take the guest, as long as nothing was sent there."""
    pod = world.incoming
    if pod is None or pod.node is None or move.sending:
        return None
    return compatible.move_troubles(world).get(pod.node)


def _was_there(move: Move) -> bool:
    """Its berth was there once: it is not made a second time."""
    return move.status is not None and move.status.target is not None and bool(move.status.target.berth)


def _create(world: World, move: Move) -> tuple[Step, ...]:
    berth = world.berth
    if berth is None or networks.check(world)[0]:
        return ()
    manifest = incoming.pod(world, move, berth)
    if manifest is None:
        return ()
    return (CreateIncoming(manifest, f"Migration {move.name} to {incoming.selects(move)}"),)


def may_drop(world: World) -> bool:
    """Whether the copy in the incoming berth, if any, is certainly not the one that runs, and will not be."""
    pod, berth = world.incoming, world.berth
    if pod is None or pod.node is None or pod.terminal:
        return True
    if berth is None or berth.terminal:
        there, said = berths.agent_of(world, pod), berths.report_of(world, pod)
        heard = there is not None and there.connected and (said is None or said.state not in _HERE)
        return occupied(world) is None and heard
    agent, order = world.agent, source_order(world, berth, sends=False)
    if agent is None or not agent.connected or order is None or agent.sent != orders.digest(order):
        return False
    said = world.report
    told = said.migration if said is not None else None
    return told is None or told.uid != pod.migration or told.state in _NOT_SENT


def sends(world: World) -> bool:
    """Whether the source is told to send: the Migration says so already, for a controller that comes after us."""
    move, pod = world.move, world.incoming
    if move is None or not move.sending or not goes_on(world) or pod is None or pod.migration != move.uid:
        return False
    reachable = bool(doors.addresses(pod))  # the agent there may be ready before kubelet has told the pod's address
    return reachable and pod.deleted is None and not pod.terminal


def source_order(world: World, berth: Pod, *, sends: bool) -> Order | None:
    """The order for the berth that the machine is in, which may be one that it is still coming to."""
    order = _base(world, berth)
    if order is None:
        return None
    parts: dict[str, object] = {"doors": doors.leading_to(world, berth)}
    if _comes(world, berth):
        parts["incoming"] = _from(world, berth)
    pod, move = world.incoming, world.move
    if sends and pod is not None and move is not None:
        order = _unsaved(order)
        parts |= {"outgoing": _to(world, move, pod), "forward": doors.forward(world, berth, pod)}
    if order is None:
        return None
    if pod is not None and move is not None and pod.node is not None and _is_surveyed(world, berth, pod, move):
        parts["leaving"] = _to(world, move, pod)
    return order.model_copy(update=parts)


def _unsaved(order: Order | None) -> Order | None:
    """A guest that is on its way is saved when it has arrived, or stays."""
    if order is None or order.state is None:
        return order
    return order.model_copy(update={"state": order.state.model_copy(update={"save": False})})


def _is_surveyed(world: World, berth: Pod, pod: Pod, move: Move) -> bool:
    """From the moment that it is known where to until it is over: what was found out stays said."""
    there = berths.agent_of(world, pod)
    known = there is not None and there.connected and pod.migration == move.uid and pod.deleted is None
    return known and not pod.terminal and goes_on(world) and not _comes(world, berth)


def _comes(world: World, berth: Pod) -> bool:
    """Whether the guest is still on its way here, or its arrival is still to be told: the pause is in that word."""
    move = world.move
    return berths.arriving(world) or (move is not None and not move.finished and move.uid == berth.migration)


def target_order(world: World, pod: Pod) -> Order | None:
    order = _unsaved(_base(world, pod))
    if order is None:
        return None
    parts = {"incoming": _from(world, pod), "doors": doors.leading_to(world, pod)}
    return order.model_copy(update=parts)


def _base(world: World, pod: Pod) -> Order | None:
    return orders.order(world.machine, pod, world.cluster, world.networks)


def _from(world: World, pod: Pod) -> Incoming:
    node, epoch = pod.came_from
    source = _peer(node, world.agents.get(node))
    return Incoming(migration=pod.migration, source=source, epoch=epoch, released=_released(world, pod))


def _released(world: World, pod: Pod) -> bool:
    """Whether a target that cannot ask its source is to be told the answer: that the machine's status names its berth
    is the proof, for it is written after the source has said that its own copy is dead."""
    said = berths.report_of(world, pod)
    return pod is world.berth and said is not None and said.migration is not None and said.migration.alone


def _to(world: World, move: Move, pod: Pod) -> Outgoing:
    assert move.spec is not None  # the caller looked
    return Outgoing(
        migration=move.uid,
        target=_peer(pod.node or "", berths.agent_of(world, pod)),
        epoch=pod.epoch,
        bytes_per_second=to_bytes(move.spec.bandwidth) // 8 if move.spec.bandwidth else None,
        downtime_ms=to_ms(move.spec.max_downtime),
        deadline=format_time(move.deadline) if move.deadline else None,
    )


def _peer(node: str, agent: Agent | None) -> Peer:
    port = agent.facts.peer_port if agent is not None and agent.facts is not None else 0
    return Peer(node=node, address=agent.address if agent is not None else "", port=port)


def _tell(world: World, pod: Pod, order: Order | None, reason: str) -> tuple[Step, ...]:
    agent = berths.agent_of(world, pod)
    if order is None or pod.node is None or agent is None or not agent.connected:
        return ()
    report = berths.report_of(world, pod)
    if report is not None and report.state is GuestState.ENDED:
        return ()
    digest = orders.digest(order)
    return () if agent.sent == digest else (SendOrder(pod.node, order, digest, reason),)


def _gates(world: World) -> tuple[Step, ...]:
    """Services send to the berth that the guest is in, and to no other. One that was left is shut once kubelet calls
    the new one ready: until then it leads there, and without either the Service would refuse connections."""
    found: list[Step] = []
    berth, report = world.berth, world.report
    is_here = report is not None and report.state in _HERE and not berths.arriving(world)
    if is_here and berth is not None and berth.gated and not berth.here and berth.deleted is None:
        found.append(SetHere(berth.name, berth.uid, True, "the guest is here"))
    for pod in world.former:
        if pod.gated and pod.here and not pod.terminal and berth is not None and berth.open:
            found.append(SetHere(pod.name, pod.uid, False, "the guest has moved away"))
    return tuple(found)


def _doors(world: World) -> tuple[Step, ...]:
    found: list[Step] = []
    nodes = {pod.node for pod in (world.berth, world.incoming) if pod is not None}
    for pod in world.former:
        why = doors.why_close(world, pod)
        if why:
            found.append(DeleteBerth(pod.name, pod.uid, why))
        elif pod.deleted is None and pod.node not in nodes and world.berth is not None:
            order = _base(world, pod)
            if order is not None:
                order = order.model_copy(update={"forward": doors.forward(world, pod, world.berth)})
            found += _tell(world, pod, order, f"a door to node {world.berth.node}")
    return tuple(found)


def is_stuck(world: World) -> bool:
    """Whether the incoming berth has a node and does not come up there."""
    pod = world.incoming
    return pod is not None and pod.node is not None and not pod.running and not pod.terminal and pod.deleted is None


def cause(world: World) -> Cause | None:
    """Why the incoming berth cannot be made, scheduled or brought up."""
    pod, spec = world.incoming, world.machine.spec
    if pod is None:
        return diagnose.refused(world.move_refusal) if world.move_refusal is not None else None
    if pod.deleted is not None or pod.terminal:
        return None
    if pod.node is None:
        return diagnose.unscheduled(pod, spec, world.cluster)
    return diagnose.stuck(pod, spec, world.move_events)


def look_again(world: World) -> list[float]:
    """Seconds until time alone can change something."""
    moments: list[datetime] = [at for pod in world.former for at in doors.closes_at(world, pod)]
    if world.move is not None and world.move.deadline is not None:
        moments.append(world.move.deadline + timedelta(milliseconds=100))
    found = [(at - world.now).total_seconds() for at in moments if at > world.now]
    return [*found, POLL] if is_stuck(world) or (world.move is not None and world.incoming is None) else found
