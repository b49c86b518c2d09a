"""The base of every model and the marks on its fields. Read by crd.py, the planner, ``pendingChanges`` and the docs.

A spec field carries exactly one mark that says what a change does while the guest runs:

    count: Annotated[int, NextBoot] = Field(1, description="…")
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel, to_snake
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

GROUP: Final = "berth.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
RULE_ERROR: Final = "rule"
"""pydantic's error type for a broken Rule; its context holds every broken one as (field, message)."""


class Change(enum.Enum):
    """What happens when a field changes while the guest runs."""

    LIVE = "Live"  # carried out on the running guest
    NEXT_BOOT = "NextBoot"  # kept in pendingChanges until the guest is started anew
    FIXED = "Fixed"  # refused by the API server: make a new VirtualMachine


Live: Final = Change.LIVE
NextBoot: Final = Change.NEXT_BOOT
Fixed: Final = Change.FIXED


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over several fields, said once: the API server checks ``cel``, pydantic ``holds``.

    Both say ``message`` and, where the rule is about more than one value, what was given: ``given_cel`` and ``given``.
    """

    message: str
    cel: str
    holds: Callable[[Any], bool]
    field: str = ""  # the field (camelCase) that the message is about; empty: the object itself
    given_cel: str = ""
    given: Callable[[Any], str] | None = None

    def said_of(self, value: Any) -> str:
        return f"{self.message} (given:{self.given(value)})" if self.given else self.message


class Model(BaseModel):
    """Strict about names (an unknown field is an error), camelCase on the wire, frozen in memory."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True, use_enum_values=False
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = [(rule.field, rule.said_of(self)) for rule in self.rules if not rule.holds(self)]
        if broken:
            text = "; ".join(said for _, said in broken)
            raise PydanticCustomError(RULE_ERROR, "{text}", {"text": text, "broken": broken})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add what crd.py needs and JSON Schema has no word for: marks, rules, and the defaults made by factories."""
        reference = handler(core)
        schema = handler.resolve_ref_schema(reference)
        for name, field in cls.model_fields.items():
            extra = _facts(field)
            if extra:
                alias = field.alias or name
                schema["properties"][alias] = {**schema["properties"][alias], **extra}
        if cls.rules:
            schema["x-berth-rules"] = [
                {"cel": r.cel, "message": r.message, "field": r.field, "given": r.given_cel} for r in cls.rules
            ]
        return reference


def exactly_one(*names: str) -> Rule:
    """One of these fields (camelCase) has to be given, and only one."""

    def given(value: Model) -> list[str]:
        return [name for name in names if getattr(value, to_snake(name)) is not None]

    given_cel = " + ".join(f"(has(self.{name}) ? ' {name}' : '')" for name in names)
    none = f"(!({' || '.join(f'has(self.{name})' for name in names)}) ? ' nothing' : '')"
    return Rule(
        f"give exactly one of {', '.join(names)}",
        f"[{', '.join(f'has(self.{name})' for name in names)}].exists_one(given, given)",
        lambda value: len(given(value)) == 1,
        given_cel=f"{given_cel} + {none}",
        given=lambda value: "".join(f" {name}" for name in given(value)) or " nothing",
    )


def change_of(field: FieldInfo) -> Change | None:
    """The mark on a field, when it carries one."""
    return next((mark for mark in field.metadata if isinstance(mark, Change)), None)


def _facts(field: FieldInfo) -> dict[str, Any]:
    facts: dict[str, Any] = {"description": field.description} if field.description else {}
    mark = change_of(field)
    if mark is not None:
        facts["x-berth-change"] = mark.value
    if field.default_factory is not None:
        facts["default"] = _plain(field.get_default(call_default_factory=True, validated_data={}))
    return facts


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return [_plain(item) for item in value] if isinstance(value, list) else value


class Lenient(Model):
    """For what another version of Berth may have written: unknown fields are dropped, not refused."""

    model_config = ConfigDict(extra="ignore")
