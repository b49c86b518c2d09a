"""Everything a plan rests on, asked of the ports: one machine in, Gathered out. Called by reconcile.py.

It changes nothing in the world, only what the machine remembers of it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from berth.agent.handovers import Handovers, overdue
from berth.agent.keeping import CLOCK_SECONDS
from berth.agent.machines import Machine, Place
from berth.agent.saving import Savings
from berth.agent.snapshots import Seen as Taking
from berth.agent.snapshots import Snapshots
from berth.agent.world import World
from berth.api.kept import SnapshotState, StateOrder
from berth.api.order import NodeFacts
from berth.domain import xml
from berth.domain.observed import Guest, HandoverRecord, KeptSnapshots, KeptStates, StartRecord
from berth.effects.ports import Berth
from berth.errors import HostFault, HypervisorDown
from berth.plan import fate
from berth.plan.gathered import FATE_PATIENCE, Gathered, Saving, Unplug
from berth.plan.handover import Gate

SURE_SECONDS: Final = 1.0
"""A berth process that was never seen by this agent is lost only when it is missed twice, this far apart."""
EXIT_SECONDS: Final = 5.0
"""A berth that was told to exit and lives on is told again."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one pass in a worker thread brought."""

    hypervisor: bool
    guest: Guest | None
    record: StartRecord | None
    folder: bool
    berths: dict[str, Berth | None]
    network_lost: bool
    handover: HandoverRecord | None
    save_begun: bool
    kept: KeptStates | None
    kept_error: str
    clock_due: bool
    snapshot_begun: bool
    snapshots: KeptSnapshots | None
    snapshots_error: str


async def gather(
    world: World,
    machine: Machine,
    facts: NodeFacts,
    handovers: Handovers | None = None,
    savings: Savings | None = None,
    snapshots: Snapshots | None = None,
) -> Gathered:
    saving = savings.seen(machine) if savings is not None else Saving.NONE  # first: what it leaves is seen after it
    taking = snapshots.seen(machine) if snapshots is not None else Taking()
    seen = await world.run(_look, world, machine, savings, snapshots, taking)
    now = asyncio.get_running_loop().time()
    machine.guest, machine.record = seen.guest, seen.record
    if seen.guest is not None:
        machine.guest_uid = seen.guest.guest_uid
    elif seen.record is not None:
        machine.guest_uid = seen.record.guest_uid
    present, lost = _berths(machine, seen, now)
    pod = machine.pods()[0] if machine.pods() else None
    place = machine.place(pod) if pod is not None else Place("")
    await _end(world, machine, seen, place, lost, now)
    return Gathered(
        uid=machine.uid,
        order=machine.order,
        hypervisor=seen.hypervisor,
        guest=seen.guest,
        record=seen.record,
        folder=seen.folder,
        present=frozenset(present),
        lost=frozenset(lost),
        linked=place.link is not None or place.linking is not None,
        network=place.network,
        network_lost=seen.network_lost,
        unplugs=_unplugs(machine, seen.guest, now),
        shutdown_asked=place.shutdown_asked,
        stop_age=_age(place.asked_at, now),
        button_age=_age(machine.pressed_at, now),
        presses=machine.presses,
        resume_age=_age(machine.resumed_at, now),
        fate=machine.ended.fate,
        ended_age=FATE_PATIENCE if machine.ended.missed_at is None else now - machine.ended.missed_at,
        exit_told=place.exit_told_at is not None and now - place.exit_told_at < EXIT_SECONDS,
        kvm_usable=facts.kvm_usable,
        kvm_reason=facts.kvm_reason,
        doors=place.doors,
        handover=seen.handover,
        gate=handovers.gate(machine.uid) if handovers is not None else Gate.NONE,
        held_age=_age(handovers.held_since(machine.uid), time.monotonic()) if handovers is not None else None,
        overdue=_overdue(machine, world),
        transfer=machine.transfer,
        survey=machine.survey,
        surveying=machine.surveying,
        method=handovers.method(machine.uid) if handovers is not None else None,
        listening=_listening(machine),
        answer=machine.answer,
        source_silent=machine.source_silent,
        forward=place.forward,
        saving=saving,
        restore_failure=savings.restore_failure(machine) if savings is not None else None,
        save_begun=seen.save_begun,
        kept=seen.kept,
        kept_error=seen.kept_error,
        clock_due=seen.clock_due and _hears(machine, now),
        put_back=savings.put_back(machine) if savings is not None else None,
        taking=taking.report,
        taking_ends=taking.ends,
        snapshot_begun=seen.snapshot_begun,
        snapshots=seen.snapshots,
        snapshots_error=seen.snapshots_error,
        forgets=taking.forgets,
    )


def _hears(machine: Machine, now: float) -> bool:
    """Whether its agent answers, and was not asked just now."""
    answers = machine.agent_channel or (machine.info is not None and machine.info.agent_connected)
    return bool(answers) and (machine.clock_tried_at is None or now - machine.clock_tried_at >= CLOCK_SECONDS)


def _overdue(machine: Machine, world: World) -> bool:
    outgoing = machine.order.outgoing if machine.order is not None else None
    return outgoing is not None and overdue(outgoing, world.now())


def _listening(machine: Machine) -> bool:
    incoming = machine.order.incoming if machine.order is not None else None
    return incoming is not None and machine.arrival is not None and machine.arrival.migration == incoming.migration


