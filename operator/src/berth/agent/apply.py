"""The steps of a plan, carried out: each step in, one call of a port. Called by reconcile.py.

Steps that do not need each other run side by side. It decides nothing; a step that fails raises what the port raised.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, assert_never

from berth.agent.handovers import Handovers
from berth.agent.keeping import Keeping
from berth.agent.machines import Arrival, Machine, Machines, Place, Unplugging
from berth.agent.world import World
from berth.api.order import NicKind, NicOrder, NodeFacts, Order
from berth.domain import build, copied, host, metadata, nics, xml
from berth.domain.devices import address
from berth.domain.observed import StartRecord, TransferStats
from berth.effects.ports import Berth
from berth.errors import BerthError, HostFault, Unavailable
from berth.plan import gathered, steps
from berth.plan.gathered import Gathered
from berth.plan.steps import Step

_SIDE_BY_SIDE: Final = (steps.LinkBerth, steps.PrepareCgroup, steps.PrepareMedia, steps.CreateTaps)
EXIT_TIMEOUT: Final = 5.0
LINK_RETRY: Final = 1.0

_log = logging.getLogger(__name__)


class StepFailed(Exception):
    """Which step it was; the cause says why."""

    def __init__(self, step: Step, cause: Exception) -> None:
        super().__init__(f"{type(step).__name__}: {cause}")
        self.step = step
        self.cause = cause


def groups(plan: tuple[Step, ...]) -> Iterator[list[Step]]:
    """Neighbours that may run side by side, together; all others alone."""
    group: list[Step] = []
    for step in plan:
        if group and not (isinstance(step, _SIDE_BY_SIDE) and isinstance(group[-1], _SIDE_BY_SIDE)):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


class Applier:
    def __init__(
        self, world: World, machines: Machines, ring: Callable[..., None], handovers: Handovers, keeping: Keeping
    ) -> None:
        self._world = world
        self._keeping = keeping
        self._handovers = handovers
        self._machines = machines
        self._ring = ring

    async def apply(
        self, machine: Machine, g: Gathered, plan: tuple[Step, ...], facts: NodeFacts, doing: Callable[[Step], None]
    ) -> None:
        """All steps; StepFailed at the first that fails, when nothing of the plan is under way any more.

        A berth that wants to end meanwhile ends the plan: a guest that never ran need not be asked to shut down.
        """
        pod = gathered.pod(g)
        for group in groups(plan):
            if pod is not None and machine.place(pod).shutdown_asked != g.shutdown_asked:
                return
            doing(group[-1])
            taken = await asyncio.gather(
                *(self._timed(machine, g, step, facts) for step in group), return_exceptions=True
            )
            for step, result in zip(group, taken, strict=True):
                if isinstance(result, Exception):
                    raise StepFailed(step, result) from result
                if isinstance(result, BaseException):
                    raise result

    async def _timed(self, machine: Machine, g: Gathered, step: Step, facts: NodeFacts) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await self._take(machine, g, step, facts)
        machine.phases[type(step).__name__] = loop.time() - begin

    async def _take(self, machine: Machine, g: Gathered, step: Step, facts: NodeFacts) -> None:
        run, world, uid = self._world.run, self._world, machine.uid
        match step:
            case steps.RefuseOrder() | steps.CannotRun() | steps.WaitFor():
                pass
            case steps.LinkBerth(pod_uid=pod):
                self._link(machine, machine.place(pod))
            case steps.PrepareCgroup(order=order):
                await run(world.berths.prepare_cgroup, uid, self._machines.guest_uid(machine), _berth(machine, order))
            case steps.PrepareMedia(order=order):
                await self._prepare_media(machine, order)
            case steps.CreateTaps(order=order):
                place, guest_uid = _place(machine, order), self._machines.guest_uid(machine)
                place.taps = await run(world.network.create_taps, uid, guest_uid, order.machine.nics)
            case steps.CreatePaused(order=order):
                await self._create(machine, order, facts)
            case steps.AttachNetwork(order=order, silent=silent):
                await self._wire(machine, order, world.network.attach, silent=silent)
                if silent:
                    await run(self._handovers.ready_to_ask, machine, order)
            case steps.ServeNetwork(order=order):
                await self._wire(machine, order, world.network.serve)
            case steps.PlugNic(order=order, nic=nic, slot=slot):
                await self._plug(machine, order, nic, slot)
            case steps.UnplugNic(nic=name, alias=alias):
                await run(world.hypervisor.unplug_nic, uid, alias)
                now = asyncio.get_running_loop().time()
                machine.unplugs.setdefault(name, Unplugging(now, now)).last = now
            case steps.SetLink(nic=name, alias=alias, up=up):
                await run(world.hypervisor.set_link, uid, alias, up)
                if up:
                    machine.unplugs.pop(name, None)  # it stays after all
            case steps.MarkStarted(order=order):
                network = await run(world.berths.network, _berth(machine, order))
                await run(world.berths.record_start, uid, self._record(machine, order, network, facts.qemu_version))
            case steps.Resume():
                await run(world.hypervisor.resume, uid)
                machine.resumed_at = asyncio.get_running_loop().time()
                if machine.released is not None:
                    here = int((time.monotonic() - machine.released_at) * 1000)
                    machine.pause_ms, machine.released = machine.released.stopped_ms + here, None
            case steps.Suspend():
                await run(world.hypervisor.suspend, uid)
            case steps.RecordOrder(order=order):
                await run(world.hypervisor.set_metadata, uid, metadata.to_json(order))
            case steps.PressPowerButton():
                await run(world.hypervisor.press_power_button, uid)
                machine.pressed_at = asyncio.get_running_loop().time()
                machine.presses += 1
            case steps.Destroy(code=code, reason=reason):
                machine.cut_off = reason if code == "NetworkLost" else machine.cut_off
                await run(world.hypervisor.destroy, uid)
                machine.saved = machine.saved or code == "Saved"
            case steps.ExitBerth(pod_uid=pod, exit_code=code, note=note):
                await self._exit(machine.place(pod), code, note)
            case steps.CleanUp():
                await self._clean_up(machine)
            case _:
                await self._keep(machine, step, facts)

    async def _keep(self, machine: Machine, step: steps.KeptStep | steps.MovingStep, facts: NodeFacts) -> None:
        """The steps of what is kept of a machine; those of one that moves come after."""
        if isinstance(step, steps.MovingStep):
            await self._move(machine, step, facts)
            return

        async def domain(order: Order, kind: str) -> str:
            machine.new_start()
            return await self._domain(machine, order, facts, kind)

        await self._keeping.take(machine, step, self._machines.guest_uid, domain)

    async def _move(self, machine: Machine, step: steps.MovingStep, facts: NodeFacts) -> None:
        """The steps of a machine that moves."""
        run, handovers = self._world.run, self._handovers
        match step:
            case steps.BeginSending(order=order, method=method):
                machine.stopped_at, machine.transfer = None, TransferStats()
                machine.transfer_at = asyncio.get_running_loop().time()
                await run(handovers.begin, machine, order, method)
            case steps.AllowPause(method=method):
                await run(handovers.allow_pause, machine.uid, method)
            case steps.GiveUp(code=code, reason=reason):
                await run(handovers.give_up, machine, code, reason)
            case steps.FailSending():
                await run(handovers.fail, machine)
            case steps.RunOn():
                await run(handovers.run_on, machine)
            case steps.LetGo():
                await run(handovers.finish, machine)
            case steps.LeadOn(order=order):
                await run(handovers.lead_on, machine, order)
            case steps.AwaitGuest(order=order):
                await self._await_guest(machine, order, facts)
            case steps.AskSource(order=order):
                await run(handovers.ask, machine, order)
            case steps.Arrive(order=order):
                berth, flows = _berth(machine, order), machine.released.flows if machine.released is not None else ()
                await run(self._world.network.arrive, machine.uid, berth, flows)
                await run(self._world.network.announce, machine.uid, berth, order.machine.nics)
            case steps.FailReceiving(order=order, reason=reason):
                await run(handovers.fail_receiving, machine, order, reason)
            case _ as never:
                assert_never(never)

    async def _wire(self, machine: Machine, order: Order, how: Callable[..., None], *, silent: bool = False) -> None:
        place, nics = _place(machine, order), order.machine.nics
        more = {"doors": order.doors, "silent": silent}
        await self._world.run(how, machine.uid, _berth(machine, order), nics, _hostname(order), **more)
        place.network, place.doors = nics, order.doors

    async def _await_guest(self, machine: Machine, order: Order, facts: NodeFacts) -> None:
        """Let the source begin: the copy is made of this very XML."""
        incoming, moving = order.incoming, self._world.moving
        if incoming is None or moving is None:
            raise HostFault("this agent cannot take guests of other nodes", reason="MoveUnsupported")
        guest_uid = self._machines.guest_uid(machine)
        domain = await self._domain(machine, order, facts)
        machine.new_start()
        await self._world.run(moving.folders.moving, machine.uid, guest_uid)
        media = _place(machine, order).files
        files = {file.name: file for file in media.disks} if media is not None else {}
        disks = tuple((disk, files[disk.name]) for disk in copied.of(order.machine))
        machine.arrival = Arrival(
            incoming.migration, incoming.source.node, domain, guest_uid, order, _berth(machine, order), disks
        )

    async def _prepare_media(self, machine: Machine, order: Order) -> None:
        hardware = order.machine
        _place(machine, order).files = await self._world.run(
            self._world.media.prepare,
            machine.uid,
            self._machines.guest_uid(machine),
            _berth(machine, order),
            disks=hardware.disks,
            kernel=hardware.kernel,
            cloud_init=hardware.cloud_init,
            vnc=hardware.vnc,
            arriving=order.incoming is not None,
        )

    async def _create(self, machine: Machine, order: Order, facts: NodeFacts) -> None:
        domain = await self._domain(machine, order, facts)
        machine.new_start()
        await self._world.run(self._world.hypervisor.create_paused, domain)

    async def _domain(self, machine: Machine, order: Order, facts: NodeFacts, kind: str = "") -> str:
        """``kind``: the machine type of a state, which may be older than this node's."""
        place = _place(machine, order)
        accelerator = host.choose_accelerator(order.emulation, kvm_usable=facts.kvm_usable)
        if place.files is None or accelerator is None:
            raise HostFault("the plan creates a domain before its files and its host are known", reason="InternalError")
        this_host = await self._host(machine, order, accelerator)
        this_host = replace(this_host, machine=kind or this_host.machine)
        return xml.render(build.build(order, place.files, place.taps, this_host))

    async def _host(self, machine: Machine, order: Order, accelerator: host.Accelerator) -> host.Host:
        """What this domain needs to know of the node."""
        run, world = self._world.run, self._world
        resources = [nic.resource for nic in order.machine.nics if nic.kind is NicKind.DEVICE]
        return host.Host(
            accelerator=accelerator,
            guest_uid=self._machines.guest_uid(machine),
            vhost=await run(world.prober.vhost),
            functions=await run(world.berths.functions, _berth(machine, order), resources) if resources else {},
        )

    async def _plug(self, machine: Machine, order: Order, nic: NicOrder, slot: int) -> None:
        guest, guest_uid = machine.guest, self._machines.guest_uid(machine)
        if guest is None:
            raise HostFault("the plan plugs a NIC into a machine that is not there", reason="InternalError")
        taps = await self._world.run(self._world.network.create_taps, machine.uid, guest_uid, (nic,))
        this_host = await self._host(machine, order, guest.accelerator)
        card = nics.interface(nic, taps[nic.name], this_host, address.plugged(slot), link_up=False)
        await self._world.run(self._world.hypervisor.plug_nic, machine.uid, card.alias, xml.text(card.to_element()))

    def _record(self, machine: Machine, order: Order, network: int, qemu: str) -> StartRecord:
        return StartRecord(
            epoch=order.epoch,
            pod_uid=order.berth.pod_uid,
            guest_uid=self._machines.guest_uid(machine),
            namespace=order.namespace,
            name=order.name,
            at=self._world.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            qemu=qemu,
            network=network,
        )

    def _link(self, machine: Machine, place: Place) -> None:
        """Begin to connect; nothing waits for it. The bell rings when it stands, when it fails, and when it ends."""
        if place.link is None and place.linking is None and place.berth is not None:
            connecting = self._connect(machine, place, place.berth)
            place.linking = asyncio.create_task(connecting, name=f"link {place.pod_uid}")

    async def _connect(self, machine: Machine, place: Place, berth: Berth) -> None:
        def on_shutdown() -> None:
            if place.asked_at is None:
                place.asked_at = asyncio.get_running_loop().time()
            place.shutdown_asked = True
            self._ring(machine.uid)

        def on_lost() -> None:
            place.link = None
            self._ring(machine.uid)

        try:
            place.link = await self._world.links.connect(berth, on_shutdown, on_lost)
        except BerthError as error:
            _log.info(
                "no line to the berth yet", extra={"vm": machine.uid, "reason": error.reason, "error": str(error)}
            )
            self._ring(machine.uid, LINK_RETRY)
        finally:
            place.linking = None

    async def _exit(self, place: Place, code: int, note: str) -> None:
        if place.linking is not None:
            await asyncio.wait([place.linking], timeout=EXIT_TIMEOUT)
        if place.link is None:
            raise Unavailable(
                "there is no line to the berth to tell it that the guest ended", reason="BerthUnreachable"
            )
        try:
            async with asyncio.timeout(EXIT_TIMEOUT):
                await place.link.exit(code, note)
        except TimeoutError as error:
            message = f"the berth took no word for {EXIT_TIMEOUT:.0f} s; it is told again"
            raise Unavailable(message, reason="BerthUnreachable") from error
        place.exit_told_at = asyncio.get_running_loop().time()

    async def _clean_up(self, machine: Machine) -> None:
        await self._world.run(self._world.network.detach, machine.uid)
        await self._world.run(self._world.berths.forget, machine.uid)
        ordered = machine.order.berth.pod_uid if machine.order is not None else None
        for pod in [pod for pod in machine.places if pod != ordered]:
            machine.places.pop(pod).close()


def _place(machine: Machine, order: Order) -> Place:
    return machine.place(order.berth.pod_uid)


def _berth(machine: Machine, order: Order) -> Berth:
    berth = _place(machine, order).berth
    if berth is None:
        raise Unavailable(f"the berth process of pod {order.berth.pod_name} is not there", reason="BerthGone")
    return berth


def _hostname(order: Order) -> str:
    return order.machine.hostname or order.name
