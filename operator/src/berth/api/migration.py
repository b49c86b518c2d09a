"""The Migration kind: one move of one running machine to another node. It is made, it happens, it tells how it went.

Nothing in its spec can be changed but ``cancel``: another move is another Migration.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from berth.api.base import Fixed, Live, Model, Rule, exactly_one
from berth.api.duration import Deadline, Pause
from berth.api.kubernetes import ObjectMeta
from berth.api.quantity import Rate
from berth.api.virtualmachine import Condition

KIND: Final = "Migration"
PLURAL: Final = "migrations"
OWN: Final = {"app.kubernetes.io/managed-by": "berth"}
"""The label of those that a drain or `berth migrate` made: nobody keeps a manifest of them."""
MachineName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]


class Target(Model):
    """Where it is to go; one of both."""

    node_name: Annotated[MachineName | None, Fixed] = Field(None, description="To this node.")
    node_selector: Annotated[dict[str, str] | None, Fixed] = Field(
        None, max_length=64, description="To a node with these labels."
    )

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("nodeName", "nodeSelector"),)


class Priority(enum.StrEnum):
    """Who goes first when not all may go at once."""

    DRAIN = "Drain"
    USER = "User"
    REBALANCE = "Rebalance"


class MigrationSpec(Model):
    """What is to move, where to, and within which limits."""

    vm: Annotated[MachineName, Fixed] = Field(description="The VirtualMachine, in this namespace. It has to run.")
    target: Target | None = Field(None, description="Where to. Default: wherever the scheduler finds the best place.")
    deadline: Annotated[Deadline, Fixed] = Field(
        "30m", description="Given up when it takes longer, from its making; the machine then stays where it is."
    )
    max_downtime: Annotated[Pause, Fixed] = Field(
        "300ms", description="How long the guest may stand still at the hand-over."
    )
    bandwidth: Annotated[Rate | None, Fixed] = Field(
        None, description='Bits in a second that it may use at most, for example "1G". Default: as fast as it goes.'
    )
    priority: Annotated[Priority, Fixed] = Field(
        Priority.USER, description="Who goes first when not all may go at once: Drain, then User, then Rebalance."
    )
    cancel: Annotated[bool, Live] = Field(
        False,
        description="Set to true to give it up: the machine stays where it is. Deleting the Migration does so, too.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(  # oldSelf: the API server checks it at a change only, and here nothing is known of what was
            "target and bandwidth cannot be added or taken away: make a new Migration",
            "has(self.target) == has(oldSelf.target) && has(self.bandwidth) == has(oldSelf.bandwidth)",
            lambda spec: True,
        ),
        Rule(
            "what was cancelled stays cancelled: make a new Migration",
            "!oldSelf.cancel || self.cancel",
            lambda spec: True,
            field="cancel",
        ),
    )


class MigrationPhase(enum.StrEnum):
    """How far it is."""

    PENDING = "Pending"  # it waits for its turn
    SCHEDULING = "Scheduling"  # the target's berth is being made and looks for a node
    PREPARING = "Preparing"  # the target's node is known and gets ready
    RUNNING = "Running"  # memory goes over, the guest runs on
    HANDING_OVER = "HandingOver"  # the last of it: the guest stands still for a moment
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


FINISHED: Final = frozenset({MigrationPhase.SUCCEEDED, MigrationPhase.FAILED, MigrationPhase.CANCELLED})


class PhaseTimes(Model):
    """When one phase was."""

    phase: MigrationPhase = Field(description="Which.")
    started_at: str = Field(description="Since when.", json_schema_extra={"format": "date-time"})
    ended_at: str | None = Field(None, description="Until when.", json_schema_extra={"format": "date-time"})


class MigrationEnd(Model):
    """One end of the move."""

    node: str | None = Field(None, description="The node.")
    berth: str = Field("", description="The pod that holds the machine's place there.")
    epoch: int = Field(0, description="The number that orders to this berth carry.")


class MigrationStatus(Model):
    """What Berth has to say. Written by the controller alone."""

    phase: MigrationPhase = Field(MigrationPhase.PENDING, description="How far it is, in one word.")
    reason: str = Field("", description="Why it is so, in one stable CamelCase word.")
    message: str = Field("", description="Why it is so and what to do next, when there is anything to say.")
    ending: MigrationPhase | None = Field(
        None, description="It is being given up, and will have ended so once the other node is cleared."
    )
    observed_generation: int = Field(0, description="The generation of the spec that this status speaks of.")
    source: MigrationEnd | None = Field(None, description="Where the machine comes from.")
    target: MigrationEnd | None = Field(None, description="Where it goes.")
    method: str = Field("", description="How its disks and its memory are sent, and why so.")
    percent: int | None = Field(None, description="How much of its memory and its copied disks is over there.")
    progress: str = Field("", description="The same for people.")
    total_bytes: int | None = Field(None, description="Bytes of memory it has, and of disks that are copied.")
    remaining_bytes: int | None = Field(None, description="Bytes that are still to be sent.")
    bytes_per_second: int | None = Field(None, description="How fast it goes.")
    dirty_bytes_per_second: int | None = Field(None, description="How fast the guest changes what was sent already.")
    eta_seconds: int | None = Field(None, description="In how many seconds it will be over, as it looks now.")
    pause_ms: int | None = Field(None, description="How long the guest stood still at the hand-over, as measured.")
    started_at: str | None = Field(None, description="When its turn came.", json_schema_extra={"format": "date-time"})
    ended_at: str | None = Field(None, description="When it was over.", json_schema_extra={"format": "date-time"})
    phases: list[PhaseTimes] = Field(default_factory=list, description="Every phase it was in.", max_length=16)
    conditions: list[Condition] = Field(
        default_factory=list,
        description="TargetReady: the other node waits for the guest. Succeeded: it runs there.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Migration(Model):
    """One move of a running machine to another node."""

    api_version: Literal["berth.dev/v1alpha1"] = "berth.dev/v1alpha1"
    kind: Literal["Migration"] = "Migration"
    metadata: ObjectMeta
    spec: MigrationSpec = Field(description="What you want.")
    status: MigrationStatus | None = Field(None, description="What Berth has to say.")
