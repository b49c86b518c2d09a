"""The ports an agent works with, put together by main.py or by a test, and how blocking ones are called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from typing import ParamSpec, Protocol, TypeVar

from berth.effects.folders import MachineFolders
from berth.effects.ports import BerthLinks, Berths, Hypervisor, Journal, Media, Network, Prober
from berth.effects.ports_moving import Qemus
from berth.effects.ports_saving import Backups, Reverts, Snapshots, States

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """Calls something that blocks without stopping the loop."""

    def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Moving:
    """What moving guests needs beside the rest: QEMU's processes, folders for sockets, where other agents call."""

    qemus: Qemus
    folders: MachineFolders
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Snapshotting:
    """What snapshots need beside the rest."""

    files: Snapshots
    reverts: Reverts
    backups: Backups


@dataclass(frozen=True, slots=True)
class World:
    hypervisor: Hypervisor
    berths: Berths
    links: BerthLinks
    media: Media
    network: Network
    journal: Journal
    prober: Prober
    run: Runner
    now: Callable[[], datetime]
    moving: Moving | None = None  # None: guests cannot move
    states: States | None = None  # None: guests cannot be saved
    snapshots: Snapshotting | None = None  # None: no snapshots of them can be taken


def in_threads(executor: Executor) -> Runner:
    async def run(call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, lambda: call(*args, **kwargs))

    return run
