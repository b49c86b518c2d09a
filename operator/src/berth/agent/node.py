"""The agent of one node, put together: bells in, machines looked at by a few workers, reports out. Used by main.py.

Starting it touches no guest that runs; stopping it touches none either.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Final

from berth.agent import facts
from berth.agent.berthwatch import BerthWatch
from berth.agent.doorbell import Doorbell
from berth.agent.events import Events
from berth.agent.guestinfo import GuestInfos
from berth.agent.handovers import Handovers
from berth.agent.machines import Machine, Machines
from berth.agent.metrics import Metrics
from berth.agent.reconcile import Reconciler
from berth.agent.reports import Hub
from berth.agent.saving import Savings
from berth.agent.segments import Segments
from berth.agent.settings import Settings
from berth.agent.snapshots import Snapshots
from berth.agent.surveys import Surveys
from berth.agent.world import World
from berth.api.order import GuestState, Report
from berth.errors import BerthError
from berth.plan import moving

PROGRESS_SECONDS: Final = 1.0
PATIENCE: Final = 1.0
"""After a look that failed unexpectedly: long enough not to spin."""

_log = logging.getLogger(__name__)


class Node:
    def __init__(self, settings: Settings, world: World) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._world = world
        self.metrics = Metrics()
        self.bell = Doorbell()
        self.hub = Hub(facts.first(settings.node_name, settings.peer_port), self._heard)
        uids = range(settings.uid_base, settings.uid_base + settings.uid_count)
        self.machines = Machines(settings.node_name, uids, self.bell.ring, loop.time, self._first_report)
        self.segments = Segments(world)
        self._facts = facts.FactFinder(world, self.hub)
        self._events = Events(self.machines, self._rung, self._connection)
        self._watch = BerthWatch(world, self.bell.ring)
        self._infos = GuestInfos(world, self.machines, self.bell.ring)
        self.handovers = Handovers(world, self.machines, lambda uid: _ring_from_thread(loop, self.bell, uid))
        self.savings = Savings(world, self.bell.ring)
        self.snapshots = Snapshots(world, self.bell.ring)
        self._surveys = Surveys(world, self.handovers.tunnel, self.bell.ring, settings.migration_cpus)
        self._reconciler = Reconciler(
            world,
            self.machines,
            self.hub,
            self.bell.ring,
            self._watch,
            self.metrics,
            self.handovers,
            self.savings,
            self.snapshots,
            self._surveys,
        )
        self._events.on_stopped = self._stopped
        self._tasks: set[asyncio.Task[None]] = set()
        self._listed = False  # libvirt has told once which domains there are
        self._unseen: set[str] = set()  # of those that were here then, the ones nobody has looked at yet

    async def start(self) -> None:
        """Begin at once with what runs here; the host is probed meanwhile."""
        self._events.listen(self._world.hypervisor)
        self._begin(self._probe(), "probe")
        self._begin(self._watch.run(), "watch berths")
        self._begin(self._infos.run(), "guest info")
        self._begin(self._progress(), "progress of migrations")
        self._begin(self.segments.run(), "segments")
        for number in range(self._settings.workers):
            self._begin(self._work(), f"worker {number}")

    async def stop(self) -> None:
        """Let go of everything; guests run on, and berths keep the lines' other ends open."""
        self.savings.close()
        self.snapshots.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for machine in self.machines.all():
            for place in machine.places.values():
                place.close()
        self._world.hypervisor.close()

    def _stopped(self, uid: str) -> None:
        async def depart() -> None:
            await self._world.run(self.handovers.stopped, uid)

        self._begin(depart(), f"depart {uid}")

    async def _progress(self) -> None:
        """How far the guests are that are sent away or saved, and how many connections still come through the doors."""
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            for uid in (*self.handovers.sending(), *self.savings.busy(), *self.snapshots.busy()):
                least = self.handovers.watch(uid)
                machine = self.machines.get(uid)
                with contextlib.suppress(BerthError):
                    stats = await self._world.run(self._world.hypervisor.transfer, uid)
                    if machine is not None and stats is not None:
                        now = asyncio.get_running_loop().time()
                        machine.transfer = moving.measured(machine.transfer, stats, least, now - machine.transfer_at)
                        machine.transfer_at = now
                        self.bell.ring(uid)
            for machine in self.machines.all():
                await self._count(machine)

    async def _count(self, machine: Machine) -> None:
        report = self.hub.report(machine.uid)
        if report is None or report.state is not GuestState.MOVED:
            return
        berth = machine.place(report.pod_uid).berth
        with contextlib.suppress(BerthError):
            if berth is not None:
                found = await self._world.run(self._world.network.connections, machine.uid, berth)
                if found != machine.connections:
                    machine.connections = found
                    self.bell.ring(machine.uid)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task ended", extra={"task": task.get_name()}, exc_info=error)

    async def _probe(self) -> None:
        await self._facts.probe()
        self.hub.facts_are_known()
        self._open_when_known()
        await self._facts.watch()

    def _connection(self, up: bool, message: str) -> None:
        """libvirtd came or went: tell it, and look at everything anew."""
        self.metrics.hypervisor.set(up)
        if up:
            self._begin(self._adopt(), "adopt")
        else:
            _log.warning("libvirtd does not answer", extra={"error": message})
            for machine in self.machines.all():
                self.bell.ring(machine.uid)
        self._begin(self._facts.hypervisor(up, message), "facts")

    async def _adopt(self) -> None:
        """Every machine that is here gets looked at: those that run, and those that left a folder."""
        try:
            domains = await self._world.run(self._world.hypervisor.domains)
        except BerthError as error:
            _log.warning("the running guests cannot be listed yet", extra={"error": str(error)})
            return  # the connection is about to be lost and to come back
        here = {domain.uid for domain in domains} | set(await self._world.run(self._world.berths.folders))
        for uid in here:
            self.machines.add(uid)
        _log.info("libvirtd answers", extra={"domains": len(domains), "machines": len(here)})
        if not self._listed:
            self._listed, self._unseen = True, here
        for machine in self.machines.all():
            self.bell.ring(machine.uid)
        self._open_when_known()

    async def _work(self) -> None:
        """One look after the other; whatever happens in one must not end the worker."""
        while True:
            uid = await self.bell.next()
            try:
                with self.metrics.reconcile_seconds.time():
                    await self._reconciler.reconcile(uid)
            except Exception as error:
                known = isinstance(error, BerthError)
                _log.error("a look at a machine failed", extra={"uid": uid, "error": str(error)}, exc_info=not known)
                self.bell.ring(uid, PATIENCE)
            finally:
                self.bell.done(uid)
                self._unseen.discard(uid)
                self._open_when_known()

    def _open_when_known(self) -> None:
        """Orders and snapshots wait until every machine that was here at the start has been looked at once."""
        if self._listed and not self._unseen and self.hub.has_facts and not self.hub.is_open:
            self.hub.open()
            _log.info("ready", extra={"machines": len(self.hub.reports)})

    def _rung(self, uid: str) -> None:
        """An event: the channel of the guest's agent may have opened."""
        self.bell.ring(uid)
        machine = self.machines.get(uid)
        if machine is not None and machine.agent_channel:
            self._infos.ask(machine)

    def _heard(self, report: Report) -> None:
        """A listener was sent this: a fate need not be kept any longer."""
        machine = self.machines.get(report.uid)
        if machine is not None and report.fate is not None and not machine.told:
            machine.told = True
            self.bell.ring(report.uid)

    def _first_report(self, uid: str) -> Report:
        return self._reconciler.first_report(uid)


def _ring_from_thread(loop: asyncio.AbstractEventLoop, bell: Doorbell, uid: str) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(bell.ring, uid)