def _look(
    world: World, machine: Machine, savings: Savings | None, snapshots: Snapshots | None, taking: Taking
) -> _Seen:
    """Blocking: the ports' part of it."""
    try:
        domain = world.hypervisor.domain(machine.uid)
        hypervisor = True
    except HypervisorDown:
        domain, hypervisor = None, False
    guest = xml.read(domain) if domain is not None else None
    if not hypervisor:
        guest = machine.guest  # not observed is not gone
    record = world.berths.start_record(machine.uid)
    pods = {guest.order.berth.pod_uid} if guest is not None else set()
    pods |= {record.pod_uid} if record is not None else set()
    pods |= {machine.order.berth.pod_uid} if machine.order is not None else set()
    found = {pod: _berth(world, machine, pod) for pod in pods}
    folder = record is not None or machine.uid in world.berths.folders()
    begun = world.states.begun(machine.uid) if world.states is not None else None
    kept, error = _kept(machine, guest, record, found, savings, begun)
    busy = taking.report is not None and taking.report.state is not SnapshotState.FAILED
    held, held_error = snapshots.look(machine, guest, record, found, busy=busy) if snapshots is not None else (None, "")
    return _Seen(
        hypervisor,
        guest,
        record,
        folder,
        found,
        _network_lost(world, guest, record, found),
        world.berths.handover_record(machine.uid),
        begun is not None,
        kept,
        error,
        world.states is not None and guest is not None and world.states.clock_due(machine.uid),
        world.snapshots is not None and world.snapshots.files.begun(machine.uid),
        held,
        held_error,
    )


def _kept(
    machine: Machine,
    guest: Guest | None,
    record: StartRecord | None,
    berths: dict[str, Berth | None],
    savings: Savings | None,
    begun: str | None,
) -> tuple[KeptStates | None, str]:
    """What is in its volume, which may be slow to answer: before the first run, and once a save was begun. A guest that
    an agent before this one has ended left no order, but the mark tells where its state is."""
    pod = guest.order.berth.pod_uid if guest is not None else record.pod_uid if record is not None else None
    order = machine.order
    if order is None or (pod is not None and order.berth.pod_uid != pod):
        order = guest.order if guest is not None else order
    ran = record is not None and (guest is None or record.epoch == guest.order.epoch)
    state = order.state if order is not None else None
    if state is None and begun is not None:
        state = StateOrder(folder=begun)
    pod = pod or (order.berth.pod_uid if order is not None else None)
    if savings is None or state is None or pod is None or (ran and begun is None):
        return None, ""
    return savings.look(machine, berths.get(pod), state)


def _network_lost(
    world: World, guest: Guest | None, record: StartRecord | None, berths: dict[str, Berth | None]
) -> bool:
    """Whether the berth is in another network namespace than the guest's taps were moved to."""
    if guest is None or record is None or not record.network or record.epoch != guest.order.epoch:
        return False
    berth = berths.get(record.pod_uid)
    try:
        return berth is not None and world.berths.network(berth) != record.network
    except HostFault:
        return False  # the berth went at this moment: that is seen the next time


def _unplugs(machine: Machine, guest: Guest | None, now: float) -> dict[str, Unplug]:
    """A NIC that is gone was let go; libvirt's silence says nothing."""
    if guest is not None:
        machine.unplugs = {name: asked for name, asked in machine.unplugs.items() if guest.nic(name) is not None}
    return {name: Unplug(now - asked.first, now - asked.last) for name, asked in machine.unplugs.items()}


def _berth(world: World, machine: Machine, pod: str) -> Berth | None:
    place = machine.places.get(pod)
    known = place.berth if place is not None else None
    if known is not None and world.berths.alive(known):
        return known
    return world.berths.find(pod)


def _berths(machine: Machine, seen: _Seen, now: float) -> tuple[set[str], set[str]]:
    """Which of the pods are present, and which are positively lost."""
    present, lost = set(), set()
    proven = {seen.guest.order.berth.pod_uid} if seen.guest is not None else set()
    proven |= {seen.record.pod_uid} if seen.record is not None else set()
    for pod, berth in seen.berths.items():
        place = machine.place(pod)
        place.berth = berth
        if berth is not None:
            present.add(pod)
            place.seen, place.missed_at = True, None
            continue
        place.missed_at = now if place.missed_at is None else place.missed_at
        if place.seen or (pod in proven and now - place.missed_at >= SURE_SECONDS):
            lost.add(pod)
    return present, lost


async def _end(world: World, machine: Machine, seen: _Seen, place: Place, lost: set[str], now: float) -> None:
    """When the domain is missed: wait a moment for the event that tells why, then settle the fate."""
    ended = machine.ended
    if seen.guest is not None or seen.record is None or not seen.hypervisor:
        ended.missed_at = None
        return
    if ended.missed_at is None:
        ended.missed_at = now
    if ended.fate is not None or (ended.stopped is None and now - ended.missed_at < FATE_PATIENCE):
        return
    ending = fate.Ending(
        stopped=ended.stopped,
        by_host=ended.by_host,
        panicked=ended.panicked,
        cut_off=machine.cut_off,
        shutdown_asked=place.shutdown_asked,
        berth_lost=place.pod_uid in lost,
        saved=machine.saved or (seen.kept is not None and seen.record.epoch in seen.kept.complete),
        last_words=await world.run(world.journal.last_words, machine.uid),
    )
    ended.fate = fate.fate(ending, world.now().strftime("%Y-%m-%dT%H:%M:%SZ"))


def _age(since: float | None, now: float) -> float | None:
    return None if since is None else now - since
