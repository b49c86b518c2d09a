"""The Snapshot kind: a running machine at one moment, its memory and its disks, kept in its volume for saved states.

It is made, it is taken, it stays until it is deleted. Nothing in its spec can be changed: another moment is another
Snapshot. Going back to one is asked of the machine (REVERT), for it is the machine that loses what came after.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from berth.api.base import GROUP, Fixed, Model, Rule
from berth.api.duration import Deadline
from berth.api.kept import Consistency
from berth.api.kubernetes import ObjectMeta
from berth.api.migration import MachineName
from berth.api.virtualmachine import Condition

KIND: Final = "Snapshot"
PLURAL: Final = "snapshots"
FINALIZER: Final = f"{GROUP}/snapshot"
"""Keeps a Snapshot until its files are gone."""


class SnapshotSpec(Model):
    """What is to be taken."""

    vm: Annotated[MachineName, Fixed] = Field(
        description="The VirtualMachine, in this namespace. It has to run, and to have spec.savedState."
    )
    memory: Annotated[bool, Fixed] = Field(
        True,
        description="Take its memory and devices, too: it can go on from this moment. The guest stands still while they"
        " are written. False: its disks alone, from which it boots.",
    )
    deadline: Annotated[Deadline, Fixed] = Field(
        "30m", description="Given up when it takes longer, from its making; the machine runs on."
    )

    rules: ClassVar[tuple[Rule, ...]] = ()


class SnapshotPhase(enum.StrEnum):
    """How far it is."""

    PENDING = "Pending"  # it waits: for the machine's start, for a move to be over, for another Snapshot
    SAVING = "Saving"  # memory is written, the guest stands still
    COPYING = "Copying"  # the disks are copied as they were at that moment, the guest runs
    READY = "Ready"
    FAILED = "Failed"
    DELETING = "Deleting"  # its files are being removed


class SnapshotDiskStatus(Model):
    """One disk that it holds."""

    name: str = Field(description="Its name in the machine's spec.", max_length=63)
    size: str = Field(description="How large the guest saw it.")
    stored: str = Field(description="What its copy takes in the volume.")


class SnapshotStatus(Model):
    """What Berth has to say. Written by the controller alone."""

    phase: SnapshotPhase = Field(SnapshotPhase.PENDING, description="How far it is, in one word.")
    reason: str = Field("", description="Why it is so, in one stable CamelCase word.")
    message: str = Field("", description="Why it is so and what to do next, when there is anything to say.")
    observed_generation: int = Field(0, description="The generation of the spec that this status speaks of.")
    percent: int | None = Field(None, description="How much of its disks is copied.")
    taken_at: str | None = Field(
        None, description="The moment that it holds.", json_schema_extra={"format": "date-time"}
    )
    ended_at: str | None = Field(
        None, description="When it was Ready, or had failed.", json_schema_extra={"format": "date-time"}
    )
    size: str = Field("", description="What it takes in the volume.")
    memory_size: str = Field("", description="What memory and devices take of that.")
    disks: list[SnapshotDiskStatus] = Field(default_factory=list, description="The disks it holds.", max_length=64)
    consistency: Consistency | None = Field(
        None,
        description="Memory: the disks fit the memory beside them. Filesystem: the guest's agent held its file systems"
        " still. Crash: the disks are as after a power cut.",
    )
    pause_ms: int | None = Field(None, description="How long the guest stood still for it, as measured.")
    epoch: int = Field(0, description="The machine's start that it was taken of.")
    machine_uid: str = Field("", description="The machine's uid: one made anew under its name has no part in it.")
    machine: str = Field("", description="The spec that the machine ran with, as JSON: memory fits no other hardware.")
    hardware: str = Field("", description="The machine type and the CPU that it ran with, as JSON.")
    conditions: list[Condition] = Field(
        default_factory=list,
        description="Ready: it is in the volume, whole.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Snapshot(Model):
    """A running machine at one moment: its memory and its disks."""

    api_version: Literal["berth.dev/v1alpha1"] = "berth.dev/v1alpha1"
    kind: Literal["Snapshot"] = "Snapshot"
    metadata: ObjectMeta
    spec: SnapshotSpec = Field(description="What you want.")
    status: SnapshotStatus | None = Field(None, description="What Berth has to say.")
