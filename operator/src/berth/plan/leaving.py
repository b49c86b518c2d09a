"""What emptying a node would do to its machines: who would go where, for how long, and what holds it up. Called by
`berth evacuate` before anything moves. Pure; a forecast: the scheduler decides when it is time, and how fast a machine
changes its memory is known from its last move only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from berth.api.migration import MigrationPhase
from berth.api.quantity import amount, to_bytes
from berth.api.virtualmachine import Eviction, Phase
from berth.plan import method
from berth.plan.world import VM_UID_LABEL

Object = dict[str, Any]
_HARD: Final = ("NoSchedule", "NoExecute")
_RUNS: Final = (Phase.RUNNING, Phase.PAUSED, Phase.MIGRATING)


@dataclass(slots=True)
class Room:
    """A node, and what is not booked on it."""

    name: str
    labels: dict[str, str]
    cpu: int  # thousandths
    memory: int  # bytes


@dataclass(frozen=True, slots=True)
class Forecast:
    """One machine. ``seconds`` is None where no earlier move tells how fast they go."""

    namespace: str
    name: str
    does: str  # Move, Shut down, Stays
    to: str = ""
    seconds: float | None = None
    message: str = ""

    @property
    def blocks(self) -> bool:
        return self.does == "Stays"


@dataclass(slots=True)
class _Leaver:
    namespace: str
    name: str
    eviction: Eviction
    memory: int
    disks: int  # bytes of those that are copied, at most
    condition: Object
    selector: dict[str, str] = field(default_factory=dict)
    booked: tuple[int, int] = (0, 0)
    unlike: frozenset[str] = frozenset()


def forecast(
    node: str, machines: Iterable[Object], nodes: Iterable[Object], pods: Sequence[Object], moves: Iterable[Object]
) -> list[Forecast]:
    """All of them as JSON, from all namespaces; the largest machines find their place first."""
    rooms = _rooms(nodes, pods, without=node)
    past = list(moves)
    rate, changes = _rate(past), _changes(past)
    booked = {(p.get("metadata", {}).get("labels") or {}).get(VM_UID_LABEL): _requests(p) for p in pods}
    leavers = [_leaver(vm, booked) for vm in machines if (vm.get("status") or {}).get("node") == node and _runs(vm)]
    return [
        _one(leaver, rooms, _seconds(leaver, rate, changes))
        for leaver in sorted(leavers, key=lambda each: -each.booked[1])
    ]


def _one(leaver: _Leaver, rooms: list[Room], seconds: float | None) -> Forecast:
    able = leaver.condition.get("status") == "True"
    if leaver.eviction is Eviction.BLOCK:
        text = "spec.eviction is Block. Next: move it, switch it off, or change the field."
        return Forecast(leaver.namespace, leaver.name, "Stays", message=text)
    if leaver.eviction is Eviction.SHUTDOWN or not able:
        why = "spec.eviction is Shutdown" if able else str(leaver.condition.get("message", "it cannot move"))
        return Forecast(leaver.namespace, leaver.name, "Shut down", message=why)
    cpu, memory = leaver.booked
    alike = [r for r in rooms if r.name not in leaver.unlike]
    fits = [r for r in alike if r.cpu >= cpu and r.memory >= memory and leaver.selector.items() <= r.labels.items()]
    if not fits:
        return Forecast(leaver.namespace, leaver.name, "Stays", message="No other node has room for it now.")
    room = max(fits, key=lambda each: each.memory)
    room.cpu, room.memory = room.cpu - cpu, room.memory - memory
    return Forecast(leaver.namespace, leaver.name, "Move", room.name, seconds, str(leaver.condition.get("message", "")))


def _runs(vm: Object) -> bool:
    return (vm.get("status") or {}).get("phase") in _RUNS


def _leaver(vm: Object, booked: dict[str | None, tuple[int, int]]) -> _Leaver:
    meta, spec, status = vm["metadata"], vm["spec"], vm["status"]
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    return _Leaver(
        meta["namespace"],
        meta["name"],
        Eviction(spec.get("eviction", Eviction.LIVE_MIGRATE)),
        to_bytes(spec["memory"]["size"]),
        _copied(spec),
        conditions.get("Migratable", {}),
        (spec.get("placement") or {}).get("nodeSelector") or {},
        booked.get(meta["uid"], (0, 0)),
        frozenset(status.get("incompatibleNodes") or ()),
    )


def _copied(spec: Object) -> int:
    """Bytes of the disks that go along by being copied, as far as the spec tells: of an image it does not."""
    local = [disk for disk in spec.get("disks") or () if "pvc" not in disk and not disk.get("readOnly")]
    return sum(to_bytes(disk["size"]) for disk in local if disk.get("size"))


def _rooms(nodes: Iterable[Object], pods: Sequence[Object], without: str) -> list[Room]:
    found: list[Room] = []
    for node in nodes:
        name, spec = node["metadata"]["name"], node.get("spec") or {}
        closed = spec.get("unschedulable") or any(t.get("effect") in _HARD for t in spec.get("taints") or ())
        if name == without or closed:
            continue
        gives = (node.get("status") or {}).get("allocatable") or {}
        here = [_requests(p) for p in pods if (p.get("spec") or {}).get("nodeName") == name and not _over(p)]
        cpu = round(1000 * amount(gives.get("cpu", "0"))) - sum(cpu for cpu, _ in here)
        memory = round(amount(gives.get("memory", "0"))) - sum(memory for _, memory in here)
        found.append(Room(name, node["metadata"].get("labels") or {}, cpu, memory))
    return found


def _over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _requests(pod: Object) -> tuple[int, int]:
    asked = [(c.get("resources") or {}).get("requests") or {} for c in (pod.get("spec") or {}).get("containers") or ()]
    cpu = sum(round(1000 * amount(a.get("cpu", "0"))) for a in asked)
    return cpu, sum(round(amount(a.get("memory", "0"))) for a in asked)


def _rate(moves: Iterable[Object]) -> float | None:
    """Bytes in a second that moves so far have made, all in all."""
    done = [m.get("status") or {} for m in moves]
    rates = [
        s["bytesPerSecond"] for s in done if s.get("phase") == MigrationPhase.SUCCEEDED and s.get("bytesPerSecond")
    ]
    return median(rates) if rates else None


def _changes(moves: Iterable[Object]) -> dict[tuple[str, str], int]:
    """Machine → how fast it changed its memory, bytes in a second, when it was moved last."""
    done = sorted(moves, key=lambda move: str((move.get("status") or {}).get("endedAt", "")))
    found = ((m, (m.get("status") or {}).get("dirtyBytesPerSecond")) for m in done if m.get("metadata"))
    return {(m["metadata"]["namespace"], m["spec"]["vm"]): dirty for m, dirty in found if dirty is not None}


def _seconds(leaver: _Leaver, rate: float | None, changes: Mapping[tuple[str, str], int]) -> float | None:
    """By the rounds that the agent will choose its method by."""
    if rate is None:
        return None
    known = method.Facts(leaver.memory, int(rate), changes.get((leaver.namespace, leaver.name)))
    foretold = method.estimate(known)
    return method.SETUP_SECONDS + leaver.disks / rate + foretold.seconds if foretold is not None else None


def together(rows: Sequence[Forecast], at_a_time: int) -> float | None:
    """Seconds for all that move, so many at a time; None when it is not known."""
    known = [row.seconds for row in rows if row.does == "Move"]
    if any(seconds is None for seconds in known):
        return None
    return sum(seconds for seconds in known if seconds is not None) / at_a_time
