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

from berth.agent.machines import Arrival, Machine
from berth.agent.questions import PREPARE, Prepared
from berth.agent.sending import LIBVIRT, MEMORY
from berth.domain import arriving
from berth.effects import paths, relay
from berth.effects.folders import MachineFolders
from berth.effects.libvirt_frames import Guard
from berth.effects.tunnel import Hello, Line
from berth.errors import HostFault, Refused

LIBVIRT_SOCKET: Final = Path("/run/libvirt/libvirt-sock")
QEMU_SECONDS: Final = 5.0
_BUFFER: Final = 4 << 20


def server(folders: MachineFolders, machine: Machine | None, node: str, hello: Hello) -> Callable[[Line], None]:
    """Who serves the call; Refused when it must not be."""
    arrival = machine.arrival if machine is not None else None
    if arrival is None or arrival.migration != hello.migration:
        raise Refused("no such migration is awaited here (yet)", reason="MigrationUnknown")
    if arrival.source != node:
        raise Refused(f"this guest comes from node {arrival.source}, not {node}", reason="MigrationUnknown")
    match hello.channel:
        case "prepare":
            return lambda line: line.say(Prepared(xml=arrival.xml))
        case "libvirt":
            return lambda line: _libvirt(line, arrival)
        case "memory":
            return lambda line: _memory(line, folders.path(hello.uid) / "move" / MEMORY, arrival)
        case _:
            raise Refused(f"there is no channel {hello.channel!r}", reason="ChannelUnknown")


assert (PREPARE, LIBVIRT, MEMORY) == ("prepare", "libvirt", "memory")  # the words above


def _libvirt(line: Line, arrival: Arrival) -> None:
    guard = Guard(lambda xml: arriving.check(xml, arrival.xml))
    plain = socket.socket(socket.AF_UNIX)
    plain.connect(str(LIBVIRT_SOCKET))
    relay.relay(plain, line.raw(), back=guard.back)


def _memory(line: Line, path: Path, arrival: Arrival) -> None:
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
