"""Machines that move, in memory: which doors lead to a pod, where it leads to, its connections. Called by memory.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from berth.api.handover import DoorOrder, Flow, Forward
from berth.api.order import NicOrder
from berth.effects.ports import Berth


@dataclass(slots=True)
class Moves:
    """Each dictionary's key is a pod's uid. ``flows`` of its guest, through whichever door: tests may add some."""

    doors: dict[str, tuple[DoorOrder, ...]] = field(default_factory=dict)
    away: dict[str, Forward] = field(default_factory=dict)
    flows: dict[str, tuple[Flow, ...]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)

    def attach(self, pod_uid: str, doors: Sequence[DoorOrder], *, silent: bool) -> None:
        if pod_uid in self.away:
            return
        if silent and pod_uid not in self.doors:
            self.silent.add(pod_uid)
        if not silent:
            self.silent.discard(pod_uid)
        closed = {door.number for door in self.doors.get(pod_uid, ())} - {door.number for door in doors}
        self.doors[pod_uid] = tuple(doors)
        self.flows[pod_uid] = tuple(flow for flow in self.flows.get(pod_uid, ()) if flow.door not in closed)

    def depart(self, pod_uid: str, forward: Forward) -> tuple[Flow, ...]:
        self.away[pod_uid] = forward
        own = forward.door.number
        return tuple(flow.model_copy(update={"door": flow.door or own}) for flow in self.flows.get(pod_uid, ()))

    def arrive(self, pod_uid: str, flows: Sequence[Flow]) -> None:
        known, open_doors = self.flows.get(pod_uid, ()), {door.number for door in self.doors.get(pod_uid, ())}
        self.flows[pod_uid] = (*known, *(flow for flow in flows if flow.door in open_doors and flow not in known))

    def connections(self, pod_uid: str) -> int:
        """Through the pod's own IP: door 0 here."""
        return sum(1 for flow in self.flows.get(pod_uid, ()) if flow.door == 0)


class Handover:
    """The part of the Network protocol that is about moving."""

    def __init__(self, moves: Moves, did: Callable[[str, str], None]) -> None:
        self._moves, self._did = moves, did

    def prepare_departure(self, vm_uid: str, berth: Berth, forward: Forward) -> None:
        self._did("prepare_departure", vm_uid)

    def depart(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder], forward: Forward) -> tuple[Flow, ...]:
        self._did("depart", vm_uid)
        return self._moves.depart(berth.pod_uid, forward)

    def stay(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder]) -> None:
        self._did("stay", vm_uid)
        self._moves.away.pop(berth.pod_uid, None)

    def arrive(self, vm_uid: str, berth: Berth, flows: Sequence[Flow]) -> None:
        self._did("arrive", vm_uid)
        self._moves.arrive(berth.pod_uid, flows)

    def connections(self, vm_uid: str, berth: Berth) -> int:
        return self._moves.connections(berth.pod_uid)
