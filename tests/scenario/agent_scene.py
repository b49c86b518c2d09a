"""A whole agent on a node in memory, in a time of its own: no thread, no wait, the same run every time.

The loop's clock jumps to the next timer when nothing is left to do. An agent is killed by freezing it: from then on its
calls reach the world no more, and a fresh one starts with nothing but what the world holds.
"""

from __future__ import annotations

import asyncio
import datetime
import selectors
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from berth.agent.node import Node
from berth.agent.settings import Settings
from berth.agent.world import Snapshotting, World
from berth.api.order import Changed, Fate, GuestState, Order, Report, Snapshot
from berth.domain.observed import DomainState
from berth.effects import memory
from berth.effects.memory import MemoryNode
from berth.effects.memory_snapshots import MemoryBackups, MemoryReverts, MemorySnapshots
from berth.effects.memory_states import MemoryStates, Volume
from berth.effects.ports import Berth
from tests.unit.agent.orders import NODE, order, uid

T = TypeVar("T")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


class _JumpingSelector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again: every task waits for another")
        self.loop.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time stands still while there is work, and jumps over the waits."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def play(story: Callable[[Scene], Awaitable[T]], *, workers: int = 4) -> T:
    """Run one scene from an empty node to its end."""
    loop = VirtualLoop()

    async def whole() -> T:
        scene = Scene(workers=workers)
        try:
            return await story(scene)
        finally:
            await scene.kill_agent()

    try:
        return loop.run_until_complete(whole())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


