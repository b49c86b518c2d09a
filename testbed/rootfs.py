"""Runs a command in the agent image's own root file system: contract tests meet exactly its libvirt, QEMU and Python.

Called by `make test` and by hand: `python -m testbed.rootfs -- pytest tests/contract`. The command gets namespaces of
its own (mounts, processes, network, host name) that end with it, however it ends: no daemon, guest or tap device is
left behind. The repository keeps its path inside; everything else that is written goes to memory and is lost.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from testbed import errors, guests, images, images_archive, settings

# The agent image without Berth's source and with the test packages: an edit of Berth does not change it.
IMAGE = images.Image("contract", "images/agent/Dockerfile", f"{images.REGISTRY}/contract", target="contract")

# Runs as root in fresh namespaces. $1 root file system, $2 scratch folder, $3 repository, $4 cache; then the command.
# libvirt wants / to be a mount point and the host's name to resolve; a new sysfs shows this network.
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
# Not exec: this shell is process 1, and libvirt waits until somebody reaps the QEMU it asked for its capabilities.
code=0; "$@" || code=$?
exit "$code"
"""
_START_LIBVIRTD = r"""
/usr/sbin/libvirtd >/var/log/libvirtd.log 2>&1 &
for _ in $(seq 200); do if [ -S /run/libvirt/libvirt-sock ]; then break; fi; sleep 0.05; done
if [ ! -S /run/libvirt/libvirt-sock ]; then cat /var/log/libvirtd.log >&2; exit 70; fi
"$@"
"""


@contextmanager
def ensure(where: settings.Settings | None = None) -> Iterator[Path]:
    """Have the root file system unpacked in the cache; it stays there at least as long as the block lasts."""
    where = where or settings.load()
    [archive] = images.ensure([IMAGE.name], where, [IMAGE])
    folder = where.cache / "rootfs" / archive.stem
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:  # shared from the look to the end: nobody waits for those who use it, nobody takes it away
        with _lock(folder, fcntl.LOCK_SH):
            if folder.is_dir():
                _forget_others(folder)
                yield folder
                return
        with _lock(folder, fcntl.LOCK_EX):
            _unpack(archive, folder)


def argv(root: Path, command: Sequence[str], *, libvirtd: bool, where: settings.Settings) -> list[str]:
    """The command line that runs `command` inside; with `libvirtd` the daemon answers before the command starts."""
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
    scratch.mkdir(parents=True, exist_ok=True)
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
        "PYTHONUNBUFFERED": "1",
    }


def run(command: Sequence[str], *, libvirtd: bool = False) -> int:
    """Run with this process's own standard streams and return the exit code."""
    if os.geteuid():
        raise errors.TestbedError("the agent's root file system needs root: run as root or with sudo")
    where = settings.load()
    guests.tiny_files(where)  # nothing can be built inside
    guests.older_qemu(where)
    with ensure(where) as root:
        words = argv(root, command, libvirtd=libvirtd, where=where)
        return subprocess.run(words, env=environment(os.environ, where), check=False).returncode


def _unpack(archive: Path, folder: Path) -> None:
    if folder.is_dir():
        return
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    images_archive.unpack(archive, partial)
    partial.rename(folder)


def _forget_others(folder: Path) -> None:
    """Older root file systems go, except those in which something still runs."""
    for other in folder.parent.glob(f"{IMAGE.name}-*"):
        if other == folder or not other.is_dir() or other.suffix:
            continue
        with suppress(BlockingIOError), _lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _lock(folder: Path, how: int) -> Iterator[None]:
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, how)
        yield


def main(arguments: Sequence[str]) -> int:
    """`[--libvirtd] -- COMMAND…`"""
    words = list(arguments)
    at = words.index("--") if "--" in words else len(words)
    options, command = words[:at], words[at + 1 :]
    if not command or set(options) - {"--libvirtd"}:
        raise errors.TestbedError("usage: python -m testbed.rootfs [--libvirtd] -- COMMAND [ARGUMENT…]")
    return run(command, libvirtd="--libvirtd" in options)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except errors.TestbedError as error:
        sys.exit(f"error: {error}")
