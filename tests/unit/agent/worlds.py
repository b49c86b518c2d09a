"""What an agent reaches, on a node in memory; ``more`` takes the place of a part, or adds one."""

from __future__ import annotations

import datetime
from typing import Any

from berth.agent.world import World
from berth.effects import memory
from berth.effects.memory import MemoryNode


def world_of(node: MemoryNode, **more: Any) -> World:
    parts: dict[str, Any] = {
        "hypervisor": memory.MemoryHypervisor(node),
        "berths": memory.MemoryBerths(node),
        "links": memory.MemoryLinks(node),
        "media": memory.MemoryMedia(node),
        "network": memory.MemoryNetwork(node),
        "journal": memory.MemoryJournal(),
        "prober": memory.MemoryProber(node),
        "now": lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    }
    return World(**{**parts, **more})
