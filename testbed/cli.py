"""The commands of `python -m testbed`. Only here are errors printed and exit codes chosen; the work is elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from testbed import errors, prerequisites, settings, topology
from testbed import install as installation
from testbed.binaries import catalog, ensure
from testbed.cluster import api, nodes, objects, processes, reconcile, teardown, units
from testbed.progress import Progress

COMPONENTS = {"apiserver": "kube-apiserver", "kcm": "kube-controller-manager", "scheduler": "kube-scheduler"}


def _load() -> tuple[settings.Settings, topology.Topology]:
    where = settings.load()
    return where, topology.parse((where.repository / "kind-config.yaml").read_text(), where.index)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A small Kubernetes cluster on this machine, for Berth's tests and examples."""


@cli.command()
def up() -> None:
    """Bring the cluster up, or repair it; does nothing when all is well."""
    where, shape = _load()
    with Progress() as progress:
        prerequisites.ensure(progress, prerequisites.CLUSTER)
        reconcile.up(where, shape, progress)
    progress.say(f"cluster is up after {progress.seconds():.1f} s: export KUBECONFIG={where.kubeconfig}")


@cli.command()
def down() -> None:
    """Remove every trace of the cluster; cached binaries and images stay."""
    where, shape = _load()
    with Progress() as progress:
        teardown.down(where, shape, progress)


@cli.command()
def kubeconfig() -> None:
    """Print the path of the admin kubeconfig."""
    where, _ = _load()
    click.echo(where.kubeconfig)


@cli.command("prerequisites")
def install_prerequisites() -> None:
    """Only install the Debian packages that are missing."""
    with Progress() as progress:
        prerequisites.ensure(progress, (*prerequisites.CLUSTER, *prerequisites.IMAGES))


@cli.command()
def binaries() -> None:
    """Only fetch or build the programs."""
    where, _ = _load()
    with Progress() as progress:
        paths = ensure.ensure(where, progress, [release.name for release in catalog.RELEASES])
    for name, path in sorted(paths.items()):
        click.echo(f"{name}\t{path}")


@cli.command("load-image")
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def load_image(archives: tuple[Path, ...]) -> None:
    """Import image archives (OCI or docker) into every node."""
    where, shape = _load()
    with Progress() as progress:
        installation.load(where, shape, progress, archives)


@cli.command()
def install() -> None:
    """Build Berth's images, load them into the nodes and install the chart."""
    where, shape = _load()
    with Progress() as progress:
        installation.install(where, shape, progress)


@cli.command("node-exec", context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def node_exec(node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND inside NODE's namespaces."""
    where, shape = _load()
    argv = [*nodes.enter(where, shape.node(node).name), *command]
    os.execvp(argv[0], argv)


@cli.command()
@click.argument("component")
@click.argument("node", required=False)
def restart(component: str, node: str | None) -> None:
    """Kill COMPONENT (on NODE, or on every node) and start it again."""
    where, shape = _load()
    name = COMPONENTS.get(component, component)
    if name in units.NODE_COMPONENTS:
        names = [f"{name}@{shape.node(node).name}"] if node else [f"{name}@{n.name}" for n in shape.nodes]
    else:
        names = [name]
    with Progress() as progress:
        reconcile.restart(where, shape, progress, names)


@cli.command()
def status() -> None:
    """Show every process and node; exit code 1 when something is missing."""
    where, shape = _load()
    running = processes.find(where)
    table = Table("PROCESS", "PID", "LOG", box=None)
    for name in units.names(shape):
        pid = str(running[name].pid) if name in running else "[red]not running[/]"
        table.add_row(name, pid, str(where.logs / f"{name}.log"))
    console = Console()
    console.print(table)
    healthy = len(running) == len(units.names(shape))
    if "kube-apiserver" in running:
        for node in api.connect(where).get("/api/v1/nodes")["items"]:
            ready = objects.ready_condition(node)
            healthy = healthy and ready["status"] == "True"
            console.print(f"node {node['metadata']['name']}: Ready={ready['status']}")
    sys.exit(0 if healthy else 1)


def main() -> None:
    """Run one command; a known error is printed without a traceback."""
    try:
        cli()
    except errors.TestbedError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", markup=True, highlight=False)
        sys.exit(1)
