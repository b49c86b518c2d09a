"""What is to be done for one machine in the cluster: an observed world in, a Plan of steps with reasons out.

Called by controller/reconcile.py, which carries the steps out in their order. Level-based: it never asks what happened,
only how things are, so that a plan that was carried out halfway is simply made again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from berth.api.order import GuestState
from berth.api.virtualmachine import Power
from berth.outcome import Wait
from berth.plan import (
    backoff,
    berthpod,
    compatible,
    evacuation,
    hardware,
    history,
    migration,
    networks,
    orders,
    pending,
    restoring,
    revert_request,
    savedclaim,
    taking,
)
from berth.plan.acts import (
    AddFinalizer,
    CreateBerth,
    CreateClaim,
    DeleteBerth,
    RemoveFinalizer,
    SendOrder,
    Step,
    Withdraw,
)
from berth.plan.conditions import AGENT_GRACE, HYPERVISOR_GRACE
from berth.plan.history import History, StartLater, StartNow, StayEnded, StayOff, StaySuspended, Verdict
from berth.plan.phases import UNKNOWN_AFTER, Life, Place, life, place
from berth.plan.place import occupied
from berth.plan.world import FINALIZER, Agent, Object, Pod, World, frozen_spec

UNSETTLED_POLL: Final = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in their order. ``record``: the status has to be written before any of them, because a controller that
    starts anew after them could not find out again what it says."""

    history: History
    verdict: Verdict
    steps: tuple[Step, ...] = ()
    record: bool = False
    look_again: float | None = None  # seconds; None: only when a bell rings


def plan(world: World) -> Plan:
    past = history.advance(world)
    verdict = history.verdict(world, past)
    steps, record = _steps(world, past, verdict)
    return Plan(past, verdict, steps, record, _look_again(world, past, verdict))


Decision = tuple[tuple[Step, ...], bool]
_NOTHING: Final[Decision] = ((), False)


def _steps(world: World, past: History, verdict: Verdict) -> Decision:
    before = history.stored(world)
    saved = past.saved is not None and past.saved != before.saved
    if past.last_exit != before.last_exit or saved or past.revert != before.revert:
        return (), True
    others = (*migration.steps(world), *evacuation.steps(world))
    own, record = _own_steps(world, past, verdict)
    return (*others, *own), record or _has_moved(world)


def _has_moved(world: World) -> bool:
    """Whether the guest was handed over to another berth, of which the status does not tell yet."""
    berth, status = world.berth, world.machine.status
    return berth is not None and bool(berth.migration) and (status is None or status.epoch < berth.epoch)


def _own_steps(world: World, past: History, verdict: Verdict) -> Decision:
    """For the berth that the machine is in."""
    berth = world.berth
    if berth is None:
        return _without_berth(world, past, verdict), False
    if berth.terminal:
        return _with_ended_berth(world, berth, verdict), False
    if berth.deleted is not None:
        return _NOTHING
    reason = _why_end(world, berth, verdict)
    if reason:
        return (DeleteBerth(berth.name, berth.uid, reason),), past.ending != history.stored(world).ending
    if not berth.hardware and not world.cluster.settled and life(world) is Life.UNSEEN:
        return _NOTHING  # made before any node was known: it is about to be made anew, or is as it has to be
    return _send(world, berth)


def _without_berth(world: World, past: History, verdict: Verdict) -> tuple[Step, ...]:
    machine = world.machine
    if world.incoming is not None or world.former:
        return ()  # they go first: one of them may have the lock's name
    stale = _stale_order(world)
    if stale is not None:
        return (stale,)
    returned = tuple(networks.unneeded(world)) if occupied(world) is None else ()
    if machine.deleted is not None:
        free = FINALIZER in machine.finalizers and occupied(world) is None
        return (*returned, RemoveFinalizer("its berth is gone")) if free else ()
    if returned:
        return returned
    if not isinstance(verdict, StartNow) or machine.spec is None or occupied(world) is not None:
        return ()
    epoch = max(past.epoch, world.agent.report.epoch if world.agent and world.agent.report else 0) + 1
    leases, troubles = networks.check(world)
    if troubles or not world.cluster.settled:
        return ()
    made = replace(machine, spec=restoring.spec(machine))
    create = CreateBerth(_berth(replace(world, machine=made), epoch), epoch, verdict.message)
    own = savedclaim.manifest(made)
    claim = (CreateClaim(own, "its berth mounts it"),) if own is not None else ()
    if FINALIZER in machine.finalizers:
        return (*leases, *claim, create)
    return AddFinalizer("it gets a berth"), *leases, *claim, create


