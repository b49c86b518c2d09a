"""A node in memory and the smallest agent that can carry plans out: gather, plan, apply, one machine, no threads.

It may be interrupted after any step and then forgets all that an agent forgets: that is what the tests are about.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from berth.api.order import Fate, FateReason, NicOrder, Order
from berth.domain import build, metadata, nics, xml
from berth.domain.devices import address
from berth.domain.files import MediaFiles
from berth.domain.host import Accelerator, Host
from berth.domain.observed import StartRecord
from berth.effects.memory import (
    MemoryBerths,
    MemoryHypervisor,
    MemoryLink,
    MemoryLinks,
    MemoryMedia,
    MemoryNetwork,
    MemoryNode,
)
from berth.effects.ports import Berth, DomainEvent, DomainEventKind
from berth.errors import HypervisorDown
from berth.plan import machine, steps
from berth.plan.gathered import FATE_PATIENCE, Gathered, Unplug, pod
from berth.plan.steps import Step

GUEST_UID = 1_900_000_000


@dataclass
class Memory:
    """All that an agent holds in its own memory, and loses when it ends."""

    order: Order | None = None
    seen: set[str] = field(default_factory=set)
    links: dict[str, MemoryLink] = field(default_factory=dict)
    shutdown_asked: set[str] = field(default_factory=set)
    network: tuple[NicOrder, ...] | None = None
    unplugs: dict[str, Unplug] = field(default_factory=dict)
    told: bool = False
    media: MediaFiles | None = None
    taps: dict[str, str] = field(default_factory=dict)
    fate: Fate | None = None
    pressed: bool = False


class Agent:
    """``node`` outlives it; ``restart`` is kill -9 and a new one."""

    def __init__(self, uid: str, node: MemoryNode) -> None:
        self.uid = uid
        self.node = node
        self.restart()

    def restart(self) -> None:
        self.memory = Memory()
        for berth_pod in self.node.pods.values():
            berth_pod.on_lost.clear()
            berth_pod.on_shutdown.clear()
        self.node.on_event = self._take

    def gather(self) -> Gathered:
        hypervisor, berths = MemoryHypervisor(self.node), MemoryBerths(self.node)
        try:
            observed = hypervisor.domain(self.uid)
            up = True
        except HypervisorDown:
            observed, up = None, False
        guest = xml.read(observed) if observed is not None else None
        record = berths.start_record(self.uid)
        seen = Gathered(self.uid, self.memory.order, up, guest, record, self.uid in berths.folders())
        named = [r for r in (guest and guest.order.berth.pod_uid, record and record.pod_uid) if r]
        proven = set(named) | self.memory.seen
        named += [self.memory.order.berth.pod_uid] if self.memory.order else []
        present = frozenset(name for name in named if berths.find(name))
        self.memory.seen |= present
        place = pod(seen) or ""
        return replace(
            seen,
            present=present,
            lost=frozenset(name for name in named if name in proven and name not in present),
            linked=place in self.memory.links,
            network=self.memory.network,
            unplugs={name: u for name, u in self.memory.unplugs.items() if guest is not None and guest.nic(name)},
            shutdown_asked=place in self.memory.shutdown_asked,
            button_age=0.0 if self.memory.pressed else None,
            fate=self.memory.fate,
            ended_age=FATE_PATIENCE,
            exit_told=self.memory.told,
            kvm_usable=self.node.kvm.usable,
        )

    def plan(self) -> steps.Plan:
        return machine.plan(self.gather())

    def act(self, limit: int = 100) -> int:
        """Carry out one plan, or its first ``limit`` steps; how many were taken that change something."""
        taken = 0
        for step in self.plan().steps:
            if isinstance(step, steps.RefuseOrder | steps.CannotRun | steps.WaitFor):
                continue
            if taken == limit:
                break
            self.apply(step)
            taken += 1
        return taken

    def settle(self) -> None:
        """Plan and act until there is nothing to do; a world that never comes to rest is a fault."""
        for _ in range(20):
            if self.act() == 0:
                return
        raise AssertionError(f"no rest: {self.plan().steps}")

    def apply(self, step: Step) -> None:
        hypervisor, network, berths = MemoryHypervisor(self.node), MemoryNetwork(self.node), MemoryBerths(self.node)
        memory, uid = self.memory, self.uid
        match step:
            case steps.LinkBerth(pod_uid=name):
                self._link(name)
            case steps.PrepareCgroup(order=order):
                berths.prepare_cgroup(uid, GUEST_UID, self._berth(order))
            case steps.PrepareMedia(order=order):
                memory.media = self._media(order)
            case steps.CreateTaps(order=order):
                memory.taps = network.create_taps(uid, GUEST_UID, order.machine.nics)
            case steps.CreatePaused(order=order):
                assert memory.media is not None
                memory.fate, memory.pressed = None, False
                made = build.build(order, memory.media, memory.taps, Host(Accelerator.TCG, GUEST_UID))
                hypervisor.create_paused(xml.render(made))
            case steps.AttachNetwork(order=order):
                network.attach(uid, self._berth(order), order.machine.nics, order.name)
                memory.network = order.machine.nics
            case steps.ServeNetwork(order=order):
                network.serve(uid, self._berth(order), order.machine.nics, order.name)
                memory.network = order.machine.nics
            case steps.PlugNic(order=order, nic=nic, slot=slot):
                taps = network.create_taps(uid, GUEST_UID, (nic,))
                place, host = address.plugged(slot), Host(Accelerator.TCG, GUEST_UID)
                card = nics.interface(nic, taps[nic.name], host, place, link_up=False)
                hypervisor.plug_nic(uid, card.alias, xml.text(card.to_element()))
            case steps.UnplugNic(nic=name, alias=alias):
                memory.unplugs[name] = Unplug()
                hypervisor.unplug_nic(uid, alias)
            case steps.SetLink(alias=alias, up=up):
                hypervisor.set_link(uid, alias, up)
            case steps.MarkStarted(order=order):
                berths.record_start(uid, StartRecord(order.epoch, order.berth.pod_uid, GUEST_UID))
            case steps.Resume():
                hypervisor.resume(uid)
            case steps.Suspend():
                hypervisor.suspend(uid)
            case steps.RecordOrder(order=order):
                hypervisor.set_metadata(uid, metadata.to_json(order))
            case steps.PressPowerButton():
                memory.pressed = True
                hypervisor.press_power_button(uid)
            case steps.Destroy():
                hypervisor.destroy(uid)
            case steps.ExitBerth(pod_uid=name, exit_code=code, note=note):
                if name in memory.links:
                    memory.told = True
                    asyncio.run(memory.links[name].exit(code, note))
            case steps.CleanUp():
                network.detach(uid)
                berths.forget(uid)
                order = memory.order
                self.memory = Memory(order=order, seen=memory.seen)
            case _:
                raise AssertionError(step)

    def _media(self, order: Order) -> MediaFiles:
        hardware = order.machine
        return MemoryMedia(self.node).prepare(
            self.uid,
            GUEST_UID,
            self._berth(order),
            disks=hardware.disks,
            kernel=hardware.kernel,
            cloud_init=hardware.cloud_init,
            vnc=hardware.vnc,
        )

    def _berth(self, order: Order) -> Berth:
        found = MemoryBerths(self.node).find(order.berth.pod_uid)
        assert found is not None, "a step needs a berth that is not there"
        return found

    def _link(self, name: str) -> None:
        berth = MemoryBerths(self.node).find(name)
        assert berth is not None
        memory = self.memory
        call = MemoryLinks(self.node).connect(
            berth, lambda: memory.shutdown_asked.add(name), lambda: memory.links.pop(name, None) and None
        )
        memory.links[name] = asyncio.run(call)

    def _take(self, event: DomainEvent) -> None:
        if event.kind is DomainEventKind.STOPPED:
            orderly = event.detail == "shutdown"
            reason = FateReason.GUEST_POWEROFF if orderly else FateReason.KILLED
            self.memory.fate = Fate(reason=reason, exit_code=0 if orderly else 1, at="2026-01-01T00:00:00Z")
