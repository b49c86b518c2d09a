"""Makes and removes a node's view of the machine: its mount and UTS namespaces, pinned by files. No process needed.

Inside, /var/lib, /var/log and /run are the node's own, /etc is the host's with a few files replaced, /sys belongs to
the node's network namespace. All of it is mounted shared within the node and private towards everything else.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import files, shell
from testbed.cluster import configs, layout
from testbed.settings import Settings
from testbed.topology import Node, Topology

# Mounts of other tools (build chroots, containers) are copied into a new mount namespace and would live on in it.
STRAY_TYPES = {"cgroup", "cgroup2", "overlay", "nsfs", "sysfs", "proc", "devpts", "mqueue"}
KEPT = ("/", "/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo, as far as it matters here."""

    target: str
    kind: str


def pins(settings: Settings, node: str) -> Path:
    """The folder with the node's pinned namespaces."""
    return settings.state / "namespaces" / node


def enter(settings: Settings, node: str) -> list[str]:
    """The command prefix that runs the rest inside the node."""
    folder = pins(settings, node)
    return ["nsenter", f"--net=/run/netns/{node}", f"--mount={folder}/mnt", f"--uts={folder}/uts", "--wd=/", "--"]


def exists(settings: Settings, node: str) -> bool:
    """True when the node's namespaces are pinned and its file systems are in place."""
    return _pinned(settings, node) and shell.quiet([*enter(settings, node), "test", "-e", "/run/testbed-node"])


def prepare(settings: Settings) -> None:
    """Make the folder for the pins. Namespace files can only be pinned where mounts do not propagate."""
    folder = settings.state / "namespaces"
    folder.mkdir(parents=True, exist_ok=True)
    if not shell.quiet(["mountpoint", "-q", folder]):
        shell.run(["mount", "--bind", folder, folder])
    shell.run(["mount", "--make-private", folder])


def make(settings: Settings, topology: Topology, node: Node) -> None:
    """Make the namespaces anew; whatever ran in older ones must be gone. The network namespace must exist."""
    remove(settings, node.name)
    root, run = settings.node_root(node.name), _run(settings, node.name)
    shutil.rmtree(run, ignore_errors=True)
    for path in layout.NODE_STATE:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (root / "etc-work").mkdir(exist_ok=True)
    for path in layout.NODE_RUN:
        (run / Path(path).relative_to("/run")).mkdir(parents=True, exist_ok=True)
    _write_etc(root / "etc", topology, node)
    folder = pins(settings, node.name)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("mnt", "uts"):
        (folder / name).touch()
    (settings.state / "cgroup").mkdir(exist_ok=True)
    script = setup_script(settings, node, mounts())
    inside = ["nsenter", f"--net=/run/netns/{node.name}", "unshare", f"--mount={folder}/mnt", f"--uts={folder}/uts"]
    shell.run([*inside, "sh", "-euc", script])


def remove(settings: Settings, node: str) -> None:
    """Unpin the namespaces; the kernel takes them apart with their last process."""
    for name in ("mnt", "uts"):
        while shell.quiet(["mountpoint", "-q", pins(settings, node) / name]):
            shell.run(["umount", pins(settings, node) / name])
    shutil.rmtree(pins(settings, node), ignore_errors=True)


def remove_all(settings: Settings) -> None:
    """Unpin every node and give up the private mount that held the pins."""
    folder = settings.state / "namespaces"
    for node in [entry.name for entry in folder.iterdir()] if folder.is_dir() else []:
        remove(settings, node)
    while shell.quiet(["mountpoint", "-q", folder]):
        shell.run(["umount", folder])


def setup_script(settings: Settings, node: Node, present: Sequence[Mount]) -> str:
    """The shell commands that turn a fresh copy of the host's mounts into the node's own view."""
    root, cgroup = settings.node_root(node.name), settings.state / "cgroup"
    etc = f"lowerdir=/etc,upperdir={root}/etc,workdir={root}/etc-work"
    commands = [
        ["mount", "--make-rprivate", "/"],
        ["mount", "--bind", str(settings.cache / "bin"), f"{root}/{layout.NODE_BINARIES.relative_to('/')}"],
        ["mount", "-t", "overlay", "overlay", "-o", etc, "/etc"],
        ["mount", "--rbind", "/sys/fs/cgroup", str(cgroup)],  # seen by this namespace only
        ["umount", "-R", "-l", "/sys"],
        ["mount", "-t", "sysfs", "sysfs", "/sys"],
        ["mount", "--rbind", str(cgroup), "/sys/fs/cgroup"],
        ["umount", "-R", "-l", str(cgroup)],
        ["mount", "--rbind", f"{root}/var/log", "/var/log"],
        ["mount", "--bind", str(_run(settings, node.name)), "/run"],
        ["mount", "--rbind", f"{root}/var/lib", "/var/lib"],
        ["mount", "--make-rshared", "/"],
        ["hostname", node.name],
        ["touch", "/run/testbed-node"],
    ]
    # A stray may be gone by now, and the kernel leaves some (pinned mount namespaces) out of the copy.
    drop = [f"umount -l {shlex.quote(target)} 2>/dev/null || true" for target in strays(present)]
    first, *rest = (shlex.join(command) for command in commands)
    return "\n".join([first, *drop, *rest])


def strays(present: Iterable[Mount]) -> list[str]:
    """Mounts to drop from a new node, innermost first."""
    found = [
        mount.target
        for mount in present
        if mount.kind in STRAY_TYPES
        and mount.target not in KEPT
        and not _below(mount.target, ("/proc", "/sys", "/dev"))
    ]
    return list(reversed(found))


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Read /proc/self/mountinfo; octal escapes stand for spaces and the like."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        target = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), left.split()[4])
        found.append(Mount(target, right.split()[0]))
    return found


def mounts() -> list[Mount]:
    """All mounts that this process sees."""
    return parse_mounts(Path("/proc/self/mountinfo").read_text())


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _run(settings: Settings, node: str) -> Path:
    return settings.state / "nodes" / node / "run"


def _pinned(settings: Settings, node: str) -> bool:
    folder = pins(settings, node)
    return Path(f"/run/netns/{node}").exists() and all(
        shell.quiet(["mountpoint", "-q", folder / name]) for name in ("mnt", "uts")
    )


def _write_etc(folder: Path, topology: Topology, node: Node) -> None:
    host = files.read(Path("/run/systemd/resolve/resolv.conf")) or files.read(Path("/etc/resolv.conf")) or ""
    files.write(folder / "hosts", configs.hosts(topology, node))
    files.write(folder / "hostname", f"{node.name}\n")
    files.write(folder / "resolv.conf", configs.resolv_conf(host))