def _berth(world: World, epoch: int) -> Object:
    """With the hardware that all nodes can give, or those that can give what was asked for."""
    machine, cluster = world.machine, world.cluster
    assert machine.spec is not None  # the caller looked
    kept = machine.status.machine_type if machine.status is not None else None
    saved = hardware.from_text(restoring.hardware(machine))
    found = saved if saved is not None else hardware.resolve(machine.spec, cluster, kept)
    unlike = compatible.start_troubles(found, cluster.emulation, cluster)
    return berthpod.berth_pod(machine, epoch, cluster, found, unlike)


def _stale_order(world: World) -> Withdraw | None:
    """An agent that still waits for a berth that has gone."""
    agent = world.agent
    waits = agent is not None and agent.report is not None and agent.report.state is GuestState.WAITING
    if agent is None or not agent.connected or not agent.present or not waits:
        return None
    return Withdraw(agent.node, "the berth that this order was for is gone")


def _with_ended_berth(world: World, berth: Pod, verdict: Verdict) -> tuple[Step, ...]:
    """An ended berth is kept, for its log, until the machine is started again, switched off or deleted."""
    if berth.deleted is not None or isinstance(verdict, StayEnded | StartLater):
        return ()
    if isinstance(verdict, StartNow) and occupied(world) is not None:
        return ()
    why = "its state is saved" if isinstance(verdict, StaySuspended) else "its guest has ended"
    return (DeleteBerth(berth.name, berth.uid, why),)


def _why_end(world: World, berth: Pod, verdict: Verdict) -> str:
    """Why a living berth has to end; empty when it has not."""
    if world.machine.deleted is not None:
        return "the machine is being deleted"
    if world.wanted is Power.OFF:
        return "spec.power is Off"
    if world.wanted is Power.SUSPENDED and place(berth) is Place.WAITING:
        return "spec.power is Suspended, and its guest has not run yet"  # else its node knows better, and is asked
    if history.restart_wanted(world, berth):
        return "a restart was asked for"
    revert = revert_request.wanted(world.machine, berth)
    if revert is not None:
        return f"a revert to Snapshot {revert.name} was asked for"
    if life(world) is Life.MOVED and world.incoming is None:
        return "the berth that its guest was handed over to is gone"
    if not berth.migration and _never_started(world, berth):
        return _outdated(world, berth)
    return ""


def _never_started(world: World, berth: Pod) -> bool:
    """Positively: no guest runs in this berth, so that nothing is lost by making it anew."""
    where, agent = place(berth), world.agent
    if where is Place.WAITING:
        return True
    heard = agent is not None and agent.connected
    return where in (Place.BOUND, Place.UP) and heard and life(world) in (Life.UNSEEN, Life.COMING, Life.FAILED)


def _outdated(world: World, berth: Pod) -> str:
    """Why a berth whose guest has never run is replaced: what it was made from is no longer wanted."""
    frozen, spec = frozen_spec(berth), restoring.spec(world.machine)
    if frozen is None:
        return "its annotation berth.dev/machine was spoiled"
    if spec is None:
        return ""
    changed = pending.pending_changes(frozen, spec)
    if changed:
        return f"{', '.join(changed)} changed before the guest ran"
    unfit = compatible.start_trouble(berth, world.cluster) if berth.node is not None else None
    if unfit is not None:
        return f"node {berth.node} {unfit.message}"
    if not berth.hardware and world.cluster.settled and hardware.resolve(spec, world.cluster) is not None:
        return "what the nodes are was not known when it was made"
    if berth.emulation != world.cluster.emulation and not berth.running:
        return f"the cluster's emulation is now {world.cluster.emulation}"
    if berth.image != world.cluster.berth_image and not berth.running:
        return "the berth's image changed"
    return ""


