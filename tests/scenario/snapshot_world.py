"""The cluster in memory (controller_world.py), with agents that take snapshots and go back to them.

A machine's disk is one number, which the test changes; its memory is the number of the boot that it is of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from berth.api.kept import Consistency, RevertOrder, SnapshotDisk, SnapshotOrder, SnapshotReport, SnapshotState
from berth.api.order import Fate, GuestState, Order
from berth.plan.world import REVERT, Object, format_time
from tests.scenario.controller_world import NAME, NAMESPACE, Guest, Node, World

STEPS = (SnapshotState.WAITING, SnapshotState.SAVING, SnapshotState.COPYING, SnapshotState.READY)
VOLUME: dict[str, Any] = {"savedState": {"pvc": {"claimName": "states"}}}


@dataclass
class Kept:
    """A snapshot in the volume."""

    boot: int
    disk: int
    memory: bool


class SnapshotWorld(World):
    def __init__(self) -> None:
        self.volume: dict[str, Kept] = {}  # by the Snapshot's uid
        self.marks: list[str] = []  # the reverts that were carried out
        self.disk = 0
        self.taking: dict[str, int] = {}  # how many steps of it are done
        self.fails: tuple[str, str] | None = None
        self.last_step = len(STEPS)  # how far an agent gets
        super().__init__()

    def up(self, **spec: Any) -> SnapshotWorld:
        self.apply(**{**VOLUME, **spec})
        self.settle(until=lambda: self.status.get("phase") == "Running")
        assert self.guests, self.status
        return self

    def snapshot(self, name: str, **spec: Any) -> None:
        self.cluster.apply_snapshot(NAMESPACE, name, {"vm": NAME, **spec})

    def of(self, name: str) -> Object:
        return (self.cluster.snapshots.get((NAMESPACE, name)) or {}).get("status") or {}

    def taken(self, name: str, **spec: Any) -> str:
        """One that is Ready; its uid."""
        self.snapshot(name, **spec)
        self.settle(until=lambda: self.of(name).get("phase") == "Ready")
        assert self.of(name).get("phase") == "Ready", self.of(name)
        return str(self.cluster.snapshots[NAMESPACE, name]["metadata"]["uid"])

    def ask(self, request: str, **spec: Any) -> None:
        self.apply({REVERT: request}, **{**VOLUME, **spec})

    @property
    def mark(self) -> str:
        return self.marks[-1] if self.marks else ""

    @property
    def reverts(self) -> int:
        """How often a disk was written back."""
        return len(self.marks)

    # the agents

    def _step_order(self, node: Node, uid: str, order: Order) -> None:
        guest = next((g for g in self.guests if g.pod_uid == order.berth.pod_uid), None)
        for gone in order.state.forget if order.state is not None else ():
            self.volume.pop(gone, None)
        wanted = order.state.snapshot if order.state is not None else None
        if guest is not None and wanted is not None and wanted.uid not in self.volume:
            self._take(guest, wanted)
        elif wanted is None:
            self.taking.clear()
        before = node.reports.get(uid)
        if guest is not None and before is not None and before.pod_uid == guest.pod_uid and before.fate is None:
            self.report(node, order, before.state)
        super()._step_order(node, uid, order)

    def _take(self, guest: Guest, wanted: SnapshotOrder) -> None:
        done = self.taking[wanted.uid] = min(self.taking.get(wanted.uid, 0) + 1, self.last_step)
        if done >= len(STEPS) and self.fails is None:
            self.volume[wanted.uid] = Kept(guest.boot, self.disk, wanted.memory)

    def _start(self, node: Node, order: Order) -> None:
        revert = order.state.revert if order.state is not None else None
        if revert is None or revert.request == self.mark:
            super()._start(node, order)
            return
        kept = self.volume.get(revert.snapshot)
        if kept is None:
            self.report(node, order, GuestState.FAILED)
            return
        super()._start(node, order)
        self._go_back(self.guests[-1], revert, kept)
        self.report(node, order, GuestState.RUNNING)

    def _go_back(self, guest: Guest, revert: RevertOrder, kept: Kept) -> None:
        self.disk = kept.disk
        self.marks.append(revert.request)
        if revert.memory and kept.memory:
            guest.boot = kept.boot

    def report(self, node: Node, order: Order, state: GuestState, fate: Fate | None = None) -> None:
        super().report(node, order, state, fate)
        asked = order.state
        if asked is None:
            return
        ran = any(guest.pod_uid == order.berth.pod_uid for guest in self.guests)
        told = {
            "snapshot": self._said(asked.snapshot) if asked.snapshot is not None and ran else None,
            "forgotten": tuple(uid for uid in asked.forget if uid not in self.volume),
            "reverted": self.mark if asked.revert is not None and asked.revert.request == self.mark else "",
        }
        node.reports[order.uid] = node.reports[order.uid].model_copy(update=told)
        if node.connected:
            self._hear(node)

    def _said(self, wanted: SnapshotOrder) -> SnapshotReport | None:
        done = self.taking.get(wanted.uid, 0)
        if wanted.uid in self.volume:
            return SnapshotReport(
                uid=wanted.uid,
                state=SnapshotState.READY,
                memory_bytes=(5 << 20) + 1 if wanted.memory else 0,
                disks=(SnapshotDisk(name="data", size_bytes=1 << 30, stored_bytes=3 << 20),),
                consistency=Consistency.MEMORY if wanted.memory else Consistency.CRASH,
                pause_ms=120,
                taken_at=format_time(self.now),
            )
        if done and self.fails is not None:
            return SnapshotReport(
                uid=wanted.uid, state=SnapshotState.FAILED, reason=self.fails[0], message=self.fails[1]
            )
        return SnapshotReport(uid=wanted.uid, state=STEPS[done - 1], percent=50) if done else None
