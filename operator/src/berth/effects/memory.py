"""A node in memory: Hypervisor, Berths, BerthLinks, Media, Network, Journal and Prober over one plain object.

For tests of the agent and the planner. MemoryNode (memory_world.py) is the world and outlives any agent; the ports are
views of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from xml.etree import ElementTree

from berth.api.handover import DoorOrder
from berth.api.order import CloudInitOrder, DiskOrder, KernelOrder, MachineOrder, NicOrder, NicReport, SegmentMembers
from berth.api.virtualmachine import GuestInfo
from berth.domain import metadata
from berth.domain.files import DiskFile, MediaFiles, expected
from berth.domain.observed import DomainState, ObservedDomain, StartRecord
from berth.effects import memory_doors, memory_moving, memory_nics
from berth.effects.memory_world import MemoryDomain as MemoryDomain
from berth.effects.memory_world import MemoryNode as MemoryNode
from berth.effects.memory_world import MemoryPod as MemoryPod
from berth.effects.memory_world import OnConnection, OnEvent
from berth.effects.ports import Abilities, Berth, DomainEvent, DomainEventKind, HypervisorVersions, KvmProbe
from berth.errors import HostFault, HypervisorDown, Unavailable


class MemoryHypervisor(memory_moving.Sender):
    def __init__(self, node: MemoryNode) -> None:
        super().__init__(node.moving, node.did, lambda uid: uid in self._ask().domains)
        self.node = node

    def versions(self) -> HypervisorVersions:
        self._ask()
        return HypervisorVersions("11.3.0", "10.0.0")

    def abilities(self) -> Abilities:
        return self._ask().abilities

    def domains(self) -> list[ObservedDomain]:
        return [found for uid in self._ask().domains if (found := self.domain(uid)) is not None]

    def domain(self, uid: str) -> ObservedDomain | None:
        domain = self._ask().domains.get(uid)
        return None if domain is None else ObservedDomain(uid, domain.name, domain.state, domain.xml, domain.detail)

    def create_paused(self, xml: str) -> None:
        node, root = self._ask(), ElementTree.fromstring(xml)
        uid = root.findtext("uuid", "")
        if uid in node.domains:
            return
        board = root.find("os/type")
        machine = board.get("machine", "") if board is not None else ""
        if machine not in node.abilities.machine_types:
            text = f"this node's libvirt refuses the machine: the emulator does not support machine type '{machine}'"
            raise HostFault(text, reason="DomainRefused")
        node.did("create_paused", uid)
        node.domains[uid] = MemoryDomain(root.findtext("name", ""), xml)
        node.emit(DomainEvent(uid, DomainEventKind.STARTED, "booted"))

    def resume(self, uid: str) -> None:
        self._change(uid, "resume", DomainState.RUNNING, "", DomainEventKind.RESUMED)

    def suspend(self, uid: str) -> None:
        self._change(uid, "suspend", DomainState.PAUSED, "user", DomainEventKind.SUSPENDED)

    def press_power_button(self, uid: str) -> None:
        node = self._ask()
        if uid not in node.domains:
            return
        node.did("press_power_button", uid)
        if node.domains[uid].state is DomainState.RUNNING and not node.deaf_guests:
            node.end(uid, "shutdown")

    def destroy(self, uid: str) -> None:
        node = self._ask()
        if uid in node.domains:
            node.did("destroy", uid)
            node.end(uid, "destroyed")

    def set_metadata(self, uid: str, order_json: str) -> None:
        domain = self._domain(uid)
        self.node.did("set_metadata", uid)
        root = ElementTree.fromstring(domain.xml)
        found = root.find(f"metadata/{metadata.TAG}")
        if found is None:
            raise HostFault(f"domain {uid} is not one that Berth made", reason="MetadataMissing")
        found.text = order_json
        domain.xml = ElementTree.tostring(root, encoding="unicode")

    def guest_info(self, uid: str) -> GuestInfo:
        running = uid in self._ask().domains and self.node.domains[uid].state is DomainState.RUNNING
        return GuestInfo(agent_connected=running, hostname="guest" if running else None)

    def guest_nics(self, uid: str) -> tuple[NicReport, ...]:
        return self.node.said if self.guest_info(uid).agent_connected else ()

    def plug_nic(self, uid: str, alias: str, xml: str) -> None:
        domain = self._domain(uid)
        if not memory_nics.has(domain.xml, alias):
            self.node.did("plug_nic", f"{uid} {alias}")
            domain.xml = memory_nics.plugged(domain.xml, xml)

    def unplug_nic(self, uid: str, alias: str) -> None:
        domain = self._domain(uid)
        if memory_nics.has(domain.xml, alias):
            self.node.did("unplug_nic", f"{uid} {alias}")
            self.node.asked.add((uid, alias))
            if not self.node.clinging_guests:
                self.node.let_go()

    def set_link(self, uid: str, alias: str, up: bool) -> None:
        domain = self._domain(uid)
        if memory_nics.has(domain.xml, alias):
            self.node.did("set_link", f"{uid} {alias} {'up' if up else 'down'}")
            domain.xml = memory_nics.linked(domain.xml, alias, up=up)

    def save(self, uid: str, path: str) -> None:
        domain = self._domain(uid)
        if domain.state is not DomainState.PAUSED:
            raise HostFault(f"domain {uid} runs while it is to be saved", reason="SaveFailed")
        self.node.did("save", uid)

    def restore(self, path: str, xml: str) -> None:
        self.node.did("restore", path)
        self.create_paused(xml)
        for domain in self.node.domains.values():
            domain.detail = "migration" if domain.xml == xml else domain.detail  # libvirt's word, also when all is here

    def set_clock(self, uid: str, seconds: float) -> None:
        if not self.guest_info(uid).agent_connected:
            raise HostFault(f"no agent answers in domain {uid}", reason="AgentSilent")
        self.node.did("set_clock", uid)

    def listen(self, on_event: OnEvent, on_connection: OnConnection) -> None:
        self.node.on_event, self.node.on_connection = on_event, on_connection
        if self.node.up:
            on_connection(True, "")

    def close(self) -> None:
        self.node.on_event = self.node.on_connection = None

    def _ask(self) -> MemoryNode:
        if not self.node.up:
            raise HypervisorDown("libvirtd was stopped; start it again")
        return self.node

    def _domain(self, uid: str) -> MemoryDomain:
        domain = self._ask().domains.get(uid)
        if domain is None:
            raise HostFault(f"domain {uid} is not there", reason="DomainGone")
        return domain

    def _change(self, uid: str, what: str, state: DomainState, detail: str, kind: DomainEventKind) -> None:
        domain = self._domain(uid)
        if domain.state is not state:
            self.node.did(what, uid)
            domain.state, domain.detail = state, detail
            self.node.emit(DomainEvent(uid, kind))


class MemoryBerths(memory_moving.Records):
    def __init__(self, node: MemoryNode) -> None:
        super().__init__(node.moving, node.did)
        self.node = node

    def find(self, pod_uid: str) -> Berth | None:
        pod = self.node.pods.get(pod_uid)
        return None if pod is None else pod.berth

    def alive(self, berth: Berth) -> bool:
        return self.find(berth.pod_uid) == berth

    def network(self, berth: Berth) -> int:
        return self.node.pods[berth.pod_uid].network

    def functions(self, berth: Berth, resources: Sequence[str]) -> dict[str, tuple[str, ...]]:
        return {resource: self.node.functions[resource] for resource in resources if resource in self.node.functions}

    def prepare_cgroup(self, vm_uid: str, guest_uid: int, berth: Berth) -> None:
        self.node.did("prepare_cgroup", vm_uid)
        self.node.folders.setdefault(vm_uid, None)

    def forget(self, vm_uid: str) -> None:
        self.node.did("forget", vm_uid)
        self.node.folders.pop(vm_uid, None)
        self.node.moving.records.pop(vm_uid, None)
        for marks in self.node.folder_marks:
            marks.discard(vm_uid)

    def record_start(self, vm_uid: str, record: StartRecord) -> None:
        self.node.did("record_start", vm_uid)
        self.node.folders[vm_uid] = record

    def start_record(self, vm_uid: str) -> StartRecord | None:
        return self.node.folders.get(vm_uid)

    def folders(self) -> list[str]:
        return list(self.node.folders)


class MemoryLink:
    def __init__(self, node: MemoryNode, pod: MemoryPod, calls: tuple[Callable[[], None], Callable[[], None]]) -> None:
        self._node, self._pod, self._calls = node, pod, calls

    async def exit(self, code: int, note: str) -> None:
        pod_uid = self._pod.berth.pod_uid
        self._node.did("exit", f"{pod_uid} {code}")
        if pod_uid in self._node.pods:
            self._node.kill_pod(pod_uid, code)

    def close(self) -> None:
        for calls, call in zip((self._pod.on_shutdown, self._pod.on_lost), self._calls, strict=True):
            if call in calls:
                calls.remove(call)


class MemoryLinks:
    def __init__(self, node: MemoryNode) -> None:
        self.node = node

    async def connect(self, berth: Berth, on_shutdown: Callable[[], None], on_lost: Callable[[], None]) -> MemoryLink:
        pod = self.node.pods.get(berth.pod_uid)
        if pod is None or pod.berth != berth:
            raise Unavailable(f"the berth of pod {berth.pod_uid} is gone", reason="BerthGone")
        pod.on_shutdown.append(on_shutdown)
        pod.on_lost.append(on_lost)
        if pod.terminating:
            on_shutdown()
        return MemoryLink(self.node, pod, (on_shutdown, on_lost))


class MemoryMedia:
    def __init__(self, node: MemoryNode) -> None:
        self.node = node

    def prepare(
        self,
        vm_uid: str,
        guest_uid: int,
        berth: Berth,
        *,
        disks: Sequence[DiskOrder],
        kernel: KernelOrder | None,
        cloud_init: CloudInitOrder | None,
        vnc: bool,
        arriving: bool = False,
    ) -> MediaFiles:
        self.node.did("prepare", vm_uid)
        self.node.folders.setdefault(vm_uid, None)
        machine = MachineOrder(
            cpus=1, memory_bytes=0, disks=tuple(disks), kernel=kernel, cloud_init=cloud_init, vnc=vnc
        )
        return expected(vm_uid, machine)

    def mark(self, berth: Berth, folder: str, name: str) -> None:
        self.node.did("mark", folder)
        self.node.marks.add((folder, name))

    def is_marked(self, berth: Berth, folder: str, name: str) -> bool:
        return (folder, name) in self.node.marks

    def unmark(self, berth: Berth, folder: str, name: str) -> None:
        self.node.did("unmark", folder)
        self.node.marks.discard((folder, name))

    def fit(self, guest_uid: int, file: DiskFile, size_bytes: int) -> None:
        self.node.did("fit", f"{file.name} {size_bytes}")


class MemoryNetwork(memory_doors.Handover):
    def __init__(self, node: MemoryNode) -> None:
        super().__init__(node.moves, node.did)
        self.node = node

    def create_taps(self, vm_uid: str, guest_uid: int, nics: Sequence[NicOrder]) -> dict[str, str]:
        self.node.did("create_taps", vm_uid)
        self.node.taps.add(vm_uid)
        return {nic.name: f"bt-{nic.name}"[:15] for nic in nics}

    def attach(
        self,
        vm_uid: str,
        berth: Berth,
        nics: Sequence[NicOrder],
        hostname: str,
        *,
        doors: Sequence[DoorOrder] = (),
        silent: bool = False,
    ) -> None:
        self.node.did("attach", vm_uid)
        self.node.attached.add(vm_uid)
        self._wire(vm_uid, nics)
        self.node.moves.attach(berth.pod_uid, doors, silent=silent)

    def serve(
        self,
        vm_uid: str,
        berth: Berth,
        nics: Sequence[NicOrder],
        hostname: str,
        *,
        doors: Sequence[DoorOrder] = (),
        silent: bool = False,
    ) -> None:
        self.node.did("serve", vm_uid)
        self._wire(vm_uid, nics)
        self.node.moves.attach(berth.pod_uid, doors, silent=silent)

    def _wire(self, vm_uid: str, nics: Sequence[NicOrder]) -> None:
        """The taps of NICs that are not named are taken away; one that a guest still has is torn from it."""
        node, named = self.node, {nic.name for nic in nics}
        gone = [nic.name for nic in node.wired.get(vm_uid, ()) if nic.name not in named]
        domain = node.domains.get(vm_uid)
        node.torn += [name for name in gone if domain is not None and memory_nics.has(domain.xml, f"ua-nic-{name}")]
        node.served.add(vm_uid)
        node.wired[vm_uid] = tuple(nics)

    def detach(self, vm_uid: str) -> None:
        self.node.did("detach", vm_uid)
        for names in (self.node.taps, self.node.attached, self.node.served):
            names.discard(vm_uid)
        self.node.wired.pop(vm_uid, None)

    def announce(self, vm_uid: str, berth: Berth, nics: Sequence[NicOrder]) -> None:
        self.node.did("announce", vm_uid)
        self.node.moves.silent.discard(berth.pod_uid)

    def set_members(self, members: SegmentMembers) -> None:
        known = self.node.segments.get(members.segment.uid)
        if known is None or known.version <= members.version:
            self.node.did("set_members", members.segment.uid)
            self.node.segments[members.segment.uid] = members

    def members(self) -> list[SegmentMembers]:
        return list(self.node.segments.values())

    def tidy(self) -> None:
        if "tidy" in self.node.failing:
            raise self.node.failing["tidy"]


class MemoryJournal:
    def __init__(self, words: str = "") -> None:
        self.words = words

    def last_words(self, vm_uid: str) -> str:
        return self.words


class MemoryProber:
    def __init__(self, node: MemoryNode) -> None:
        self.node = node

    def kvm(self) -> KvmProbe:
        return self.node.kvm

    def vhost(self) -> bool:
        return True
