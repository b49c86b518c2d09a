"""Migrations that must be refused, and what the refusal has to say: one table for the CLI and a real API server."""

from __future__ import annotations

from typing import Any

from tests.unit.api.bad_inputs import Bad, Json


def migration(**spec: Any) -> Json:
    return {"vm": "web", **spec}


BAD_MIGRATIONS = (
    Bad("no-machine", {}, "spec.vm", ("is required",), ("Required value",)),
    Bad("machine-name", migration(vm="Web"), "spec.vm", ("Web",)),
    Bad("target-says-nothing", migration(target={}), "spec.target", ("exactly one of nodeName", "nothing")),
    Bad("target-says-both", migration(target={"nodeName": "a", "nodeSelector": {"b": "c"}}), "spec.target",
        ("exactly one of", "nodeName nodeSelector")),
    Bad("deadline-zero", migration(deadline="0s"), "spec.deadline", ("0s",)),
    Bad("deadline-past", migration(deadline="-5m"), "spec.deadline", ("-5m",)),
    Bad("deadline-without-unit", migration(deadline="10"), "spec.deadline", ("10",)),
    Bad("deadline-too-short", migration(deadline="9s"), "spec.deadline", ("at least 10s",)),
    Bad("deadline-too-long", migration(deadline="25h"), "spec.deadline", ("at most 24h",)),
    Bad("pause-too-short", migration(maxDowntime="9ms"), "spec.maxDowntime", ("at least 10ms",)),
    Bad("pause-too-long", migration(maxDowntime="11s"), "spec.maxDowntime", ("at most 10s",)),
    Bad("bandwidth-too-small", migration(bandwidth="1k"), "spec.bandwidth", ("at least 64k",)),
    Bad("priority-word", migration(priority="High"), "spec.priority", ("Drain", "High")),
    Bad("cancel-word", migration(cancel="yes"), "spec.cancel", ()),
    Bad("unknown-field", migration(machine="web"), "spec.machine", ("unknown field",)),
)  # fmt: skip