@dataclass
class Scene:
    """The world, the agent of the hour, and everything any agent said."""

    workers: int = 4
    node: MemoryNode = field(default_factory=MemoryNode)
    agent: Node | None = None
    said: list[Changed | Snapshot] = field(default_factory=list)
    calls: int = 0
    freeze_at: int | None = None
    """The agent dies at this call of a port; ``freeze_after`` tells whether the call still reaches the world."""
    freeze_after: bool = False
    words: str = ""
    volume: Volume = field(default_factory=Volume)
    hanging: set[str] = field(default_factory=set)  # methods of ports that do not come back
    frozen: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.states = MemoryStates(self.volume, self.node.did)
        self.snapshots = MemorySnapshots(self.volume, self.node.did)
        self.node.folder_marks = (self.states.marks, self.states.clocks, self.snapshots.marks)
        self.furnish()

    def furnish(self) -> None:
        """What is libvirt's of the node of the hour."""
        node = self.node
        node.moving.disks.setdefault("vda", 1 << 20)
        self.backups = MemoryBackups(node.did, lambda uid: uid in node.domains)
        self.reverts = MemoryReverts(self.volume, node.did, self.states.clocks)

    @property
    def log(self) -> list[str]:
        """What was done to the world, without the uids."""
        return [line.split()[0] for line in self.node.log]

    async def start_agent(self) -> Node:
        self.frozen = asyncio.Event()
        self.freeze_at = None
        self.calls = 0
        generation = self.frozen

        async def run(call: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
            await asyncio.sleep(0.001)
            if call.__name__ in self.hanging:
                await asyncio.Event().wait()
            return await self._through(generation, lambda: call(*args, **kwargs))

        world = World(
            hypervisor=memory.MemoryHypervisor(self.node),
            berths=memory.MemoryBerths(self.node),
            links=_MortalLinks(self, generation),
            media=memory.MemoryMedia(self.node),
            network=memory.MemoryNetwork(self.node),
            journal=memory.MemoryJournal(self.words),
            prober=memory.MemoryProber(self.node),
            run=run,
            states=self.states,
            snapshots=Snapshotting(self.snapshots, self.reverts, self.backups),
            now=lambda: START + datetime.timedelta(seconds=asyncio.get_running_loop().time()),
        )
        settings = Settings(node_name=NODE, host_ip="127.0.0.1", workers=self.workers)
        before = asyncio.all_tasks()
        agent = self.agent = Node(settings, world)
        await agent.start()
        self._tasks = asyncio.all_tasks() - before
        self._tasks.add(asyncio.create_task(self._hear(agent)))
        return agent

    async def kill_agent(self) -> None:
        """kill -9: nothing is said good-bye to."""
        self.frozen.set()
        self.node.on_event = self.node.on_connection = None
        for pod in self.node.pods.values():
            pod.on_shutdown.clear()
            pod.on_lost.clear()
        mine = asyncio.current_task()
        doomed = [task for task in asyncio.all_tasks() if task is not mine]
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        self.agent = None

    async def restart_agent(self, *resent: Order) -> None:
        """A fresh agent after a kill; the controller sends its orders again."""
        await self.kill_agent()
        await self.start_agent()
        await self.order(*resent)

    async def order(self, *orders: Order) -> None:
        assert self.agent is not None
        if orders:
            await self.agent.hub.opened()
        for one in orders:
            self.agent.machines.accept(one)

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def until(
        self, condition: Callable[[], object], seconds: float = 120, what: str = "it", *, step: float = 0.0
    ) -> float:
        """Wait in virtual time; how long it took. It looks every ``step`` seconds, by default the rarer the longer."""
        step = step or max(0.005, seconds / 10_000)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        while not condition():
            assert loop.time() - begin < seconds, f"{what} did not happen in {seconds} s; log: {self.node.log}"
            await asyncio.sleep(step)
        return loop.time() - begin

    async def state(self, wanted: GuestState, number: int = 1, seconds: float = 120) -> Report:
        def seen() -> bool:
            report = self.report(number)
            return report is not None and report.state is wanted

        await self.until(seen, seconds, f"{wanted} (now {self.report(number)})")
        found = self.report(number)
        assert found is not None
        return found

    async def running(self, number: int = 1, epoch: int = 1) -> Order:
        """Pod, agent and order there, the guest up."""
        given = order(number, epoch)
        if given.berth.pod_uid not in self.node.pods:
            self.node.start_pod(given.berth.pod_uid)
        if self.agent is None:
            await self.start_agent()
        await self.order(given)
        await self.state(GuestState.RUNNING, number)
        return given

    async def gone(self, number: int = 1, seconds: float = 120) -> None:
        await self.until(lambda: self.report(number) is None and not self.known(number), seconds, "gone")

    def report(self, number: int = 1) -> Report | None:
        return self.agent.hub.report(uid(number)) if self.agent is not None else None

    def known(self, number: int = 1) -> bool:
        return self.agent is not None and self.agent.machines.get(uid(number)) is not None

    def runs(self, number: int = 1) -> bool:
        domain = self.node.domains.get(uid(number))
        return domain is not None and domain.state is DomainState.RUNNING

    def fates(self) -> list[Fate]:
        """Each that was told, once."""
        reports = [r for m in self.said for r in (m.reports if isinstance(m, Snapshot) else [m.report])]
        return list(dict.fromkeys(r.fate for r in reports if r.fate is not None))

    def clean(self) -> bool:
        """Nothing of any machine is left on the node."""
        node = self.node
        return not (
            node.domains
            or node.folders
            or node.taps
            or node.attached
            or node.served
            or self.states.marks
            or self.snapshots.marks
        )

    async def _through(self, generation: asyncio.Event, call: Callable[[], T]) -> T:
        if generation.is_set():
            await asyncio.Event().wait()
        self.calls += 1
        if self.freeze_at is not None and self.calls >= self.freeze_at:
            generation.set()
            if self.freeze_after:
                call()
            await asyncio.Event().wait()
        return call()

    async def _hear(self, agent: Node) -> None:
        """A controller that listens well."""
        with agent.hub.listen() as listener:
            while True:
                for message in await listener.take(10):
                    agent.hub.told(message)
                    if isinstance(message, Changed | Snapshot):
                        self.said.append(message)


class _MortalLinks:
    """The lines to the berths, of an agent that may be dead."""

    def __init__(self, scene: Scene, generation: asyncio.Event) -> None:
        self._scene = scene
        self._generation = generation

    async def connect(self, berth: Berth, on_shutdown: Callable[[], None], on_lost: Callable[[], None]) -> _MortalLink:
        def alive(call: Callable[[], None]) -> Callable[[], None]:
            return lambda: None if self._generation.is_set() else call()

        links = memory.MemoryLinks(self._scene.node)
        connecting = links.connect(berth, alive(on_shutdown), alive(on_lost))
        return _MortalLink(self._scene, self._generation, await connecting)


class _MortalLink:
    def __init__(self, scene: Scene, generation: asyncio.Event, link: memory.MemoryLink) -> None:
        self._scene = scene
        self._generation = generation
        self._link = link

    async def exit(self, code: int, note: str) -> None:
        if self._generation.is_set():
            await asyncio.Event().wait()
        await self._link.exit(code, note)

    def close(self) -> None:
        self._link.close()
