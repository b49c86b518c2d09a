"""A machine's saved state, or the Snapshot it goes back to, as the controller sees it: what its next start is made
from, and whether it could be saved.

Called by cluster.py and conditions.py. A state fits no other hardware than its own: what was changed meanwhile waits on
for a boot, as it would have, had the machine run on. Pure.
"""

from __future__ import annotations

from pydantic import ValidationError

from berth.api.order import Order
from berth.api.virtualmachine import ConditionType, Phase, Power, VirtualMachineSpec
from berth.domain import copied
from berth.plan import revert_request
from berth.plan import suspendable as able
from berth.plan.world import Agent, Machine, World, frozen_spec


def spec(machine: Machine) -> VirtualMachineSpec | None:
    """Where it may run is as it is wanted now, in any case. Of a Snapshot without memory only the volume counts that it
    is in: the machine may have another by now, or none."""
    frozen = _read(_begins_with(machine)[0])
    if machine.spec is None or frozen is None:
        return machine.spec
    revert = revert_request.pending(machine)
    if revert is not None and not revert.memory:
        return machine.spec.model_copy(update={"saved_state": frozen.saved_state})
    return frozen.model_copy(update={"placement": machine.spec.placement})


def _read(spec: str) -> VirtualMachineSpec | None:
    try:
        return VirtualMachineSpec.model_validate_json(spec) if spec else None
    except ValidationError:
        return None


def hardware(machine: Machine) -> str:
    """The machine type and CPU that its state was saved with; empty for a machine that boots."""
    return _begins_with(machine)[1]


def _begins_with(machine: Machine) -> tuple[str, str]:
    """The spec, and the machine type and CPU, of the guest that the next start restores or goes back to."""
    revert = revert_request.pending(machine)
    if revert is not None:
        return revert.machine, revert.hardware
    saved = machine.status.saved_state if machine.status is not None else None
    return (saved.machine, saved.hardware) if saved is not None else ("", "")


def too_old(agent: Agent | None) -> str:
    """Why this agent cannot restore anything; empty when it can, or nobody knows. One of an earlier version would boot
    what is to be restored: it gets no such order."""
    if agent is None or not agent.lacks("states"):
        return ""
    return f"The agent of node {agent.node} cannot save and restore machines. Next: upgrade the agents."


def too_old_for(agent: Agent | None, order: Order) -> str:
    """Why this agent would boot what this order wants restored or reverted, or leave disks behind that are to be saved;
    empty when it would not."""
    state = order.state
    if state is None or (not state.save and state.restore is None and state.revert is None):
        return ""
    return too_old(agent) or (revert_request.too_old(agent) if state.revert or copied.of(order.machine) else "")


def suspendable(world: World) -> able.Answer | None:
    """Whether its state could be saved, or why it was not; None for a machine that has nothing to do with that."""
    spec, berth, report = world.machine.spec, world.berth, world.report
    if spec is None or (spec.saved_state is None and spec.power is not Power.SUSPENDED):
        return None
    said = next((c for c in report.conditions if c.type == ConditionType.SUSPENDABLE), None) if report else None
    if said is not None and spec.power is Power.SUSPENDED:
        return able.Answer(False, said.reason, f"{said.message[:1].upper()}{said.message[1:]}.")
    lives = berth is not None and not berth.terminal
    old = too_old(world.agent) or (revert_request.too_old(world.agent) if _has_local_disks(spec) else "")
    if old and lives:
        return able.Answer(False, "AgentTooOld", old)
    return able.answer(frozen_spec(berth) if berth is not None and lives else None, spec)


def _has_local_disks(spec: VirtualMachineSpec) -> bool:
    """Whether disks go along that an earlier agent would leave behind."""
    return any(disk.pvc is None and not disk.read_only for disk in spec.disks)


def runs_on(world: World, phase: Phase) -> str:
    """Why a machine that is to be suspended runs on; empty for any other."""
    spec, found = world.machine.spec, suspendable(world)
    meant = spec is not None and spec.power is Power.SUSPENDED and phase in (Phase.RUNNING, Phase.PAUSED)
    return found.message if meant and found is not None and not found.able else ""
