"""Installs Berth on the cluster: images onto the nodes, then its Helm chart. Called by `python -m testbed install`.

Repeating it is cheap: images are built when their sources changed, and nodes know what they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testbed import backend, errors, guests, images, prerequisites, shell
from testbed.binaries import ensure
from testbed.cluster import apply, reconcile
from testbed.progress import Progress
from testbed.settings import Settings

NAMESPACE, RELEASE = "berth-system", "berth"
IMAGES = ("berth", "agent", "controller", "testtools")
CHART_SECONDS = 180


def install(cluster: backend.Backend, settings: Settings, progress: Progress) -> None:
    """Build what is missing, load it, install or upgrade the chart and wait until it is ready."""
    if not backend.docker_works():
        prerequisites.ensure(progress, prerequisites.IMAGES)
    with progress.task("images"):
        archives = images.ensure(IMAGES, settings)
    with progress.task("guests"):
        archives += guests.ensure((), settings)
    cluster.load(progress, archives)
    tools = ensure.ensure(settings, progress, ("helm", "kubernetes"))
    names = {name: apply.tags_of(str(path))[0] for name, path in zip(IMAGES, archives, strict=False)}
    with reconcile.locked(settings), progress.task("chart", f"{RELEASE} in {NAMESPACE}"):
        _chart(settings, tools, names)


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
