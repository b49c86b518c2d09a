"""Installs Berth on the cluster: images onto the nodes, then its Helm chart. Called by `python -m testbed install`.

Repeating it is cheap: an archive's name holds the hash of what it was built from, and each node notes what it has.
"""

from __future__ import annotations

import concurrent.futures
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed import errors, guests, images, prerequisites, shell
from testbed.binaries import ensure
from testbed.cluster import apply, layout, reconcile
from testbed.progress import Progress
from testbed.settings import Settings
from testbed.topology import Node, Topology

NAMESPACE, RELEASE = "berth-system", "berth"
IMAGES = ("berth", "agent", "controller", "testtools")
CHART_SECONDS = 180


def install(settings: Settings, topology: Topology, progress: Progress) -> None:
    """Build what is missing, load it, install or upgrade the chart and wait until it is ready."""
    if shutil.which("docker") is None or not shell.quiet(["docker", "info"]):
        prerequisites.ensure(progress, prerequisites.IMAGES)
    with progress.task("images"):
        archives = images.ensure(IMAGES, settings)
    with progress.task("guests"):
        archives += guests.ensure((), settings)
    load(settings, topology, progress, archives)
    tools = ensure.ensure(settings, progress, ("helm", "kubernetes"))
    with reconcile.locked(settings), progress.task("chart", f"{RELEASE} in {NAMESPACE}"):
        _chart(
            settings, tools, {name: apply.tags_of(str(path))[0] for name, path in zip(IMAGES, archives, strict=False)}
        )


def _chart(settings: Settings, tools: Mapping[str, Path], references: Mapping[str, str]) -> None:
    """A killed helm leaves a release that says it is still being changed: under our lock, that is never true."""
    kubectl = [str(tools["kubectl"]), f"--kubeconfig={settings.kubeconfig}", f"--namespace={NAMESPACE}"]
    states = "status in (pending-install,pending-upgrade,pending-rollback)"
    shell.run([*kubectl, "delete", "secret", "-l", f"owner=helm,name={RELEASE},{states}", "--ignore-not-found"])
    try:
        shell.run(helm_command(settings, tools["helm"], references), timeout=CHART_SECONDS + 30)
    except errors.CommandFailed as error:
        pods = shell.run([*kubectl, "get", "pods", "-o", "wide"])
        events = shell.run([*kubectl, "get", "events", "--field-selector=type=Warning", "--sort-by=.lastTimestamp"])
        last = "\n".join(events.splitlines()[-8:])
        raise errors.NotReady(f"{error.output.strip()}\n\n{pods}\n{last}") from error


def helm_command(settings: Settings, helm: Path, references: Mapping[str, str]) -> list[str]:
    """One command for install and upgrade. Emulation is Auto: the testbed must work on machines without KVM."""
    chosen = [f"--set-string=image.{name}={references[name]}" for name in ("controller", "agent", "berth")]
    return [
        str(helm),
        "upgrade",
        "--install",
        RELEASE,
        str(settings.repository / "charts" / "berth"),
        f"--kubeconfig={settings.kubeconfig}",
        f"--namespace={NAMESPACE}",
        "--create-namespace",
        "--wait",
        f"--timeout={CHART_SECONDS}s",
        "--set-string=emulation=Auto",
        *chosen,
    ]


def load(settings: Settings, topology: Topology, progress: Progress, archives: Sequence[Path]) -> None:
    """Import archives into every node, one at a time on each, the nodes side by side."""
    machine = reconcile.machine(settings, topology, ensure.ensure(settings, progress, ("containerd",)), progress)
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(topology.nodes)) as pool:
        for done in [pool.submit(_load_node, machine, node, archives) for node in topology.nodes]:
            done.result()


def _load_node(machine: apply.Machine, node: Node, archives: Sequence[Path]) -> None:
    notes = layout.files_of(machine.settings, node.name) / "loaded"
    notes.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        note = notes / f"{archive.stem}-{archive.stat().st_mtime_ns}"
        if note.exists():
            continue
        with machine.progress.task(f"{archive.name} → {node.name}"):
            apply.load_image(machine, node, str(archive))
        note.touch()
