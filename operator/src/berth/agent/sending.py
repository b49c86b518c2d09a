"""One guest on its way to another node, at the source: libvirt's call in a thread, its connections through the tunnel.

libvirt dials two unix sockets that only root can open (QEMU the one for memory, when it opens several connections), and
QEMU one more when disks are copied; behind each of their connections is a TLS connection to the other node's agent. Of
the one to the other libvirt the ``Gate`` keeps the last answer. It decides nothing; handovers.py makes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from berth.agent import claims
from berth.agent.questions import PREPARE, PREPARE_DISKS, Offer, Prepared, Seen
from berth.api.handover import Outgoing
from berth.api.order import MachineOrder
from berth.domain import copied
from berth.effects import relay
from berth.effects.libvirt_frames import Gate
from berth.effects.pace import Pace
from berth.effects.ports import Hypervisor
from berth.effects.ports_moving import Way
from berth.effects.silence import Talk
from berth.effects.tunnel import Hello, Tunnel
from berth.errors import BerthError, HostFault, Refused
from berth.plan import handover
from berth.plan.method import Method

LIBVIRT: Final = "libvirt"
MEMORY: Final = "memory"
DISKS: Final = "disks"
_BUFFER: Final = 4 << 20
_CALLS: Final = 8  # of libvirt, which needs one
SILENCE_SECONDS: Final = 15.0
"""So long a node may take nothing of the disks while its connections stay open: the guest may stand still for it."""

_log = logging.getLogger(__name__)


@dataclass
class Sending:
    """``on_change`` is called from threads of its own: when the answer is held, and when it is over."""

    uid: str
    outgoing: Outgoing
    folder: Path
    tunnel: Tunnel
    hypervisor: Hypervisor
    on_change: Callable[[], None]
    machine: MachineOrder
    method: Method
    guest_uid: int
    check_claims: Callable[[Mapping[str, str]], None]
    disk_bytes: int = 0  # to be copied, once it is known
    held_at: float | None = None
    finished: bool = False
    error: BerthError | None = None
    _ended: bool = False
    _plain: list[socket.socket] = field(default_factory=list)
    _talks: list[Talk] = field(default_factory=list)
    _libvirt: socket.socket | None = None
    changed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.disks = copied.of(self.machine)
        self._gate = Gate(self._on_held)
        rate = self.outgoing.bytes_per_second
        self._pace = Pace(rate) if rate is not None else None

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"send {self.uid[:8]}", daemon=True).start()

    @property
    def gate(self) -> handover.Gate:
        if self.finished:
            return handover.Gate.NONE
        if self._ended:
            return handover.Gate.ENDED
        if self.held_at is None:
            return handover.Gate.OPEN
        return handover.Gate.HELD if self.holds() else handover.Gate.ENDED

    def holds(self) -> bool:
        """Whether libvirt still waits for the answer, at this very moment."""
        return self._libvirt is not None and not self._ended and self._gate.holds(self._libvirt)

    def end(self) -> None:
        """Its connections are over: libvirt lets the guest run on, unless QEMU is frozen or dead."""
        self._ended = True
        for plain in list(self._plain):
            with contextlib.suppress(OSError):
                plain.shutdown(socket.SHUT_RDWR)
        self.changed.set()

    def hurry(self) -> None:
        """The guest has been stopped, and waits for what is still on its way: QEMU lifts its own limit, too."""
        if self._pace is not None:
            self._pace.lift()

    def watch(self) -> None:
        """Give up on a node that writes nothing any more: QEMU would wait for it for ever. Asked now and then."""
        if not self._ended and any(talk.silent_for() > SILENCE_SECONDS for talk in list(self._talks)):
            text = f"node {self.outgoing.target.node} has written nothing of the disks for {SILENCE_SECONDS:.0f} s"
            self.error = HostFault(text, reason="DisksStalled")
            self.end()

    def _on_held(self) -> None:
        self.held_at = time.monotonic()
        self.changed.set()
        self.on_change()

    def _hello(self, channel: str) -> Hello:
        return Hello(migration=self.outgoing.migration, uid=self.uid, channel=channel)

    def _run(self) -> None:
        sockets: list[socket.socket] = []
        try:
            prepared = self._prepared()
            sockets = [self._listen(channel) for channel in (LIBVIRT, MEMORY, *([DISKS] if self.disks else ()))]
            way = Way(
                libvirt_socket=str(self.folder / LIBVIRT),
                memory_socket=str(self.folder / MEMORY),
                xml=prepared.xml,
                method=self.method,
                bytes_per_second=self.outgoing.bytes_per_second,
                shares=self._shares,
                disks=tuple(disk.target for disk in self.disks),
                disks_socket=str(self.folder / DISKS),
            )
            if not self._ended:
                self.hypervisor.migrate(self.uid, way)
        except BerthError as error:
            self.error = self.error or error
            _log.info("the guest was not sent by libvirt", extra={"uid": self.uid, "error": str(error)})
        except Exception:
            _log.exception("sending failed", extra={"uid": self.uid})
        finally:
            self.end()
            for listening in sockets:
                with contextlib.suppress(OSError):
                    listening.shutdown(socket.SHUT_RDWR)
                listening.close()
            self.finished = True
            self.on_change()

    @property
    def _forth(self) -> relay.Passage:
        """libvirt's own limit is for each disk, and QEMU's is little to several connections: each hands over half a MiB
        before anybody counts. This one is for all of them together."""
        return self._pace.passage if self._pace is not None else relay.straight

    def _prepared(self) -> Prepared:
        writes = bool(self.disks) or self._shares
        line = self.tunnel.dial(self.outgoing.target, self._hello(PREPARE_DISKS if writes else PREPARE))
        with contextlib.closing(line):
            if writes:
                sizes = {disk.name: self.hypervisor.disk_bytes(self.uid, disk.target) for disk in self.disks}
                self.disk_bytes = sum(sizes.values())
                line.say(Offer(disks=sizes))
            prepared = Prepared.model_validate_json(line.hear())
            if prepared.reason:
                raise Refused(f"node {self.outgoing.target.node} refuses: {prepared.message}", reason=prepared.reason)
            self.check_claims(prepared.marks)
            if writes:
                line.say(Seen())
        return prepared

    @property
    def _shares(self) -> bool:
        return bool(claims.folders(self.machine))

    def _listen(self, channel: str) -> socket.socket:
        path = self.folder / channel
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        old = os.umask(0o177)
        try:
            listening.bind(str(path))
            if channel == DISKS or (channel == MEMORY and self.method.channels):  # QEMU dials these by itself
                os.chown(path, self.guest_uid, self.guest_uid)
        finally:
            os.umask(old)
        listening.listen()
        threading.Thread(target=self._accept, args=(listening, channel), name=channel, daemon=True).start()
        return listening

    def _accept(self, listening: socket.socket, channel: str) -> None:
        most = {LIBVIRT: _CALLS, MEMORY: 1 + self.method.channels, DISKS: len(self.disks)}[channel]
        for _ in range(most):  # a QEMU that was taken over may want as many of the other node's slots as it can get
            try:
                plain, _ = listening.accept()
            except OSError:
                return  # it is over
            threading.Thread(target=self._carry, args=(plain, channel), name=channel, daemon=True).start()
        listening.close()  # whoever comes later hears so, and does not wait

    def _carry(self, plain: socket.socket, channel: str) -> None:
        with contextlib.closing(plain):
            try:
                line = self.tunnel.dial(self.outgoing.target, self._hello(channel))
            except BerthError as error:
                _log.warning("no way to the other node", extra={"uid": self.uid, "error": str(error)})
                return
            self._plain.append(plain)
            if self._ended:
                line.close()
                return
            if channel == LIBVIRT:
                self._libvirt = plain
                relay.relay(plain, line.raw(), self._gate.forth, self._gate.back)
            elif channel == DISKS:
                self._carry_disk(plain, line.raw())
            else:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
                relay.relay(plain, line.raw(), self._forth if self.method.channels else relay.straight)

    def _carry_disk(self, plain: socket.socket, secure: ssl.SSLSocket) -> None:
        talk = Talk()
        self._talks.append(talk)
        try:
            forth = self._forth
            relay.relay(plain, secure, lambda data: talk.forth(forth(data)), talk.back)
        finally:
            self._talks.remove(talk)
