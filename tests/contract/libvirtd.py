"""libvirtd as a process that tests may kill, and a bench on which a Hypervisor starts machines.

Three benches, one contract: a node in memory, libvirt's test driver, and real QEMU under TCG with the tiny guest.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from berth.api.order import BerthRef, Emulation, FileOrder, KernelOrder, MachineOrder, NicOrder, Order
from berth.domain import build, nics, xml
from berth.domain.devices import address
from berth.domain.devices.interface import Interface
from berth.domain.files import VMS_FOLDER, MediaFiles
from berth.domain.host import Accelerator, Host
from berth.domain.observed import ObservedDomain
from berth.effects import netlink
from berth.effects.hypervisor import Libvirt
from berth.effects.memory import MemoryHypervisor, MemoryNode
from berth.effects.ports import DomainEvent, DomainEventKind, Hypervisor
from testbed import guests
from tests.contract import pods

SOCKET = Path("/run/libvirt/libvirt-sock")
GUEST_UID = 1_900_000_077
QUIET_GUEST = f"{guests.TINY_ARGS} berth.nodhcp"


class Daemon:
    """A libvirtd of these tests' own, or the one that runs already; both can be stopped and started again."""

    def start(self) -> None:
        if not _pids():
            SOCKET.unlink(missing_ok=True)
            with Path("/tmp/libvirtd.log").open("ab") as log:
                subprocess.Popen(["/usr/sbin/libvirtd"], stdout=log, stderr=log, start_new_session=True)
        pods.until(_answers, 30, "libvirtd's socket")

    def signal(self, number: int) -> None:
        for pid in _pids():
            os.kill(pid, number)

    def stop(self, number: int) -> None:
        self.signal(number)
        pods.until(lambda: not _pids(), 10, "libvirtd's end")


def _answers() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(SOCKET)) == 0


