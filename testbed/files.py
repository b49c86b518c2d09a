"""Writes files so that a kill at any moment leaves either the old content or the new, never half of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write next to the target, then rename over it; parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(raw)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_if_changed(path: Path, content: str, mode: int = 0o644) -> bool:
    """Write only when the content differs; tells whether it did."""
    if read(path) == content:
        return False
    write(path, content, mode)
    return True


def read(path: Path) -> str | None:
    """The text of a file that may not exist, or that is about to vanish as files in /proc do."""
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):
        return None
