"""start, stop, restart, pause, suspend, resume: one patch of the spec, and on --wait the phases on the way to the goal.

Nothing here talks to a node: the controller does what the spec says, also when this command has long ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from berth.api.virtualmachine import Phase, Power
from berth.cli import screen
from berth.cli.cluster import Cluster, connect
from berth.cli.following import Look, follow
from berth.cli.options import Context, Kubeconfig, Name, Namespace, Timeout, Wait
from berth.plan.world import RESTARTED_AT

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Goal:
    """When a command is done, and when it cannot succeed any more."""

    words: str
    reached: Callable[[Json], bool]
    hopeless: Callable[[Json], bool]


def start_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Wait = False,
    timeout: Timeout = 300,
) -> None:
    """Switch a machine on (spec.power: On); one whose guest has ended is started again."""
    cluster, before = _look(name, namespace, context, kubeconfig)
    ended = _power(before) is Power.ON and _phase(before) in (Phase.STOPPED, Phase.FAILED)
    body = _power_patch(Power.ON) | (_restart_patch() if ended else {})
    _carry_out(cluster, name, body, _running_after(before if ended else None), wait, timeout)


def stop_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Wait = False,
    timeout: Timeout = 300,
    force: Annotated[bool, typer.Option("--force", help="Cut it off at once, as by pulling the plug.")] = False,
) -> None:
    """Shut a machine down (spec.power: Off): the power button first, cut off after the grace period."""
    cluster, before = _look(name, namespace, context, kubeconfig)
    goal = Goal("stopped", lambda vm: _phase(vm) is Phase.STOPPED, lambda vm: False)
    _patch(cluster, name, _power_patch(Power.OFF))
    berth = (before.get("status") or {}).get("berth")
    if force and berth:
        cluster.delete_pod(berth, 1)
    _follow(cluster, name, goal, wait, timeout)


def restart_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Wait = False,
    timeout: Timeout = 300,
) -> None:
    """Shut a machine down and start it anew, with the changes that wait for that."""
    cluster, before = _look(name, namespace, context, kubeconfig)
    if _power(before) is Power.OFF:
        screen.fail(f"{name} is off: use `berth start {name}`")
    _carry_out(cluster, name, _restart_patch(), _running_after(before), wait, timeout)


def pause_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Wait = False,
    timeout: Timeout = 60,
) -> None:
    """Stop a machine's CPUs and keep it in memory (spec.power: Paused)."""
    cluster, _ = _look(name, namespace, context, kubeconfig)
    goal = Goal("paused", lambda vm: _phase(vm) is Phase.PAUSED, _has_failed)
    _carry_out(cluster, name, _power_patch(Power.PAUSED), goal, wait, timeout)


def suspend_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Wait = False,
    timeout: Timeout = 600,
) -> None:
    """Save a machine's memory and devices to its volume, and give CPU and memory back (spec.power: Suspended)."""
    cluster, _ = _look(name, namespace, context, kubeconfig)
    goal = Goal("suspended", lambda vm: _phase(vm) is Phase.SUSPENDED, _cannot_be_suspended)
    _carry_out(cluster, name, _power_patch(Power.SUSPENDED), goal, wait, timeout)


def resume_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Wait = False,
    timeout: Timeout = 60,
) -> None:
    """Let a paused machine's CPUs run again, or restore a suspended one (spec.power: On)."""
    cluster, before = _look(name, namespace, context, kubeconfig)
    if _power(before) is Power.OFF:
        screen.fail(f"{name} is off: use `berth start {name}`")
    _carry_out(cluster, name, _power_patch(Power.ON), _running_after(None), wait, timeout)


def _look(name: str, namespace: str | None, context: str | None, kubeconfig: Path | None) -> tuple[Cluster, Json]:
    cluster = connect(namespace, context, kubeconfig)
    return cluster, cluster.machine(name)


def _carry_out(cluster: Cluster, name: str, body: Json, goal: Goal, wait: bool, timeout: float) -> None:
    _patch(cluster, name, body)
    _follow(cluster, name, goal, wait, timeout)


def _patch(cluster: Cluster, name: str, body: Json) -> None:
    cluster.patch(name, body)


def _follow(cluster: Cluster, name: str, goal: Goal, wait: bool, timeout: float) -> None:
    """Show each new phase and each new trouble until the goal is reached."""
    if not wait:
        screen.out.print(f"{name}: asked for; `berth why {name}` tells how it goes, --wait waits")
        return

    def look() -> Look:
        vm = cluster.machine(name)
        done = goal.reached(vm)
        hopeless = f"{name} cannot be {goal.words}: {_message(vm)}" if goal.hopeless(vm) else ""
        phase = str((vm.get("status") or {}).get("phase", ""))
        return Look(phase, "" if done else _trouble(vm), done, hopeless)

    follow(look, timeout, f"{name} is not {goal.words} within {timeout:.0f} s; see `berth why {name}`")


def _running_after(before: Json | None) -> Goal:
    """Running; when a machine is given, by a start later than its last one."""
    last = int(((before or {}).get("status") or {}).get("epoch", 0)) if before else -1

    def reached(vm: Json) -> bool:
        return _phase(vm) is Phase.RUNNING and int((vm.get("status") or {}).get("epoch", 0)) > last

    return Goal("running", reached, lambda vm: _observed(vm) and _spec_is_invalid(vm))


def _has_failed(vm: Json) -> bool:
    return _observed(vm) and _phase(vm) in (Phase.FAILED, Phase.STOPPED)


def _cannot_be_suspended(vm: Json) -> bool:
    conditions = (vm.get("status") or {}).get("conditions") or ()
    refused = any(c["type"] == "Suspendable" and c["status"] == "False" for c in conditions)
    return _has_failed(vm) or (_observed(vm) and refused)


def _observed(vm: Json) -> bool:
    """Whether the status speaks of this spec."""
    return bool((vm.get("status") or {}).get("observedGeneration") == vm["metadata"].get("generation"))


def _spec_is_invalid(vm: Json) -> bool:
    conditions = (vm.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "SpecValid" and c["status"] == "False" for c in conditions)


def _phase(vm: Json) -> Phase | None:
    phase = (vm.get("status") or {}).get("phase")
    return Phase(phase) if phase in list(Phase) else None


def _power(vm: Json) -> Power:
    """The stored spec may hold a boolean: YAML's bare On and Off."""
    word = vm["spec"].get("power", Power.ON)
    return (Power.ON if word else Power.OFF) if isinstance(word, bool) else Power(word)


def _message(vm: Json) -> str:
    return str((vm.get("status") or {}).get("message", ""))


def _trouble(vm: Json) -> str:
    """The first prerequisite that is missing, as the Ready condition sums it up."""
    for condition in (vm.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] != "True":
            return str(condition["message"])
    return ""


def _power_patch(power: Power) -> Json:
    return {"spec": {"power": power.value}}


def _restart_patch() -> Json:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"metadata": {"annotations": {RESTARTED_AT: now}}}