def _send(world: World, berth: Pod) -> Decision:
    agent = world.agent
    if berth.node is None or agent is None or not agent.connected or _has_ended(agent, berth):
        return _NOTHING
    leases, _ = networks.check(world)
    if leases:
        return tuple(leases), False
    order = migration.source_order(world, berth, sends=migration.sends(world))
    if order is None or restoring.too_old_for(agent, order):
        return _NOTHING
    order = taking.ordered(world, order)
    digest = orders.digest(order)
    if agent.sent == digest:
        return (() if _unplugs(agent) else tuple(networks.unneeded(world))), False
    status = world.machine.status
    known = status is not None and status.node == berth.node and status.epoch == berth.epoch
    why = (
        f"start {berth.epoch}, {order.power}" if order.outgoing is None else f"send it to {order.outgoing.target.node}"
    )
    return (SendOrder(berth.node, order, digest, why),), not known


def _unplugs(agent: Agent) -> bool:
    """Whether the guest still has an interface that it is to give up: its addresses are not given to others yet."""
    return any(c.reason == "UnplugPending" for c in (agent.report.conditions if agent.report else ()))


def _has_ended(agent: Agent, berth: Pod) -> bool:
    """Whether the agent has told how this berth's guest ended: an answer to an order would take that word's place."""
    report = agent.report
    return report is not None and report.pod_uid == berth.uid and report.state is GuestState.ENDED


def _look_again(world: World, past: History, verdict: Verdict) -> float | None:
    """Seconds until time alone can change the outcome."""
    moments = [m for m in _moments(world, past, verdict) if m > world.now]
    seconds = [(m - world.now).total_seconds() for m in moments] + migration.look_again(world)
    if _is_stuck(world):
        seconds.append(_poll(world))
    if _waits_for_nodes(world, verdict):
        seconds.append(UNSETTLED_POLL)
    waiting = _waiting(world, verdict)
    if waiting is not None:
        seconds.append(waiting.seconds)
    return min(seconds, default=None)


def _moments(world: World, past: History, verdict: Verdict) -> list[datetime]:
    found = [snap.deadline for snap in world.snapshots if snap.deadline is not None and not snap.finished]
    berth, agent = world.berth, world.agent
    if isinstance(verdict, StartLater):
        found.append(verdict.at)
    if berth is not None and berth.deleted is not None:
        found.append(berth.deleted + timedelta(seconds=16))
    if berth is not None and past.restarts and past.started_at is not None:
        found.append(past.started_at + backoff.QUIET)
    if berth is not None and not berth.terminal and agent is not None:
        if agent.silent_since is not None:
            found += [agent.silent_since + AGENT_GRACE, agent.silent_since + UNKNOWN_AFTER]
        if agent.hypervisor_down_since is not None:
            found.append(agent.hypervisor_down_since + HYPERVISOR_GRACE)
    return found


def _waits_for_nodes(world: World, verdict: Verdict) -> bool:
    """Whether its start waits for what agents that were found just now will tell."""
    berth = world.berth
    if world.cluster.settled or not isinstance(verdict, StartNow):
        return False
    return berth is None or (not berth.hardware and life(world) is Life.UNSEEN)


def _is_stuck(world: World) -> bool:
    return place(world.berth) is Place.BOUND


def needs_events(world: World) -> bool:
    """Whether the berth takes so long to come up that its Events have to be read."""
    created = world.berth.created if world.berth else None
    return _is_stuck(world) and created is not None and (world.now - created).total_seconds() >= 2


def _poll(world: World) -> float:
    """How soon the Events of a berth that does not come up are read: every 3 s at first, later every minute."""
    created = world.berth.created if world.berth else None
    age = (world.now - created).total_seconds() if created else 0.0
    return 2.0 if age < 3 else 3.0 if age < 30 else 15.0 if age < 300 else 60.0


def _waiting(world: World, verdict: Verdict) -> Wait | None:
    """A place that is not clear is looked at again: its node may have been deleted."""
    if world.berth is not None and not world.berth.terminal:
        return None
    if isinstance(verdict, StartNow) or world.machine.deleted is not None:
        return occupied(world)
    return occupied(world) if isinstance(verdict, StayOff | StaySuspended) else None
