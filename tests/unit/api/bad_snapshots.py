"""Snapshots that must be refused, and what the refusal has to say: one table for the CLI and a real API server."""

from __future__ import annotations

from typing import Any

from tests.unit.api.bad_inputs import Bad, Json


def snapshot(**spec: Any) -> Json:
    return {"vm": "web", **spec}


BAD_SNAPSHOTS = (
    Bad("no-machine", {}, "spec.vm", ("is required",), ("Required value",)),
    Bad("machine-name", snapshot(vm="Web"), "spec.vm", ("Web",)),
    Bad("memory-word", snapshot(memory="no"), "spec.memory", ()),
    Bad("deadline-past", snapshot(deadline="-5m"), "spec.deadline", ("-5m",)),
    Bad("deadline-too-short", snapshot(deadline="9s"), "spec.deadline", ("at least 10s",)),
    Bad("deadline-too-long", snapshot(deadline="25h"), "spec.deadline", ("at most 24h",)),
    Bad("unknown-field", snapshot(machine="web"), "spec.machine", ("unknown field",)),
)
