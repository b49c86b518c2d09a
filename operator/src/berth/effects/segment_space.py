"""The network namespace that holds the node's segments: a path in, a descriptor out. Called by segment_devices.py.

It is not the node's own: what is bridged in it meets no filter, NAT or address of the node, though kubelet has the
kernel show bridged packets to iptables. It is kept by a mount and not by a process: the agent comes and goes.
"""

from __future__ import annotations

import os
from pathlib import Path

from berth.effects import mounts, namespaces, paths, syscalls
from berth.errors import HostFault

_QUIET = ("net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6")


def open_own() -> int:
    """The calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def find(path: Path) -> int | None:
    """A descriptor of the namespace kept at that path; None when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    if os.fstat(fd).st_dev == os.stat("/proc/self/ns/net").st_dev:
        return fd
    os.close(fd)
    return None


def make(path: Path) -> int:
    """The same, made when there is none. Nobody else may be making it meanwhile."""
    if (found := find(path)) is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mounts.unbind(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        fd = namespaces.in_fresh_network(_set_up)
        with paths.closing(syscalls.open_tree_clone(fd)) as tree:
            syscalls.move_mount(tree, str(path))
    except OSError as error:
        message = f"{path}: no network namespace for segments can be kept there: {error.strerror}"
        raise HostFault(message, reason="NetworkFailed") from error
    return fd


def _set_up() -> int:
    """No device here shall speak for itself: guests would hear it."""
    for name in _QUIET:
        switch = Path("/proc/sys") / name
        if switch.exists():  # a kernel without IPv6 has nothing to switch off
            switch.write_text("1")
    return open_own()
