"""What another node's agent may have of this one for a guest that is to come here: channels, joined to sockets here.

Called by handovers.py for every connection of another agent. Only the node that the machine's order names as its
source, only for the migration that it names, and only once all is ready here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from berth.agent import claims, speed
from berth.agent.machines import Arrival, Machine
from berth.agent.questions import PREPARE, PREPARE_DISKS, SPEED, Offer, Prepared, Seen
from berth.agent.sending import DISKS, LIBVIRT, MEMORY
from berth.agent.world import Moving, World
from berth.domain import arriving, build
from berth.effects import paths, relay
from berth.effects.libvirt_frames import Asked, Guard
from berth.effects.tunnel import Hello, Line
from berth.errors import BerthError, HostFault, Refused, Unavailable

LIBVIRT_SOCKET: Final = Path("/run/libvirt/libvirt-sock")
QEMU_SECONDS: Final = 5.0
LARGEST: Final = 1 << 56
"""Bytes of a disk: qcow2's own limit."""
_BUFFER: Final = 4 << 20


def server(world: World, moving: Moving, machine: Machine | None, node: str, hello: Hello) -> Callable[[Line], None]:
    """Who serves the call; Refused when it must not be."""
    if hello.channel == SPEED:
        return _speed(machine, node, hello)
    arrival = machine.arrival if machine is not None else None
    if arrival is None or arrival.migration != hello.migration:
        raise Refused("no such migration is awaited here (yet)", reason="MigrationUnknown")
    if arrival.source != node:
        raise Refused(f"this guest comes from node {arrival.source}, not {node}", reason="MigrationUnknown")
    folder = moving.folders.path(hello.uid) / "move"
    match hello.channel:
        case "prepare":
            return lambda line: line.say(Prepared(xml=arrival.xml))
        case "prepare-disks":
            return lambda line: _prepare_disks(line, world, moving, hello.uid, arrival)
        case "libvirt":
            return lambda line: _libvirt(line, arrival, folder / DISKS)
        case "memory":
            return lambda line: _join(line, folder / MEMORY, arrival)
        case "disks":
            return lambda line: _join(line, folder / DISKS, arrival)
        case _:
            raise Refused(f"there is no channel {hello.channel!r}", reason="ChannelUnknown")


def _speed(machine: Machine | None, node: str, hello: Hello) -> Callable[[Line], None]:
    """Before all is ready here, but for nobody else either."""
    incoming = machine.order.incoming if machine is not None and machine.order is not None else None
    if incoming is None or (incoming.migration, incoming.source.node) != (hello.migration, node):
        raise Refused("no such migration is awaited here (yet)", reason="MigrationUnknown")
    return speed.take


assert (PREPARE, PREPARE_DISKS) == ("prepare", "prepare-disks")  # the words above
assert (LIBVIRT, MEMORY, DISKS) == ("libvirt", "memory", "disks")


def _prepare_disks(line: Line, world: World, moving: Moving, uid: str, arrival: Arrival) -> None:
    """The disks here become as large as the guest knows them, and nothing else: they are empty, and nobody has them.
    Its claims are marked for as long as the source looks whether they are the same."""
    offer = Offer.model_validate_json(line.hear())
    try:
        if moving.qemus.find(uid, build.domain_name(arrival.order)) is not None:
            raise Refused("its copy is there already, with its disks open", reason="DisksInUse")
        _fit(world, arrival, offer)
        with claims.marked(world.media, arrival.berth, arrival.order.machine) as marks:
            line.say(Prepared(xml=arrival.xml, marks=marks))
            Seen.model_validate_json(line.hear())
    except Unavailable:
        raise  # the source is gone: nobody to tell
    except BerthError as error:
        line.say(Prepared(reason=error.reason, message=str(error)))


def _fit(world: World, arrival: Arrival, offer: Offer) -> None:
    awaited = sorted(disk.name for disk, _ in arrival.disks)
    if awaited != sorted(offer.disks):
        text = f"the other node copies the disks {sorted(offer.disks)}, this one awaits {awaited}"
        raise Refused(text, reason="DisksDiffer")
    for disk, file in arrival.disks:
        given, ordered = offer.disks[disk.name], disk.size_bytes
        if not 0 < given <= LARGEST or (ordered is not None and _whole(ordered) != _whole(given)):
            text = f"disk {disk.name}: has {given} bytes there, and {ordered} are ordered here"
            raise Refused(text, reason="DisksDiffer")
        if disk.size_bytes is None:
            world.media.fit(arrival.guest_uid, file, given)


def _whole(size: int) -> int:
    """In sectors: QEMU shows a guest no part of one."""
    return -(-size // 512)


def _libvirt(line: Line, arrival: Arrival, disks: Path) -> None:
    guard = Guard(lambda asked: _check(asked, arrival, disks))
    plain = socket.socket(socket.AF_UNIX)
    plain.connect(str(LIBVIRT_SOCKET))
    relay.relay(plain, line.raw(), back=guard.back)


def _check(asked: Asked, arrival: Arrival, disks: Path) -> None:
    """ValueError for another copy, for other disks, or for a way to write them that does not end in this tunnel."""
    arriving.check(asked.xml, arrival.xml)
    awaited = sorted(disk.target for disk, _ in arrival.disks)
    if sorted(asked.disks) != awaited or asked.copies != bool(awaited):
        raise ValueError(f"it copies the disks {sorted(asked.disks)}, and {awaited} are awaited")
    if asked.disks_uri != (f"unix://{disks}" if awaited else ""):
        raise ValueError(f"it copies disks through {asked.disks_uri!r}")


def _join(line: Line, path: Path, arrival: Arrival) -> None:
    plain = _qemus(path, arrival.guest_uid)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    relay.relay(plain, line.raw())


def _qemus(path: Path, guest_uid: int) -> socket.socket:
    """QEMU's socket, in a folder that QEMU can write: it is opened once, looked at, and who listens is asked for."""
    deadline = time.monotonic() + QEMU_SECONDS
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return _connected(path, guest_uid)
        if time.monotonic() > deadline:
            raise HostFault(f"{path}: QEMU does not listen there", reason="QemuMissing")
        time.sleep(0.01)


def _connected(path: Path, guest_uid: int) -> socket.socket:
    with paths.closing(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise HostFault(f"{path}: is no socket", reason="QemuMissing")
        plain = socket.socket(socket.AF_UNIX)
        plain.connect(f"/proc/self/fd/{fd}")
    _, uid, _ = struct.unpack("3i", plain.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != guest_uid:
        plain.close()
        raise HostFault(f"{path}: uid {uid} listens there, not this machine's QEMU", reason="QemuMissing")
    return plain
