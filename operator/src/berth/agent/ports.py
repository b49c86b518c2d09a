"""The real ports of one node, put together from the settings. Called by main.py; imports libvirt and netlink."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from berth.agent.settings import Settings
from berth.agent.world import Moving, Runner, Snapshotting, World
from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders
from berth.effects.hypervisor import Libvirt
from berth.effects.journal import QemuLogs
from berth.effects.libvirt_backup import LibvirtBackups
from berth.effects.links import ControlLinks
from berth.effects.media import NodeMedia
from berth.effects.network import NodeNetwork
from berth.effects.probe import HostProber
from berth.effects.qemu_process import NodeQemus
from berth.effects.reverts import NodeReverts
from berth.effects.segment_devices import NodeSegments
from berth.effects.segments import Place
from berth.effects.snapshots import NodeSnapshots
from berth.effects.states import NodeStates


def real(settings: Settings, run: Runner, now: Callable[[], datetime]) -> World:
    folders = MachineFolders(settings.vms_folder)
    place = Place(settings.node_name, settings.host_ip, settings.overlay_port)
    return World(
        hypervisor=Libvirt(settings.libvirt_uri),
        berths=NodeBerths(folders),
        links=ControlLinks(),
        media=NodeMedia(folders),
        network=NodeNetwork(segments=NodeSegments(place, settings.segments_namespace)),
        journal=QemuLogs(settings.qemu_log_folder),
        prober=HostProber(),
        run=run,
        now=now,
        moving=Moving(NodeQemus(), folders, settings.host_ip, settings.peer_port),
        states=NodeStates(folders),
        snapshots=Snapshotting(NodeSnapshots(folders), NodeReverts(folders), LibvirtBackups(settings.libvirt_uri)),
    )
