"""Remembers the host's kernel settings before a cluster changes them, and puts them back when the last one goes.

kubelet and routing need some of them changed, and they are global to the machine, so all testbeds share one note.
It lies in /run on purpose: after a reboot the settings are the machine's own again, and the note is gone.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from testbed import files

ROOT = Path("/proc/sys")
NOTE = Path("/run/berth-testbed-host.json")
CHANGED = (
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def remember(note: Path = NOTE, root: Path = ROOT) -> None:
    """Write the values down once, before the first change; a later `up` must not overwrite them."""
    if not note.exists():
        found = {name: (files.read(root / name) or "").strip() for name in CHANGED}
        files.write(note, json.dumps(found, indent=2))


def restore(note: Path = NOTE, root: Path = ROOT) -> None:
    """Put back what differs and forget it."""
    for name, value in remembered(note).items():
        if value and (files.read(root / name) or "").strip() != value:
            with contextlib.suppress(OSError):
                (root / name).write_text(value)
    note.unlink(missing_ok=True)


def remembered(note: Path = NOTE) -> dict[str, str]:
    """What was written down; nothing when no `up` ever got that far."""
    found: dict[str, str] = json.loads(files.read(note) or "{}")
    return found
