"""What the API server has of an object → its models: the status, whichever version of Berth wrote it, and the spec.

Called by all that read objects: world.py, segment.py, moves.py, snaps.py.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import ValidationError

from berth.api import crd, validate
from berth.api.base import Model

M = TypeVar("M", bound=Model)
MOST_PROBLEMS: Final = 5
"""So many are told at a time: a status is no place for more."""


def spec(model: type[M], given: dict[str, Any], kind: crd.Kind) -> tuple[M | None, str]:
    """The spec, or None and sentences that name path, rule and given value."""
    try:
        return model.model_validate(given), ""
    except ValidationError as error:
        return None, "; ".join(map(str, validate.told(error, "spec", kind=kind)[:MOST_PROBLEMS]))


def read(model: type[M], status: dict[str, Any] | None) -> M | None:
    """A part that this version cannot read is left out, the rest kept; None when there is nothing."""
    if not status:
        return None
    try:
        return model.model_validate(status)
    except ValidationError as error:
        bad = {str(e["loc"][0]) for e in error.errors(include_url=False) if e["loc"]}
        return model.model_validate({k: v for k, v in status.items() if k not in bad})
