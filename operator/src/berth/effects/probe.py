"""The Prober port: does KVM on this host really run a guest? Called by the agent at its start.

That /dev/kvm opens proves nothing: under some clouds it is a paravirtual copy on which QEMU aborts or kernels hang. So
QEMU is run with the CPU model that guests get, and a firmware of 196 bytes that goes where kernels go: 64-bit mode with
paging, CPUID, the local APIC. It has to print its line and to end QEMU itself; what hangs is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from berth.domain.host import MACHINE
from berth.effects.ports import KvmProbe

QEMU: Final = "/usr/bin/qemu-system-x86_64"
SECONDS: Final = 5.0
LINE: Final = b"berth: 64-bit guest code runs\n"
ROM_BYTES: Final = 0x10000
RESET_VECTOR: Final = 0xFFF0
SUCCESS: Final = 33  # isa-debug-exit makes (value << 1) | 1 of the 0x10 that the guest writes

_CODE: Final = (
    bytes.fromhex(
        # 16-bit, at F000:0000
        "fa 31c0 8ed8"  #                cli; ds = 0
        "66c7060010 03200000"  #         [0x1000] page map level 4: entry 0 → 0x2000
        "66c7060020 03300000"  #         [0x2000] directory pointers: entry 0 → 0x3000
        "66c7061820 03400000"  #         [0x2018]                     entry 3 → 0x4000
        "66c7060030 83000000"  #         [0x3000] directory: the first 2 MiB, as they are
        "66c706b84f 9b00e0fe"  #         [0x4fb8] directory: 2 MiB at 0xfee00000, uncached: the local APIC
        "66b800100000 0f22d8"  #         cr3 = 0x1000
        "0f20e0 0c20 0f22e0"  #          cr4 |= physical address extension
        "66b9800000c0 0f32 80cc01 0f30"  # EFER |= long mode enable
        "2e660f0116a000"  #              lgdt cs:[0xa0]
        "0f20c0 660d01000080 0f22c0"  #  cr0 |= protection, paging
        "66ea6b000f000800"  #            far jump 8:0xf006b
        # 64-bit
        "31c0 0fa2"  #                   cpuid(0)
        "bf3000e0fe 8b07"  #             read the local APIC's version
        "bea6000f00 b91e000000"  #       rsi = the line at 0xf00a6, ecx = its length
        "ac e6e9 e2fb"  #                each byte to the debug console, port 0xe9
        "b010 e6f4"  #                   0x10 to isa-debug-exit, port 0xf4: QEMU ends
        "f4 ebfd"  #                     else wait for ever
        "0f1f4000"  #                    (padding)
        "0000000000000000 ffff0000009baf00"  # 0x90 descriptor table: null; 64-bit code
        "0f0090000f00"  #                0xa0 its limit 15 and address 0xf0090
    )
    + LINE
)
_RESET: Final = bytes.fromhex("ea000000f0")  # where a CPU wakes: far jump F000:0000


def firmware() -> bytes:
    """The ROM that QEMU gets as its BIOS: 64 KiB that end at the reset vector."""
    return _CODE.ljust(RESET_VECTOR, b"\x90") + _RESET.ljust(ROM_BYTES - RESET_VECTOR, b"\0")


class HostProber:
    """Prober of this host. ``accelerator`` and ``cpu`` differ from KVM's only in tests of the probe itself."""

    def __init__(
        self,
        qemu: str = QEMU,
        device: Path = Path("/dev/kvm"),
        seconds: float = SECONDS,
        *,
        accelerator: str = "kvm",
        cpu: str = "host",
        vhost: Path = Path("/dev/vhost-net"),
    ) -> None:
        self._qemu = qemu
        self._device = device
        self._seconds = seconds
        self._accelerator = accelerator
        self._cpu = cpu
        self._vhost = vhost

    def kvm(self) -> KvmProbe:
        """Whether guest code runs, and if not, the reason for people."""
        if (problem := _cannot_open(self._device)) is not None:
            return KvmProbe(False, problem)
        with tempfile.NamedTemporaryFile(prefix="berth-probe-") as rom:
            rom.write(firmware())
            rom.flush()
            return self._run(rom.name)

    def vhost(self) -> bool:
        """Opening it loads the module where there is one."""
        return _cannot_open(self._vhost) is None

    def _run(self, rom: str) -> KvmProbe:
        command = [
            self._qemu, "-accel", self._accelerator, "-cpu", self._cpu, "-machine", MACHINE, "-m", "16", "-bios", rom,
            "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-debugcon", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
        ]  # fmt: skip
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            return KvmProbe(False, f"QEMU cannot be started: {error}")
        try:
            out, err = process.communicate(timeout=self._seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return KvmProbe(False, f"guest code hangs under KVM: nothing happened for {self._seconds:g} s")
        return _verdict(process.returncode, out, err.decode("utf-8", "replace"))


def _verdict(code: int, out: bytes, err: str) -> KvmProbe:
    if code == SUCCESS and LINE in out:
        return KvmProbe(True, "guest code ran under KVM")
    lines = [line.partition(": ")[2] or line for line in err.splitlines() if line.strip()]
    words = lines[0] if lines else f"printed {out[:80]!r}"
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return KvmProbe(False, f"QEMU {ended} before guest code ran: {words}")


def _cannot_open(device: Path) -> str | None:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{device} does not exist: the host's CPU has no virtualization support, or it is off in its firmware"
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    return None
