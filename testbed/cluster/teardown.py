"""Takes the built-in cluster away without a trace: processes, mounts, namespaces, links, cgroups, files.

Every part looks for what exists and accepts that it is gone, so half a `down` is finished by the next one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from testbed import errors, shell
from testbed.cluster import cgroups, host, layout, network, nodes, processes, reconcile
from testbed.progress import Progress
from testbed.settings import Settings
from testbed.topology import Topology

UNIT_ORDER = ("kubelet", "provisioner", "kube-scheduler", "kube-controller-manager")


def down(settings: Settings, topology: Topology, progress: Progress) -> None:
    """Remove the whole testbed; its cache of binaries and images stays."""
    if not settings.state.exists() and not settings.data.exists() and not cgroups.leftovers(layout.cgroup(settings)):
        return
    with reconcile.locked(settings):
        with progress.task("stop processes"):
            _stop(settings)
        with progress.task("namespaces, links, mounts"):
            nodes.remove_all(settings)
            for node in topology.nodes:
                network.remove_node(settings, node.name, node.ordinal)
            network.remove_bridge(settings)
        with progress.task("cgroups, files"):
            _remove_cgroups(settings)
            if not cgroups.siblings(layout.CGROUP):  # other testbeds still need what was changed
                host.restore()
            for folder in (settings.data, settings.state):
                _remove_folder(folder)


def _stop(settings: Settings) -> None:
    """Those that start others go first; whatever is left in our cgroups is killed until nothing new appears."""
    running = processes.find(settings)
    for name in sorted(running, key=lambda name: name.partition("@")[0] not in UNIT_ORDER):
        processes.kill(settings, name)
    for _ in range(50):
        left = cgroups.processes(layout.cgroup(settings))
        if not left:
            return
        processes.kill_all(left)
    raise errors.NotReady(f"new processes keep appearing in the cgroup {layout.cgroup(settings)}; run `down` again")


def _remove_folder(folder: Path) -> None:
    """Never walk into a mount: what is mounted there is not ours to delete."""
    mounted = [m.target for m in nodes.mounts() if m.target == str(folder) or m.target.startswith(f"{folder}/")]
    if mounted:
        raise errors.NotReady(f"{mounted[0]} is still mounted; unmount it and run `down` again")
    shutil.rmtree(folder, ignore_errors=True)


def _remove_cgroups(settings: Settings) -> None:
    name = layout.cgroup(settings)
    cgroups.remove(name)
    left = cgroups.leftovers(name)
    if left:
        raise errors.NotReady(
            f"{left[0]} cannot be removed; see {shell.run(['find', str(left[0]), '-name', 'cgroup.procs'])}"
        )
