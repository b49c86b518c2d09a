"""The options that several commands share, as kubectl spells them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Name = Annotated[str, typer.Argument(help="The VirtualMachine's name.")]
Files = Annotated[list[str], typer.Argument(help="YAML files; - is standard input.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Its namespace. Default: that of the kubeconfig's context.")
]
Context = Annotated[str | None, typer.Option("--context", help="The kubeconfig's context.")]
Kubeconfig = Annotated[Path | None, typer.Option("--kubeconfig", help="The kubeconfig file.")]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait until it is done, and show the phases on the way.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that --wait waits at most.")]
