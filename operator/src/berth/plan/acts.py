"""What the controller can do for a machine: a closed union of steps, each with its reason. Planned by cluster.py and
migration.py, carried out by controller/reconcile.py."""

from __future__ import annotations

from dataclasses import dataclass

from berth.api.order import Order
from berth.plan.networks import WriteLeases
from berth.plan.world import Object


@dataclass(frozen=True, slots=True)
class AddFinalizer:
    """Keep the VirtualMachine until its berth is positively gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    reason: str


@dataclass(frozen=True, slots=True)
class CreateBerth:
    manifest: Object
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """The machine's own claim for its saved states, if it is not there."""

    manifest: Object
    reason: str


@dataclass(frozen=True, slots=True)
class CreateIncoming:
    """A place on another node for a guest that runs."""

    manifest: Object
    reason: str


@dataclass(frozen=True, slots=True)
class DeleteBerth:
    """kubelet ends the berth, the berth asks the agent, the agent presses the guest's power button."""

    name: str
    uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class SetHere:
    """Open or shut a pod's readiness gate."""

    name: str
    uid: str
    here: bool
    reason: str


@dataclass(frozen=True, slots=True)
class SetGuard:
    """Guard a pod from eviction, or do so no more: a label that the namespace's budget selects."""

    name: str
    uid: str
    guarded: bool
    reason: str


@dataclass(frozen=True, slots=True)
class CreateGuard:
    """The namespace's PodDisruptionBudget, if it is not there."""

    reason: str


@dataclass(frozen=True, slots=True)
class CreateMigration:
    """Move a machine that nobody asked to be moved."""

    manifest: Object
    reason: str


@dataclass(frozen=True, slots=True)
class SendOrder:
    node: str
    order: Order
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Let an agent forget an order that its berth went before."""

    node: str
    reason: str


Step = (
    WriteLeases
    | Withdraw
    | AddFinalizer
    | RemoveFinalizer
    | CreateClaim
    | CreateBerth
    | CreateIncoming
    | DeleteBerth
    | SetHere
    | SetGuard
    | CreateGuard
    | CreateMigration
    | SendOrder
)
