"""The commands of `python -m testbed`. Only here are errors printed and exit codes chosen; the work is elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from testbed import backend, errors, prerequisites, settings
from testbed import demo as demonstration
from testbed import install as installation
from testbed.binaries import catalog, ensure
from testbed.progress import Progress


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A small Kubernetes cluster on this machine, for Berth's tests and examples."""


@cli.command()
def up() -> None:
    """Bring the cluster up, or repair it; does nothing when all is well."""
    with Progress() as progress:
        backend.choose().up(progress)
    progress.say(f"cluster is up after {progress.seconds():.1f} s: export KUBECONFIG={settings.load().kubeconfig}")


@cli.command()
def down() -> None:
    """Remove every trace of the cluster; cached binaries and images stay."""
    with Progress() as progress:
        backend.choose().down(progress)


@cli.command()
def kubeconfig() -> None:
    """Print the path of the admin kubeconfig."""
    click.echo(settings.load().kubeconfig)


@cli.command("prerequisites")
def install_prerequisites() -> None:
    """Only install the Debian packages that are missing."""
    with Progress() as progress:
        prerequisites.ensure(progress, (*prerequisites.CLUSTER, *prerequisites.IMAGES))


@cli.command()
def binaries() -> None:
    """Only fetch or build the programs."""
    with Progress() as progress:
        names = [release.name for release in catalog.RELEASES if not release.optional]
        paths = ensure.ensure(settings.load(), progress, names)
    for name, path in sorted(paths.items()):
        click.echo(f"{name}\t{path}")


@cli.command("load-image")
@click.argument("archives", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def load_image(archives: tuple[Path, ...]) -> None:
    """Import image archives (OCI or docker) into every node."""
    with Progress() as progress:
        backend.choose().load(progress, archives)


@cli.command()
def install() -> None:
    """Build Berth's images, load them into the nodes and install the chart."""
    with Progress() as progress:
        installation.install(backend.choose(), settings.load(), progress)


@cli.command()
def demo() -> None:
    """Boot the smallest example and show how to use it."""
    with Progress() as progress:
        demonstration.demo(settings.load(), progress)


@cli.command("node-exec", context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def node_exec(node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND inside NODE."""
    argv = [*backend.choose().enter(node), *command]
    os.execvp(argv[0], argv)


@cli.command()
@click.argument("component")
@click.argument("node", required=False)
def restart(component: str, node: str | None) -> None:
    """Kill COMPONENT (on NODE, or on every node) and start it again."""
    with Progress() as progress:
        backend.choose().restart(progress, component, node)


@cli.command()
@click.argument("node")
def lose(node: str) -> None:
    """Cut NODE's power: all that runs on it ends at once. `up` makes it anew, with its disk."""
    with Progress() as progress:
        backend.choose().lose(progress, node)


@cli.command()
def status() -> None:
    """Show every part of the cluster; exit code 1 when one is not well."""
    parts = backend.choose().status()
    table = Table("PART", "", "DETAIL", box=None)
    for part in parts:
        table.add_row(part.name, "[green]ok[/]" if part.healthy else "[red]down[/]", part.detail)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    sys.exit(0 if all(part.healthy for part in parts) else 1)


def main() -> None:
    """Run one command; a known error is printed without a traceback."""
    try:
        cli()
    except errors.TestbedError as error:
        Console(stderr=True).print("[red]error:[/]", str(error), markup=True, highlight=False, soft_wrap=True)
        sys.exit(1)
