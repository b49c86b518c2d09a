"""Where a machine's states and snapshots are kept, and what its next start begins with: a part of the VirtualMachine's
spec and status.

A module of its own beside virtualmachine.py, which is long. What is kept there, effects/states.py knows.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

from pydantic import Field

from berth.api.base import Model, NextBoot, Rule, exactly_one
from berth.api.devices import SecretName
from berth.api.quantity import Quantity


class ClaimAccess(enum.StrEnum):
    """Kubernetes' access modes of a claim that can be written."""

    ONCE = "ReadWriteOnce"
    MANY = "ReadWriteMany"
    ONCE_POD = "ReadWriteOncePod"


class ClaimName(Model):
    """A PersistentVolumeClaim with a file system, made by you: it stays when the machine goes."""

    claim_name: Annotated[SecretName, NextBoot] = Field(
        description="The claim, in the machine's namespace. Machines may share one: each has a folder of its own in it."
    )


class OwnClaim(Model):
    """A PersistentVolumeClaim that Berth makes before the first start, and that goes with the machine."""

    size: Annotated[Quantity | None, NextBoot] = Field(
        None,
        description="Its size. Default: the machine's memory and a quarter more, at least 256 MiB more, and the sizes"
        " of its disks that are files of the node. Snapshots need more.",
    )
    storage_class_name: Annotated[str | None, NextBoot] = Field(
        None,
        max_length=253,
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="Its StorageClass. Default: the cluster's.",
    )
    access_mode: Annotated[ClaimAccess, NextBoot] = Field(
        ClaimAccess.ONCE,
        description="How it may be mounted. A machine that is to migrate as well needs ReadWriteMany.",
    )


class SavedState(Model):
    """The volume that a suspended machine's state and its snapshots are written to; it is mounted from the start."""

    pvc: ClaimName | None = Field(None, description="A PersistentVolumeClaim of yours.")
    claim: OwnClaim | None = Field(None, description="A claim that Berth makes for this machine alone.")

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("pvc", "claim"),)


class SavedStateStatus(Model):
    """A state that the machine's next start restores."""

    epoch: int = Field(description="The start whose memory and devices it holds.")
    at: str = Field(description="When it was saved.", json_schema_extra={"format": "date-time"})
    machine: str = Field("", description="The spec that it ran with, as JSON: its hardware fits no other.")
    hardware: str = Field("", description="The machine type and the CPU that it ran with, as JSON.")
    sure: bool = Field(
        True,
        description="False: the berth went while the state was being saved, and nobody could tell whether it is"
        " complete. The next start restores it if so, and boots if not.",
    )


class RevertStatus(Model):
    """The last request to go back to a Snapshot: the annotation berth.dev/revert, once it was accepted."""

    request: str = Field(description="The annotation's words: a Snapshot's name, and after an @ anything.")
    snapshot: str = Field(description="The Snapshot's uid.")
    name: str = Field(description="The Snapshot's name.")
    memory: bool = Field(True, description="Whether the machine goes on from there, or boots from its disks.")
    done: bool = Field(False, description="Whether the machine has run from it.")
    machine: str = Field("", description="The spec that the machine had then, as JSON, until it is done.")
    hardware: str = Field("", description="The machine type and the CPU to restore with, as JSON, until it is done.")