def _pids() -> list[int]:
    """Only those of this process namespace, which is the tests' own; a zombie has no cmdline."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"/usr/sbin/libvirtd"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@dataclass
class Bench:
    """One machine of one hypervisor. ``guest_runs``: it boots, hears the power button and can be waited for."""

    hypervisor: Hypervisor
    guest_runs: bool = False
    order: Order = field(default_factory=lambda: _order(QUIET_GUEST))
    events: list[DomainEvent] = field(default_factory=list)
    connections: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hypervisor.listen(self.events.append, lambda up, _message: self.connections.append(up))

    @property
    def uid(self) -> str:
        return self.order.uid

    def xml(self) -> str:
        return xml.render(build.build(self.order, self.media(), self.taps(), Host(Accelerator.TCG, GUEST_UID)))

    def media(self) -> MediaFiles:
        folder = f"{VMS_FOLDER}/{self.uid}"
        return MediaFiles((), f"{folder}/console.sock", f"{folder}/kernel", f"{folder}/initrd")

    def taps(self) -> dict[str, str]:
        return {"default": "bt0"}

    def card(self, nic: NicOrder, slot: int = 2) -> Interface:
        """As the agent plugs it in, on a tap that is there."""
        host = Host(Accelerator.TCG, GUEST_UID)
        return nics.interface(nic, f"bp{self.uid[:8]}", host, address.plugged(slot), link_up=False)

    def with_args(self, args: str) -> None:
        self.order = _order(f"{QUIET_GUEST} {args}")

    def wait_ready(self) -> None:
        """A guest in memory is up at once."""

    def heard(self, kind: DomainEventKind, detail: str | None = None, seconds: float = 60) -> None:
        def match() -> bool:
            return any(e.uid == self.uid and e.kind is kind and detail in (None, e.detail) for e in list(self.events))

        pods.until(match, seconds, f"event {kind.value} {detail or ''} (came: {self.events})")

    def gone(self, seconds: float = 60) -> None:
        pods.until(lambda: self.hypervisor.domain(self.uid) is None, seconds, "the domain's end")

    def close(self) -> None:
        self.hypervisor.destroy(self.uid)
        self.hypervisor.close()


class TestDriver(Libvirt):
    """It cannot start a domain paused, so it starts and suspends it; and its domains are of a type of their own."""

    __test__ = False
    start_flags = 0
    button_flags = 0

    def __init__(self) -> None:
        super().__init__("test:///default")

    def create_paused(self, text: str) -> None:
        uid = text.partition("<uuid>")[2].partition("</uuid>")[0]
        if self.domain(uid) is None:
            super().create_paused(text)
            self.suspend(uid)

    def domain(self, uid: str) -> ObservedDomain | None:
        found = super().domain(uid)
        return found and _as_emulated(found)

    def domains(self) -> list[ObservedDomain]:
        return [_as_emulated(found) for found in super().domains()]


def _as_emulated(found: ObservedDomain) -> ObservedDomain:
    return dataclasses.replace(found, xml=found.xml.replace("type='test'", "type='qemu'", 1))


class TestDriverBench(Bench):
    """libvirt's own test driver: libvirt's rules and events without a process."""

    __test__ = False

    def xml(self) -> str:
        return super().xml().replace('type="qemu"', 'type="test"', 1)


class QemuBench(Bench):
    """Real QEMU, started through the wrapper as it is on a node."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.guest_runs = True
        self.console = b""
        self._peer: socket.socket | None = None
        self._shown = 0
        self.folder = Path(VMS_FOLDER) / self.uid
        self.folder.mkdir(parents=True)
        procs = next(str(h.at("cgroup.procs")) for h in pods.hierarchies())
        (self.folder / "cgroup").write_text(f"{GUEST_UID}\n{procs}\n")
        for name, file in zip(("kernel", "initrd"), guests.tiny_files(), strict=True):
            shutil.copyfile(file, self.folder / name)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.folder / "console.sock"))
        self._server.listen()
        (self.folder / "console.sock").chmod(0o777)
        threading.Thread(target=self._listen, daemon=True).start()
        self.tap = f"bt{self.uid[:8]}"
        subprocess.run(["ip", "tuntap", "add", self.tap, "mode", "tap"], check=True)
        subprocess.run(["ip", "link", "set", self.tap, "up"], check=True)

    def taps(self) -> dict[str, str]:
        return {"default": self.tap}

    def card(self, nic: NicOrder, slot: int = 2) -> Interface:
        card = super().card(nic, slot)
        netlink.make_tap(card.tap, queues=nic.queues)
        return card

    def shows(self, what: str, seconds: float = 30) -> None:
        """On the guest's console, in what came since the last call."""
        pods.until(
            lambda: re.search(what, self.console[self._shown :].decode("utf-8", "replace")), seconds, f"{what} on it"
        )
        self._shown = len(self.console)

    def with_args(self, args: str) -> None:
        machine = _order(f"{QUIET_GUEST} {args}").machine
        self.order = self.order.model_copy(update={"machine": machine})

    def wait_ready(self) -> None:
        pods.until(lambda: b"berth-guest: ready" in self.console, 60, "the guest's own word")

    def type(self, *lines: str) -> None:
        """Into the shell on the guest's console, which starts when something is typed."""
        assert self._peer is not None
        if b"berth-guest#" not in self.console:
            self._peer.sendall(b"\r")
            pods.until(lambda: b"berth-guest#" in self.console, 20, "the guest's prompt")
        for line in lines:
            self._peer.sendall(f"{line}\r".encode())

    def pid(self) -> int:
        return int((Path("/run/libvirt/qemu") / f"{build.domain_name(self.order)}.pid").read_text())

    def close(self) -> None:
        super().close()
        netlink.remove_by_prefix(self.tap)
        netlink.remove_by_prefix(f"bp{self.uid[:8]}")
        self._server.close()
        shutil.rmtree(self.folder)

    def _listen(self) -> None:
        while True:
            try:
                self._peer, _ = self._server.accept()
            except OSError:
                return
            while said := self._peer.recv(4096):
                self.console += said


def memory() -> Bench:
    return Bench(MemoryHypervisor(MemoryNode()))


def _order(args: str) -> Order:
    kernel = KernelOrder(
        kernel=FileOrder(folder="/berth/images/kernel", path="/boot/vmlinuz"),
        initrd=FileOrder(folder="/berth/images/kernel", path="/boot/initrd"),
        args=args,
    )
    nic = NicOrder(name="default", mac="52:54:00:12:34:56")
    return Order(
        uid=str(uuid.uuid4()),
        namespace="default",
        name="web",
        epoch=1,
        berth=BerthRef(pod_uid=str(uuid.uuid4()), pod_name="berth-web", node="contract"),
        emulation=Emulation.ALWAYS,
        machine=MachineOrder(cpus=1, memory_bytes=256 << 20, kernel=kernel, nics=(nic,)),
    )


def within(seconds: float, call: Callable[[], object]) -> float:
    """How long a call took, which must be less than ``seconds``."""
    start = time.monotonic()
    call()
    taken = time.monotonic() - start
    assert taken < seconds, f"took {taken:.1f} s"
    return taken
