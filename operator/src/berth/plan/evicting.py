"""Whether a machine's berth is guarded from eviction. Called by berthpod.py and evacuation.py. Pure."""

from __future__ import annotations

from berth.api.virtualmachine import Eviction, VirtualMachineSpec
from berth.plan import migratable
from berth.plan.world import Cluster


def guarded(frozen: VirtualMachineSpec, live: VirtualMachineSpec | None, cluster: Cluster) -> bool:
    """Whether an eviction is refused: the machine blocks it, or moves away by itself."""
    match (live or frozen).eviction:
        case Eviction.BLOCK:
            return True
        case Eviction.SHUTDOWN:
            return False
        case Eviction.LIVE_MIGRATE:
            return migratable.answer(frozen, cluster).able
