"""What the controller can ask of the world, as Protocols: the Kubernetes API and the nodes' agents.

Each has a real implementation (cluster.py; controller/agents.py) and one in memory (memory_cluster.py) for tests.
Objects are JSON. Errors are those of berth.errors and the three below; a method that finds its work done succeeds.
"""

from __future__ import annotations

from typing import Any, Protocol

from berth.api.order import Order, SegmentMembers
from berth.errors import Refused
from berth.plan.moves import Move
from berth.plan.segment import Segment
from berth.plan.snaps import Snap
from berth.plan.tell import Tell
from berth.plan.world import Machine, Object, PodEvent


class ApiRefused(Refused):
    """The API server said no. ``code`` is HTTP's."""

    reason = "ApiRefused"

    def __init__(self, code: int, message: str, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.code = code


class NotFound(ApiRefused):
    """The object is not there (any more)."""

    reason = "NotFound"


class Conflict(ApiRefused):
    """Somebody changed it meanwhile, or the name is taken."""

    reason = "Conflict"


class ClusterPort(Protocol):
    """The Kubernetes API, as far as machines need it. Unavailable when it does not answer."""

    async def set_finalizers(self, machine: Machine, finalizers: list[str], version: str) -> Object:
        """Replace the machine's finalizers; Conflict when it is no longer at that resourceVersion."""
        ...

    async def write_status(self, machine: Machine, patch: Object, version: str | None = None) -> Object:
        """Merge into the status; NotFound when the machine went, Conflict when it is no longer at that version."""
        ...

    async def create_pod(self, manifest: Object) -> Object:
        """Conflict when a pod of that name is there."""
        ...

    async def pod(self, namespace: str, name: str) -> Object | None: ...

    async def delete_pod(self, namespace: str, name: str, uid: str) -> Object | None:
        """Begin its end, with its own grace period; the pod as it is then, None when it is gone at once."""
        ...

    async def set_here(self, namespace: str, name: str, uid: str, here: bool) -> Object:
        """Open or shut a pod's readiness gate; NotFound when that pod is no more."""
        ...

    async def set_guard(self, namespace: str, name: str, uid: str, guarded: bool) -> Object:
        """Set or take off a pod's label; NotFound when that pod is no more."""
        ...

    async def create_guard(self, manifest: Object) -> None:
        """A PodDisruptionBudget; done when one of that name is there."""
        ...

    async def create_claim(self, manifest: Object) -> Object:
        """A PersistentVolumeClaim; the one that has its name, if there is one."""
        ...

    async def create_migration(self, manifest: Object) -> None:
        """Done when one of that name is there."""
        ...

    async def pod_events(self, namespace: str, name: str, uid: str) -> list[PodEvent]: ...

    async def tell(self, machine: Machine, tell: Tell) -> None:
        """Make an Event about the machine."""
        ...

    async def node(self, name: str) -> Object | None: ...

    async def label_node(self, name: str, labels: dict[str, str]) -> None: ...

    async def machine(self, namespace: str, name: str) -> Object | None:
        """Asked of the API server itself."""
        ...

    async def machine_exists(self, namespace: str, name: str, uid: str) -> bool:
        """Whether that very machine is still there, asked of the API server itself."""
        ...

    async def set_network_finalizers(self, network: Segment, finalizers: list[str]) -> Object:
        """Replace a Network's finalizers; Conflict when it is no longer at the version it was read at."""
        ...

    async def write_network_status(self, network: Segment, patch: Object) -> Object:
        """Merge into a Network's status; Conflict when it is no longer at the version it was read at."""
        ...

    async def write_migration_status(self, move: Move, patch: Object) -> Object:
        """Merge into a Migration's status; Conflict when it is no longer at the version it was read at."""
        ...

    async def remove_migration(self, move: Move) -> None:
        """Delete this very one; nothing to do when it is gone."""
        ...

    async def set_snapshot_metadata(self, snap: Snap, metadata: Object) -> Object:
        """Merge into a Snapshot's metadata; Conflict when it is no longer at the version it was read at."""
        ...

    async def write_snapshot_status(self, snap: Snap, patch: Object) -> Object:
        """Merge into a Snapshot's status; Conflict when it is no longer at the version it was read at."""
        ...

    async def machine_names(self) -> set[tuple[str, str]]:
        """Namespace and name of every machine there is, without their content."""
        ...


class AgentPort(Protocol):
    """The agents of all nodes."""

    def view(self, node: str, uid: str) -> Any:
        """What is known of one machine on one node: plan.world.Agent."""
        ...

    async def send(self, node: str, order: Order, digest: str) -> None:
        """AgentDown when it does not answer, Refused when it says no; both are remembered for ``view``."""
        ...

    def address(self, node: str) -> str:
        """Where the node's other side of a VXLAN is; empty while nothing is known of it."""
        ...

    async def send_members(self, node: str, members: SegmentMembers) -> None:
        """Tell a node who is on an overlay; AgentDown or Refused, as for ``send``."""
        ...

    async def withdraw(self, node: str, uid: str) -> None:
        """Let the agent forget an order whose berth is gone."""
        ...
