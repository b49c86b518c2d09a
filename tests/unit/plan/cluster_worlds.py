"""Worlds for the tests of the cluster's plan: a machine, its berth and its agent, with what a test wants to differ."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from berth.api.order import Emulation, GuestState, NodeFacts, Report
from berth.api.virtualmachine import VirtualMachineStatus
from berth.plan import history, status
from berth.plan.berthpod import berth_pod
from berth.plan.world import Agent, Cluster, Ended, Machine, Object, Pod, World, read_machine, read_pod

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
UID = "6f1c1f0e-0000-4000-8000-000000000001"
POD_UID = "6f1c1f0e-0000-4000-8000-0000000000aa"
NODE = "node-1"
KERNEL: Object = {"boot": {"kernel": {"image": "example.org/kernel:1", "initrdPath": "/boot/initrd"}}}
CLUSTER = Cluster("example.org/berth:1", "IfNotPresent", Emulation.ALWAYS)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def vm(name: str = "web", /, *, metadata: Object | None = None, status: Object | None = None, **spec: Any) -> Object:
    meta = {"namespace": "default", "name": name, "uid": UID, "generation": 1, "resourceVersion": "5"}
    obj: Object = {"metadata": {**meta, **(metadata or {})}, "spec": {**KERNEL, **spec}}
    return obj if status is None else {**obj, "status": status}


def machine(name: str = "web", /, **changes: Any) -> Machine:
    return read_machine(vm(name, **changes))


def pod(owner: Machine | None = None, epoch: int = 1, cluster: Cluster = CLUSTER, **changes: Any) -> Pod:
    """A berth as the API server has it; unscheduled until a test says otherwise."""
    manifest = berth_pod(owner or machine(), epoch, cluster)
    manifest["metadata"] |= {"uid": POD_UID, "creationTimestamp": "2026-03-01T11:00:00Z"}
    return replace(read_pod(manifest), **changes)


def bound(**changes: Any) -> Pod:
    return pod(node=NODE, **changes)


def up(**changes: Any) -> Pod:
    return bound(**{"phase": "Running", "running": True, "ready": True, "ip": "10.0.0.7", **changes})


def over(code: int = 0, **changes: Any) -> Pod:
    ended = Ended(code, "Completed" if code == 0 else "Error", "", ago(5))
    return bound(**{"phase": "Failed" if code else "Succeeded", "ended": ended, **changes})


def report(state: GuestState = GuestState.RUNNING, **changes: Any) -> Report:
    started = None if state in (GuestState.WAITING, GuestState.PREPARING) else "2026-03-01T11:00:05Z"
    given: Object = {"uid": UID, "namespace": "default", "name": "web", "epoch": 1, "pod_uid": POD_UID, "state": state}
    return Report(**{**given, "started_at": started, **changes})


def agent(said: Report | None = None, **changes: Any) -> Agent:
    facts = NodeFacts(node=NODE, agent_version="1", hypervisor_connected=True)
    known: Object = {"exists": True, "connected": True, "facts": facts, "report": said, "present": said is not None}
    return Agent(NODE, **{**known, **changes})


def silent(seconds: float, said: Report | None = None, **changes: Any) -> Agent:
    return agent(said, connected=False, silent_since=ago(seconds), **{"error": "connection refused", **changes})


def world(**changes: Any) -> World:
    return World(**{"now": NOW, "machine": machine(), "cluster": CLUSTER, **changes})


def running() -> World:
    """A machine at its best, with the status it then has."""
    fresh = world(pod=up(), agent=agent(report()))
    return replace(fresh, machine=replace(fresh.machine, status=told(fresh)))


def told(seen: World) -> VirtualMachineStatus:
    """The status that the controller would write of this world."""
    past = history.advance(seen)
    return status.status(seen, past, history.verdict(seen, past))


def condition(seen: World, kind: str) -> tuple[str, str, str]:
    found = next(c for c in told(seen).conditions if c.type == kind)
    return found.status.value, found.reason, found.message


def with_status(seen: World) -> World:
    """The same world, with the status stored that it leads to."""
    return replace(seen, machine=replace(seen.machine, status=told(seen)))
