"""Installs the Debian packages that the testbed calls programs from, and only those that are missing.

cli.py calls it before `up` and `install`; a machine that has everything is not touched and apt is not asked.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from testbed import errors, shell
from testbed.progress import Progress


@dataclass(frozen=True, slots=True)
class Need:
    """A program on the PATH or a file, the package that brings it, and what it is for."""

    what: str
    package: str
    reason: str

    def is_met(self) -> bool:
        return Path(self.what).exists() if self.what.startswith("/") else shutil.which(self.what) is not None


CLUSTER = (
    Need("ip", "iproute2", "links and namespaces of the nodes"),
    Need("nft", "nftables", "masquerading, kube-proxy"),
    Need("iptables", "iptables", "host ports of pods"),
    Need("nsenter", "util-linux", "entering nodes"),
    Need("mount", "mount", "nodes' file systems"),
    Need("sysctl", "procps", "forwarding between nodes"),
    Need("runc", "runc", "containers"),
    Need("/usr/lib/cni/ptp", "containernetworking-plugins", "pod networks"),
    Need("cc", "gcc", "the image of every pod's sandbox"),
    Need("/usr/include/stdio.h", "libc6-dev", "the image of every pod's sandbox"),
    Need("/etc/ssl/certs/ca-certificates.crt", "ca-certificates", "downloads"),
)
FLANNEL = (Need("ipset", "ipset", "kube-router's rules for NetworkPolicies"),)
IMAGES = (
    Need("buildah", "buildah", "building images without Docker"),
    Need("mmdebstrap", "mmdebstrap", "base images without a registry"),
    Need("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring", "base images without a registry"),
)


def missing(needs: Iterable[Need]) -> list[Need]:
    """What this machine lacks."""
    return [need for need in needs if not need.is_met()]


def ensure(progress: Progress, needs: Iterable[Need]) -> None:
    """Install what is missing; `apt-get update` runs first, because a fresh machine has no package lists."""
    lacking = missing(needs)
    if not lacking:
        return
    packages = sorted({need.package for need in lacking})
    if shutil.which("apt-get") is None:
        wanted = ", ".join(f"{need.what} ({need.reason})" for need in lacking)
        raise errors.Unavailable(f"this machine lacks {wanted} and has no apt-get: install them by hand, then repeat")
    with progress.task(f"Debian packages: {', '.join(packages)}") as task:

        def on_line(line: str) -> None:
            task.note = line[:60]

        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        shell.stream(["apt-get", "update"], on_line, environment=quiet)
        shell.stream(["apt-get", "install", "-y", "--no-install-recommends", *packages], on_line, environment=quiet)
        task.note = ""
    still = missing(lacking)
    if still:
        raise errors.Unavailable(f"{still[0].what} is still missing after installing {still[0].package}")
