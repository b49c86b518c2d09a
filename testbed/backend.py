"""Chooses what the cluster is: kind where Docker works, the built-in one elsewhere. Called by cli.py, install.py.

Both read kind-config.yaml and answer to the same words, so commands, tests and the chart never ask which one it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from testbed import builtin, errors, kind, settings, shell, topology
from testbed.parts import Part
from testbed.progress import Progress


class Backend(Protocol):
    """What a cluster can be asked to do."""

    def up(self, progress: Progress) -> None: ...
    def down(self, progress: Progress) -> None: ...
    def load(self, progress: Progress, archives: Sequence[Path]) -> None: ...
    def enter(self, node: str) -> list[str]: ...
    def restart(self, progress: Progress, component: str, node: str | None) -> None: ...
    def lose(self, progress: Progress, node: str) -> None: ...
    def status(self) -> list[Part]: ...


def choose(environment: Mapping[str, str] = os.environ) -> Backend:
    """BERTH_CLUSTER decides; without it, a built-in cluster that is there stays, then Docker is asked."""
    where = settings.load(environment)
    shape = topology.parse((where.repository / "kind-config.yaml").read_text(), where.index)
    wish = environment.get("BERTH_CLUSTER", "")
    if wish not in ("", "kind", "builtin"):
        raise errors.TestbedError(f"BERTH_CLUSTER: kind or builtin is possible, given {wish!r}")
    if wish == "kind" or (not wish and not where.data.exists() and docker_works()):
        return kind.Kind(where, shape)
    return builtin.Builtin(where, shape)


def docker_works() -> bool:
    """The client alone proves nothing: the daemon must answer."""
    return shutil.which("docker") is not None and shell.quiet(["docker", "info"], timeout=10)
