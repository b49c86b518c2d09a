"""Turns environment variables into the paths and numbers of one testbed. Read by every other module; does no I/O.

BERTH_STATE          what is lost at a reboot: pid files, logs, pinned namespaces, the kubeconfig
BERTH_DATA           what survives one: certificates, etcd's data, each node's disk
BERTH_CACHE          what survives `down`: binaries and images, shared by all testbeds of the user
BERTH_CNI            the built-in cluster's pod network, chosen at its first `up`: plain (routes) or flannel (its VXLAN)
BERTH_TESTBED_INDEX  0 to 9: several testbeds can run side by side, each with its own names, ports and addresses
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed import errors

CNIS = ("plain", "flannel")
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Settings:
    """Where one testbed lives on this machine."""

    state: Path
    data: Path
    cache: Path
    index: int = 0
    repository: Path = REPOSITORY
    cni: str = "plain"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        return self.data / "pki"

    @property
    def suffix(self) -> str:
        """What tells this testbed's names from another's: empty for the usual one."""
        return str(self.index) if self.index else ""

    def node_root(self, node: str) -> Path:
        """The folder that holds a node's own /var/lib, /var/log and /etc."""
        return self.data / "nodes" / node


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; a second testbed gets its own folders unless they are given."""
    index = _index(environment.get("BERTH_TESTBED_INDEX", "0"))
    suffix = f"-{index}" if index else ""
    caches = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME', '/root')}/.cache"
    return Settings(
        state=Path(environment.get("BERTH_STATE") or f"/run/berth-testbed{suffix}"),
        data=Path(environment.get("BERTH_DATA") or f"/var/lib/berth-testbed{suffix}"),
        cache=Path(environment.get("BERTH_CACHE") or f"{caches}/berth"),
        index=index,
        cni=_cni(environment.get("BERTH_CNI") or "plain"),
    )


def _cni(text: str) -> str:
    if text in CNIS:
        return text
    raise errors.TestbedError(f"BERTH_CNI: one of {', '.join(CNIS)} is needed, given {text!r}")


def _index(text: str) -> int:
    if len(text) == 1 and text.isdigit():
        return int(text)
    raise errors.TestbedError(f"BERTH_TESTBED_INDEX: a digit 0 to 9 is needed, given {text!r}")
