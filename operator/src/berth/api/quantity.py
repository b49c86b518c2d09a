"""Kubernetes' words for sizes ("512Mi", "2G") and whole bytes, both ways. Pure; used by models and messages."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

UNITS: Final = {
    "": 1,
    "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50,
}  # fmt: skip
PATTERN: Final = r"^[1-9][0-9]{0,14}(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
_SHAPE: Final = re.compile(PATTERN)


def to_bytes(text: str) -> int:
    """The whole number of bytes that a quantity such as "512Mi" stands for; ValueError when it is no quantity."""
    if not _SHAPE.fullmatch(text):
        raise ValueError(
            f"{text!r} is not a size: write a positive whole number and a unit of {', '.join(u for u in UNITS if u)}, "
            'for example "512Mi" or "2Gi"'
        )
    digits = re.match(r"[0-9]+", text)
    assert digits is not None  # the shape above begins with digits
    return int(digits.group()) * UNITS[text[digits.end() :]]


def amount(text: str) -> float:
    """Any quantity that the API server gives out, such as "1500m", "1.5Gi" or "2e3"; ValueError when it is none."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?", text)
    if found is None:
        raise ValueError(f"{text!r} is not a quantity")
    unit = found.group(2) or ""
    return float(found.group(1)) * (0.001 if unit == "m" else UNITS[unit])


def from_bytes(count: int) -> str:
    """The shortest exact quantity with a binary unit, for people: 536870912 → "512Mi"."""
    for unit in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        if count and count % UNITS[unit] == 0:
            return f"{count // UNITS[unit]}{unit}"
    return str(count)


def _between(least: str, most: str) -> AfterValidator:
    def checked(text: str) -> str:
        if not to_bytes(least) <= to_bytes(text) <= to_bytes(most):
            raise ValueError(f"must be at least {least} and at most {most}")
        return text

    return AfterValidator(checked)


def _schema(least: str, most: str) -> dict[str, Any]:
    """The same limits for the API server, whose CEL knows quantities. The pattern has its own message there."""
    rule = f"!isQuantity(self) || (quantity(self).compareTo(quantity('{least}')) >= 0"
    rule += f" && quantity(self).compareTo(quantity('{most}')) <= 0)"
    message = f"must be at least {least} and at most {most}"
    return {"pattern": PATTERN, "x-berth-rules": [{"cel": rule, "message": message}]}


Rate = Annotated[str, _between("64k", "400G"), Field(max_length=18, json_schema_extra=_schema("64k", "400G"))]
"""Bits in a second, with the decimal units of network cards: "100M", "10G"."""
Burst = Annotated[str, _between("2Ki", "1Gi"), Field(max_length=18, json_schema_extra=_schema("2Ki", "1Gi"))]
"""Bytes that may go at once, before a rate holds."""
Quantity = Annotated[str, _between("1Mi", "64Ti"), Field(max_length=18, json_schema_extra=_schema("1Mi", "64Ti"))]
"""A size as people write it; use ``to_bytes`` for the number. Within what QEMU's memory and image files can be."""
