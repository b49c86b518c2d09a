"""Whether a machine's last place is clear: whether a guest of it may still run on a node. Called by cluster.py.

"Not observed" is never "gone". A place is clear by positive evidence alone: the node's agent says so, kubelet said that
the berth had ended, or the Node object is gone.
"""

from __future__ import annotations

from berth.api.order import GuestState
from berth.outcome import Wait
from berth.plan.world import World, format_time

_NO_GUEST = frozenset({GuestState.ENDED, GuestState.WAITING, GuestState.FAILED})


def last_node(world: World) -> str | None:
    """The node that the last berth was on: what the pod says, else what the status remembers."""
    pod = world.last_berth
    if pod is not None and pod.node:
        return pod.node
    return world.machine.status.node if world.machine.status else None


def occupied(world: World) -> Wait | None:
    """What to wait for before another berth may be made or the machine may go; None when the place is clear."""
    node, agent, pod = last_node(world), world.agent, world.last_berth
    if node is None or not world.node_exists:
        return None
    if agent is not None and agent.connected:
        if not agent.present or (agent.report is not None and agent.report.state in _NO_GUEST):
            return None
        return Wait("GuestEnding", f"The guest of the last start still runs on node {node}.", 5)
    if pod is not None and (pod.terminal or pod.ended is not None):
        return None
    return Wait("NodeSilent", _silent(world, node), 10)


def _silent(world: World, node: str) -> str:
    return (
        f"The last berth is gone, but the agent of node {node} does not say whether its guest has ended. "
        f"Next: bring the node's agent back, or delete the Node {node} if the machine is gone for good."
    )


def blocker(world: World) -> str:
    """What holds a deletion up, by name."""
    berth = world.berth
    if berth is None:
        wait = occupied(world)
        return wait.message if wait else "Nothing: the finalizer is being removed."
    if overdue(world):
        deadline = berth.deleted or world.now
        return (
            f"The berth pod {berth.name} on node {berth.node} was to be gone by {format_time(deadline)}. "
            f"Next: bring node {berth.node} back, or delete the Node if the machine is gone for good."
        )
    by = f" until {format_time(berth.deleted)} at the latest" if berth.deleted else ""
    return f"The guest in the berth pod {berth.name} is shutting down{by}."


def overdue(world: World) -> bool:
    """Whether a berth ends more slowly than its grace period and a little more allow."""
    berth = world.berth
    return bool(berth and berth.deleted and (world.now - berth.deleted).total_seconds() > 15)
