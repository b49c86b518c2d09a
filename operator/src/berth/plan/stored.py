"""A status as the API server has it → its model, whichever version of Berth wrote it. Called by all readers."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from berth.api.base import Model

M = TypeVar("M", bound=Model)


def read(model: type[M], status: dict[str, Any] | None) -> M | None:
    """A part that this version cannot read is left out, the rest kept; None when there is nothing."""
    if not status:
        return None
    try:
        return model.model_validate(status)
    except ValidationError as error:
        bad = {str(e["loc"][0]) for e in error.errors(include_url=False) if e["loc"]}
        return model.model_validate({k: v for k, v in status.items() if k not in bad})
