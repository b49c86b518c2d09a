"""The base of every model and the marks on its fields. Read by crd.py, the planner, ``pendingChanges`` and the docs.

A spec field carries exactly one mark that says what a change does while the guest runs:

    count: Annotated[int, NextBoot] = Field(1, description="…")
"""

from __future__ import annotations

import enum
from typing import Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

GROUP: Final = "berth.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"


class Change(enum.Enum):
    """What happens when a field changes while the guest runs."""

    LIVE = "Live"  # carried out on the running guest
    NEXT_BOOT = "NextBoot"  # kept in pendingChanges until the guest is started anew
    FIXED = "Fixed"  # refused by the API server: make a new VirtualMachine


Live: Final = Change.LIVE
NextBoot: Final = Change.NEXT_BOOT
Fixed: Final = Change.FIXED


class Model(BaseModel):
    """Strict about names (an unknown field is an error), camelCase on the wire, frozen in memory."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, use_enum_values=False
    )


class Lenient(Model):
    """For what another version of Berth may have written: unknown fields are dropped, not refused."""

    model_config = ConfigDict(extra="ignore")
