"""Lengths of time as people write them ("300ms", "10m", "1h") and milliseconds. Pure; used by models and plans."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

UNITS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
PATTERN: Final = r"^[1-9][0-9]{0,6}(ms|s|m|h)$"
_SHAPE: Final = re.compile(r"([1-9][0-9]{0,6})(ms|s|m|h)")


def to_ms(text: str) -> int:
    """The milliseconds that "300ms" or "10m" stand for; ValueError when it is no length of time."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is not a length of time: write a positive whole number and a unit of {', '.join(UNITS)}, "
            'for example "300ms" or "10m"'
        )
    return int(found[1]) * UNITS[found[2]]


def _between(least: str, most: str) -> AfterValidator:
    def checked(text: str) -> str:
        if not to_ms(least) <= to_ms(text) <= to_ms(most):
            raise ValueError(f"must be at least {least} and at most {most}")
        return text

    return AfterValidator(checked)


def _schema(least: str, most: str) -> dict[str, Any]:
    """The same limits for the API server. The pattern has its own message there."""
    shape = PATTERN.replace("\\", "\\\\")
    rule = (
        f"!self.matches('{shape}') || (duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))"
    )
    return {
        "pattern": PATTERN,
        "x-berth-rules": [{"cel": rule, "message": f"must be at least {least} and at most {most}"}],
    }


Deadline = Annotated[str, _between("10s", "24h"), Field(max_length=10, json_schema_extra=_schema("10s", "24h"))]
"""How long something that takes its time may take."""
Pause = Annotated[str, _between("10ms", "10s"), Field(max_length=10, json_schema_extra=_schema("10ms", "10s"))]
"""How long a guest may stand still."""
