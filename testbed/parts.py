"""What `status` shows of a cluster, whichever kind it is. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One line: a process, a container or a node, whether it is well, and where to look further."""

    name: str
    healthy: bool
    detail: str
