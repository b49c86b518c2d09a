"""Remembers the host's kernel settings before the cluster changes them, and puts them back at `down`.

kubelet and routing need some of them changed, and all of them are global to the machine.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from testbed import files
from testbed.settings import Settings

ROOT = Path("/proc/sys")
CHANGED = (
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def remember(settings: Settings, root: Path = ROOT) -> None:
    """Write the values down once, before the first change; a later `up` must not overwrite them."""
    target = _file(settings)
    if not target.exists():
        found = {name: (files.read(root / name) or "").strip() for name in CHANGED}
        files.write(target, json.dumps(found, indent=2))


def restore(settings: Settings, root: Path = ROOT) -> None:
    """Put back what differs."""
    for name, value in remembered(settings).items():
        if value and (files.read(root / name) or "").strip() != value:
            with contextlib.suppress(OSError):
                (root / name).write_text(value)


def remembered(settings: Settings) -> dict[str, str]:
    """What was written down; nothing when `up` never got that far."""
    found: dict[str, str] = json.loads(files.read(_file(settings)) or "{}")
    return found


def _file(settings: Settings) -> Path:
    return settings.data / "host.json"
