"""QEMU's own last words, from libvirt's log of a domain: a machine's uid in, one line for people out.

Called by the agent when a guest has ended. The log is QEMU's stderr: a guest can influence what is in it, so it is read
as bytes, cut, and only ever shown.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TAIL_BYTES: Final = 8192
LINE_CHARS: Final = 300
_NOISE: Final = re.compile(
    r"starting up libvirt version|: warning: |^(LC_ALL|PATH|HOME|XDG_\w+|QEMU_\w+)=|^/usr/|^-|^char device"
)
_LIBVIRT: Final = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+\+0000: ")  # its own remarks; QEMU's have a T in the time
_STAMP: Final = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ")


@dataclass(frozen=True, slots=True)
class QemuLogs:
    """Journal over libvirt's folder of logs."""

    folder: Path = Path("/var/log/libvirt/qemu")

    def last_words(self, vm_uid: str) -> str:
        """The last line of the last run; logs are named by the domain, whose name ends with the uid's first part."""
        logs = sorted(self.folder.glob(f"*_{vm_uid[:8]}.log"), key=lambda path: path.stat().st_mtime)
        return last_line(_tail(logs[-1])) if logs else ""


def last_line(tail: str) -> str:
    """What QEMU or its wrapper said last, if it said anything after it was started."""
    found = ""
    for raw in tail.splitlines():
        if "starting up libvirt version" in raw:
            found = ""  # what an earlier run said does not count
        text = raw.strip()
        if text and not _NOISE.search(text) and not _LIBVIRT.match(text):
            found = _STAMP.sub("", text)
    return "".join(c if c.isprintable() else "?" for c in found)[:LINE_CHARS]


def _tail(path: Path) -> str:
    with path.open("rb") as log:
        log.seek(max(os.fstat(log.fileno()).st_size - TAIL_BYTES, 0))
        return log.read(TAIL_BYTES).decode("utf-8", "replace")
