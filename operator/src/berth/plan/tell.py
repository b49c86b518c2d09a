"""Two statuses of a machine → the Events a user sees with `kubectl describe vm`: changes of phase, and new problems.

Called by the reconcile after a status was written, so that an Event tells what the status says. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from berth.api.savedstate import RevertStatus
from berth.api.virtualmachine import Phase, VirtualMachineStatus
from berth.plan.conditions import PROGRESS


@dataclass(frozen=True, slots=True)
class Tell:
    """One Event about a machine."""

    reason: str
    message: str
    warning: bool = False


_PHASES: Final[dict[Phase, str]] = {
    Phase.RUNNING: "Running",
    Phase.PAUSED: "Paused",
    Phase.SUSPENDED: "Suspended",
    Phase.MIGRATING: "Migrating",
    Phase.STOPPING: "Stopping",
    Phase.STOPPED: "Stopped",
    Phase.FAILED: "Failed",
    Phase.UNKNOWN: "Unknown",
}


def tells(old: VirtualMachineStatus | None, new: VirtualMachineStatus) -> list[Tell]:
    """What is new, in the order of the conditions; the phase last."""
    told: list[Tell] = []
    before = {c.type: c.reason for c in (old.conditions if old else ())}
    for c in new.conditions:
        if (
            c.type not in ("Ready", "Migratable")
            and c.status != "True"
            and c.reason not in PROGRESS
            and before.get(c.type) != c.reason
        ):
            told.append(Tell(c.reason, c.message, warning=True))
    if old is not None and old.saved_state is not None and new.saved_state is None:
        told.append(_unsaved(old.saved_state.epoch, new))
    if new.revert is not None and new.revert.done and (old is None or old.revert != new.revert):
        told.append(_reverted(new.revert, new))
    if old is not None and old.phase is Phase.MIGRATING and new.phase in (Phase.RUNNING, Phase.PAUSED):
        told.append(_moved(old, new))
    elif new.phase in _PHASES and (old is None or old.phase != new.phase):
        told.append(_phase(new))
    return told


def _reverted(revert: RevertStatus, new: VirtualMachineStatus) -> Tell:
    how = "goes on from" if revert.memory else "booted from the disks of"
    return Tell("Reverted", f"Start {new.epoch} {how} Snapshot {revert.name}: what came after it is gone.")


def _unsaved(epoch: int, new: VirtualMachineStatus) -> Tell:
    if new.revert is not None and not new.revert.done:
        text = f"The saved state of start {epoch} is given up: the machine goes back to Snapshot {new.revert.name}."
        return Tell("StateDiscarded", text, warning=True)
    if new.phase is Phase.STOPPED:
        text = f"The saved state of start {epoch} is given up: power is Off. Its file goes with the next start."
        return Tell("StateDiscarded", text, warning=True)
    return Tell("Restored", f"Start {new.epoch} began with the saved state of start {epoch}, which is used now.")


def _moved(old: VirtualMachineStatus, new: VirtualMachineStatus) -> Tell:
    where = f"The guest {'runs' if new.phase is Phase.RUNNING else 'is'} on node {new.node}"
    return Tell("Moved", f"{where}: its move is over{f' ({old.migration})' if old.migration else ''}.")


def _phase(new: VirtualMachineStatus) -> Tell:
    if new.phase is Phase.RUNNING:
        return Tell("Running", f"Start {new.epoch}: the guest runs on node {new.node}.")
    if new.phase is Phase.MIGRATING:
        return Tell("Migrating", f"Migration {new.migration} moves the guest to another node.")
    warning = new.phase in (Phase.FAILED, Phase.UNKNOWN)
    return Tell(_PHASES[new.phase], new.message or f"The machine is {new.phase}.", warning)
