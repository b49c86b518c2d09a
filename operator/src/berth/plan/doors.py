"""Berths that a machine has left: where their pod IPs lead to, and when one is closed. Called by cluster.py and
migration.py. Pure.

A door is the berth's pod: it stays until nothing has gone through it for a while, until its time is over, or until its
machine has no guest that it could lead to. A berth that its node knows nothing of is no door, and goes at once.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from berth.api.handover import DoorOrder, Forward
from berth.api.migration import Priority
from berth.api.order import GuestState
from berth.plan import berths
from berth.plan.world import Pod, World

IDLE: Final = timedelta(seconds=10)
"""So long nothing has to go through a door before it is closed."""
GRACE: Final = timedelta(seconds=30)
"""So long the node of a berth that was just left has to say that it is a door."""


def door(pod: Pod) -> DoorOrder:
    return DoorOrder(number=number(pod.epoch), node=pod.node or "", pod_uid=pod.uid, addresses=addresses(pod))


def number(epoch: int) -> int:
    """1 to 255; two alike are 255 moves apart, and doors do not stay for so long."""
    return (epoch - 1) % 255 + 1


def addresses(pod: Pod) -> tuple[str, ...]:
    return pod.ips or ((pod.ip,) if pod.ip else ())


def leading_to(world: World, pod: Pod) -> tuple[DoorOrder, ...]:
    """The doors of the guest in ``pod``: those it has left, in that order. For an incoming berth, the one that it is
    about to leave is the last. One on the same node is none: it goes before the guest comes back."""
    left = [each for each in world.former if each.node != pod.node]
    if pod is world.incoming and world.berth is not None:
        left.append(world.berth)
    numbers = {number(each.epoch): each for each in left if each.node and addresses(each) and not each.terminal}
    return tuple(door(each) for each in numbers.values())


def forward(world: World, pod: Pod, to: Pod) -> Forward:
    """Where the pod IP of one that was left leads to."""
    rest = [each for each in (world.berth, world.incoming, *world.former) if each is not None and each not in (pod, to)]
    others = tuple(address for each in rest for address in addresses(each))
    return Forward(door=door(pod), node=to.node or "", addresses=addresses(to), others=others)


def connections(world: World, pod: Pod) -> int | None:
    """How many still go through; None while nobody says so."""
    agent = berths.agent_of(world, pod)
    report = berths.report_of(world, pod) if agent is not None and agent.connected else None
    return report.connections if report is not None and report.state is GuestState.MOVED else None


def in_the_way(world: World) -> Pod | None:
    """A door on the node that the guest is about to come back to: an agent has one berth of a machine at a time."""
    pod = world.incoming
    return next((each for each in world.former if pod is not None and pod.node and each.node == pod.node), None)


def why_close(world: World, pod: Pod) -> str:
    """Why a berth that was left is deleted; empty as long as it stays."""
    if pod.deleted is not None:
        return ""
    if pod.terminal:
        return "its guest moved away, and it has ended"
    here = world.berth
    if here is None or here.terminal:
        return "its guest is no more"
    if pod.epoch >= here.epoch:
        return "a controller that was behind made it"
    if in_the_way(world) is pod and (connections(world, pod) == 0 or _is_drained(world)):
        return "its guest comes back to this node"
    idle = world.idle_doors.get(pod.uid)
    if idle is not None and world.now - idle >= IDLE:
        return f"nothing has gone through it for {IDLE.seconds} s"
    since = left_at(world, pod)
    if since is not None and world.now - since >= timedelta(seconds=world.cluster.door_seconds):
        return f"its guest moved away more than {world.cluster.door_seconds} s ago"
    if since is not None and world.now - since >= GRACE and _is_none(world, pod):
        return "its node knows of no guest that moved away from it"
    return ""


def closes_at(world: World, pod: Pod) -> list[datetime]:
    """When time alone may close it."""
    idle, since = world.idle_doors.get(pod.uid), left_at(world, pod)
    found = [idle + IDLE] if idle is not None else []
    return found + ([since + GRACE, since + timedelta(seconds=world.cluster.door_seconds)] if since is not None else [])


def left_at(world: World, pod: Pod) -> datetime | None:
    """Not before then: when the next berth was made."""
    rest = [each for each in (*world.former, world.berth) if each is not None and each.epoch > pod.epoch]
    following = min(rest, key=lambda each: each.epoch, default=None)
    return following.created if following is not None else None


def _is_drained(world: World) -> bool:
    """Whether the move is a drain's: whoever empties a node does not wait for old connections."""
    spec = world.move.spec if world.move is not None else None
    return spec is not None and spec.priority is Priority.DRAIN


def _is_none(world: World, pod: Pod) -> bool:
    """Its node's agent is there, and says nothing of this berth."""
    agent = berths.agent_of(world, pod)
    if agent is None or not agent.connected:
        return False
    return connections(world, pod) is None and (berths.report_of(world, pod) is None or not agent.present)
