"""The process of one guest's QEMU: found, frozen, thawed and killed without libvirt. Called for hand-overs.

A process is named by its pid and its start time, and each signal goes through a pidfd that was verified after it was
opened: never to another process that got the same pid.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berth.domain.observed import Pace, QemuProcess
from berth.effects import qemu_memory
from berth.effects.berths import facts_of
from berth.errors import HostFault

FREEZE_SECONDS: Final = 2.0
KILL_SECONDS: Final = 10.0
_PF_EXITING: Final = 0x4  # of a thread's flags: it runs no code of its own any more


@dataclass(frozen=True, slots=True)
class NodeQemus:
    """``folder`` is where libvirt writes its pid files."""

    folder: Path = Path("/run/libvirt/qemu")

    def find(self, vm_uid: str, domain_name: str) -> QemuProcess | None:
        """The guest's QEMU, or None when there is none."""
        try:
            pid = int((self.folder / f"{domain_name}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        facts = facts_of(pid)
        if facts is None or facts.state in "ZX" or vm_uid.encode() not in command:
            return None
        return QemuProcess(pid, facts.start_time)

    def alive(self, process: QemuProcess) -> bool:
        facts = facts_of(process.pid)
        return facts is not None and facts.start_time == process.started and facts.state not in "ZX"

    def freeze(self, process: QemuProcess) -> None:
        """No thread of it runs when this returns; one that is gone needs none of it."""
        with self._signal(process, signal.SIGSTOP) as sent:
            deadline = time.monotonic() + FREEZE_SECONDS
            while sent and not _all_stopped(process.pid) and self.alive(process):
                if time.monotonic() > deadline:
                    self.thaw(process)
                    raise HostFault(f"QEMU (pid {process.pid}) does not stand still", reason="QemuStuck")
                time.sleep(0.001)

    def thaw(self, process: QemuProcess) -> None:
        with self._signal(process, signal.SIGCONT):
            pass

    def kill(self, process: QemuProcess) -> None:
        """It is dead when this returns, or every thread of it is in the kernel's exit, from where none comes back.

        To give a big guest's memory back takes the kernel seconds, for which nobody has to stand still.
        """
        with self._signal(process, signal.SIGKILL) as fd:
            if not fd:
                return
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            deadline = time.monotonic() + KILL_SECONDS
            while not _all_exiting(process.pid) and not poller.poll(1):
                if time.monotonic() > deadline:
                    text = f"QEMU (pid {process.pid}) does not die: something in the kernel holds it"
                    raise HostFault(text, reason="QemuStuck")

    def pace(self, process: QemuProcess, memory_bytes: int, cpus: int, seconds: float) -> Pace | None:
        found = qemu_memory.pace(process.pid, memory_bytes, cpus, seconds)
        return found if self.alive(process) else None  # it may have been another process's

    @contextlib.contextmanager
    def _signal(self, process: QemuProcess, number: signal.Signals) -> Iterator[int]:
        """Its pidfd, after the signal was sent; 0 when it is gone."""
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            yield 0
            return
        try:
            alive = self.alive(process)
            if alive:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, number)
            yield fd if alive else 0
        finally:
            os.close(fd)


def _threads(pid: int) -> list[list[str]]:
    """Of each thread: what its stat says from the state on; nothing when one, or all of them, ended just now."""
    try:
        texts = [Path(f"/proc/{pid}/task/{task}/stat").read_text() for task in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [text.rpartition(") ")[2].split() for text in texts]


def _all_stopped(pid: int) -> bool:
    threads = _threads(pid)
    return bool(threads) and all(fields[0] in "TtZX" for fields in threads)


def _all_exiting(pid: int) -> bool:
    threads = _threads(pid)
    return bool(threads) and all(fields[0] in "ZX" or int(fields[6]) & _PF_EXITING for fields in threads)
