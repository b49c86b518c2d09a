"""QEMU's own last words, from libvirt's log of a domain: a machine's uid in, one line for people out.

Called by the agent when a guest has ended. The log is QEMU's stderr: a guest can influence what is in it, so it is read
as bytes, cut, and only ever shown.

libvirt never removes such a log: it is done here, when a guest has ended. The newest few stay, for people to read.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TAIL_BYTES: Final = 8192
LINE_CHARS: Final = 300
KEPT: Final = 20
"""So many logs of domains that are no more."""
_NOISE: Final = re.compile(
    r"starting up libvirt version|: warning: |^(LC_ALL|PATH|HOME|XDG_\w+|QEMU_\w+)=|^/usr/|^-|^char device"
)
_LIBVIRT: Final = re.compile(r"^\d{4}-\d\d-\d\d [\d:.]+\+0000: ")  # its own remarks; QEMU's have a T in the time
_STAMP: Final = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ")


@dataclass(frozen=True, slots=True)
class QemuLogs:
    """Journal over libvirt's folder of logs, and the one where it keeps each domain that is."""

    folder: Path = Path("/var/log/libvirt/qemu")
    domains: Path = Path("/run/libvirt/qemu")

    def last_words(self, vm_uid: str) -> str:
        """The last line of the last run; logs are named by the domain, whose name ends with the uid's first part."""
        logs = self._by_age(f"*_{vm_uid[:8]}.log")
        found = last_line(_tail(logs[-1])) if logs else ""
        self._prune()
        return found

    def _prune(self) -> None:
        """A domain that is being started has the newest log of all."""
        ended = [log for log in self._by_age("*.log") if not (self.domains / f"{log.stem}.xml").exists()]
        for log in ended[:-KEPT]:
            log.unlink(missing_ok=True)

    def _by_age(self, pattern: str) -> list[Path]:
        """Oldest first. Another guest's end may be looked into at the same time."""
        found = {}
        for path in self.folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime
        return sorted(found, key=lambda path: found[path])


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
