"""What this node can do: asked of the host at start and whenever it may have changed, told to whoever listens.

Called by node.py. It decides nothing about machines.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Final, Literal

from berth import __version__
from berth.agent.reports import Hub
from berth.agent.world import World
from berth.api.order import NodeFacts
from berth.effects.ports import HypervisorVersions, KvmProbe
from berth.errors import BerthError

WATCH_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


class FactFinder:
    """``proc`` and ``kvm`` are where tests look elsewhere."""

    def __init__(self, world: World, hub: Hub, proc: Path = Path("/proc"), kvm: Path = Path("/dev/kvm")) -> None:
        self._world = world
        self._hub = hub
        self._proc = proc
        self._kvm = kvm
        self._probed: tuple[int, int] | None = None

    async def probe(self) -> None:
        """Run the KVM probe and tell what the host is; the first time before anything is told at all."""
        self._probed = _device(self._kvm)
        try:
            found = await self._world.run(self._world.prober.kvm)
        except BerthError as error:
            found = KvmProbe(False, str(error))
        _log.info("KVM probed", extra={"usable": found.usable, "reason": found.reason})
        host = await self._world.run(_host, self._proc)
        self._hub.tell_facts(
            self._hub.facts.model_copy(update={"kvm_usable": found.usable, "kvm_reason": found.reason, **host})
        )

    async def hypervisor(self, connected: bool, message: str) -> None:
        """The connection to libvirtd came or went."""
        versions = HypervisorVersions("", "")
        if connected:
            try:
                versions = await self._world.run(self._world.hypervisor.versions)
            except BerthError as error:
                connected, message = False, str(error)
        update: dict[str, object] = {"hypervisor_connected": connected, "hypervisor_message": message}
        if connected:
            update |= {"libvirt_version": versions.libvirt, "qemu_version": versions.qemu, "hypervisor_message": ""}
        self._hub.tell_facts(self._hub.facts.model_copy(update=update))
        if connected:
            await self._abilities()

    async def _abilities(self) -> None:
        """Told after the connection itself: libvirt may have to ask a QEMU that is new to it, for seconds."""
        try:
            found = await self._world.run(self._world.hypervisor.abilities)
        except BerthError as error:
            _log.warning("what QEMU can be is not known", extra={"error": str(error)})
            return
        update = {"machine_types": found.machine_types, "host_cpus": found.cpus}
        self._hub.tell_facts(self._hub.facts.model_copy(update=update))

    async def watch(self) -> None:
        """A module loaded or a device node replaced later is found out without a restart."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if _device(self._kvm) != self._probed:
                await self.probe()


def first(node: str, peer_port: int = 0) -> NodeFacts:
    return NodeFacts(
        node=node,
        agent_version=__version__,
        hypervisor_message="not connected yet",
        peer_port=peer_port,
        copies_disks=True,
        states=True,
        snapshots=True,
    )


def _host(proc: Path) -> dict[str, object]:
    memory = next(row for row in (proc / "meminfo").read_text().splitlines() if row.startswith("MemTotal:"))
    return {
        "boot_id": (proc / "sys/kernel/random/boot_id").read_text().strip(),
        "cpus": os.cpu_count() or 0,
        "memory_bytes": int(memory.split()[1]) * 1024,
        "cgroup_version": _cgroup_version(proc),
    }


def _cgroup_version(proc: Path) -> Literal[1, 2]:
    mounts = [line.split() for line in (proc / "self/mounts").read_text().splitlines()]
    return 2 if any(m[1] == "/sys/fs/cgroup" and m[2] == "cgroup2" for m in mounts) else 1


def _device(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_rdev, stat.st_mode
