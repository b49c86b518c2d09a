"""Waiting is a value: what a reconcile step came to. Returned by every step, read by report; never raised."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Something outside has to happen first: look again in ``seconds``, or when a bell rings."""

    reason: str
    message: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The step cannot succeed as things stand; ``retry`` is None when only a changed spec can help."""

    reason: str
    message: str
    retry: float | None


Outcome = Done | Wait | Failed
