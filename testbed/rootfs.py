"""Runs a command in the agent image's own root file system, so that contract tests meet exactly its libvirt, QEMU and Python.

Called by `make test` and by hand: `python -m testbed.rootfs -- pytest tests/contract`. The command gets namespaces of its own
(mounts, processes, network, host name) that end with it, however it ends: no daemon, guest or tap device is left behind.
The repository keeps its path inside; everything else that is written goes to memory and is lost.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed import errors, guests, images, images_archive, settings

# The agent image without Berth's source and with the test packages: an edit of Berth does not change it.
IMAGE = images.Image("contract", "images/agent/Dockerfile", f"{images.REGISTRY}/contract", target="contract")

# Runs as root in fresh namespaces. $1 root file system, $2 scratch folder, $3 repository, $4 cache; then the command.
# libvirt wants / to be a mount point and the host's name to resolve; sysfs is mounted anew so that it shows this network.
_ENTER = r"""
root=$1 scratch=$2 repository=$3 cache=$4; shift 4
mount -t tmpfs -o mode=755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay -o "lowerdir=$root,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$scratch/root"
cd "$scratch/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
if [ -d /sys/fs/cgroup ]; then mount --rbind /sys/fs/cgroup sys/fs/cgroup; fi
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
for folder in "$cache" "$repository"; do mkdir -p "./$folder"; mount --rbind "$folder" "./$folder"; done
hostname contract
printf '127.0.0.1 localhost contract\n' > etc/hosts
mkdir -p host
pivot_root . host
umount --lazy /host
ip link set lo up
cd "$repository"
exec "$@"
"""
_START_LIBVIRTD = r"""
/usr/sbin/libvirtd >/var/log/libvirtd.log 2>&1 &
for _ in $(seq 200); do if [ -S /run/libvirt/libvirt-sock ]; then break; fi; sleep 0.05; done
if [ ! -S /run/libvirt/libvirt-sock ]; then cat /var/log/libvirtd.log >&2; exit 70; fi
"$@"
"""


def ensure(where: settings.Settings | None = None) -> Path:
    """Have the root file system unpacked in the cache and return its folder."""
    where = where or settings.load()
    [archive] = images.ensure([IMAGE.name], where, [IMAGE])
    folder = where.cache / "rootfs" / archive.stem
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        images_archive.unpack(archive, partial)
        _forget_others(folder)
        partial.rename(folder)
    return folder


def argv(command: Sequence[str], *, libvirtd: bool = False, where: settings.Settings | None = None) -> list[str]:
    """The command line that runs `command` inside; with `libvirtd` the daemon answers before the command starts."""
    where = where or settings.load()
    scratch = where.cache / "rootfs" / "scratch"
    inner = ["/bin/sh", "-euc", _START_LIBVIRTD, "libvirtd", *command] if libvirtd else list(command)
    unshare = [
        "unshare",
        "--mount",
        "--propagation=private",
        "--pid",
        "--fork",
        "--kill-child",
        "--net",
        "--uts",
        "--ipc",
    ]
    root = ensure(where)
    scratch.mkdir(exist_ok=True)
    return [
        *unshare,
        "/bin/sh",
        "-euc",
        _ENTER,
        "enter",
        *map(str, (root, scratch, where.repository, where.cache)),
        *inner,
    ]


def environment(outer: Mapping[str, str], where: settings.Settings) -> dict[str, str]:
    """What the command sees of the caller's environment: its own settings, never its paths or interpreters."""
    kept = {key: value for key, value in outer.items() if key.startswith(("BERTH_", "PYTEST_", "HYPOTHESIS_"))}
    kept |= {key: outer[key] for key in ("CI", "TERM", "COLUMNS") if key in outer}
    return kept | {
        "PATH": "/opt/berth/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "BERTH_CACHE": str(where.cache),
        "PYTHONPATH": f"{where.repository}/operator/src:{where.repository}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def run(command: Sequence[str], *, libvirtd: bool = False) -> int:
    """Run with this process's own standard streams and return the exit code."""
    if os.geteuid():
        raise errors.TestbedError("the agent's root file system needs root: run as root or with sudo")
    where = settings.load()
    guests.tiny_files(where)  # nothing can be built inside
    return subprocess.run(
        argv(command, libvirtd=libvirtd, where=where), env=environment(os.environ, where), check=False
    ).returncode


def _forget_others(folder: Path) -> None:
    for other in folder.parent.glob(f"{IMAGE.name}-*"):
        if other != folder and not other.name.endswith(".partial"):
            shutil.rmtree(other, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """`[--libvirtd] -- COMMAND…`"""
    options, _, command = (list(arguments), None, []) if "--" not in arguments else _split(arguments)
    if not command or set(options) - {"--libvirtd"}:
        raise errors.TestbedError("usage: python -m testbed.rootfs [--libvirtd] -- COMMAND [ARGUMENT…]")
    return run(command, libvirtd="--libvirtd" in options)


def _split(arguments: Sequence[str]) -> tuple[list[str], str, list[str]]:
    at = list(arguments).index("--")
    return list(arguments[:at]), "--", list(arguments[at + 1 :])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except errors.TestbedError as error:
        sys.exit(f"error: {error}")
