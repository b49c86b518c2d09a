"""`berth vnc`: a socket on this machine whose every connection is the guest's screen, through `kubectl exec`.

Nothing listens on the node or in the pod network: the bytes go through the API server with the user's own rights.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from berth.cli import screen
from berth.cli.cluster import connect
from berth.cli.console import CONTAINER, running_berth
from berth.cli.options import Context, Kubeconfig, Name, Namespace

VIEWERS: Final = (
    ("remote-viewer", "vnc://{host}:{port}"),
    ("vncviewer", "{host}::{port}"),
    ("gvncviewer", "{host}::{port}"),
)
HINT: Final = "set spec.display.type to VNC and restart the machine"

Listen = Annotated[str, typer.Option("--listen", help="Address and port to listen on; port 0 picks a free one.")]
Socket = Annotated[Path | None, typer.Option("--unix", help="Listen on this unix socket instead.")]
Viewer = Annotated[bool, typer.Option("--viewer", help="Start a VNC viewer, and end with it.")]


def vnc_command(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    listen: Listen = "127.0.0.1:0",
    path: Socket = None,
    viewer: Viewer = False,
) -> None:
    """Offer the guest's screen to a VNC viewer on this machine."""
    cluster = connect(namespace, context, kubeconfig)
    vm = cluster.machine(name)
    if (vm["spec"].get("display") or {}).get("type") != "VNC":
        screen.fail(f"{name} has no screen: {HINT}")
    pod = running_berth(cluster, vm)
    words = cluster.access.kubectl("exec", "-i", "-q", pod, "-c", CONTAINER, "--", "berth", "vnc")
    server = _unix(path) if path else _tcp(listen)
    try:
        _serve(server, words, viewer and path is None)
    finally:
        server.close()
        if path is not None:
            path.unlink(missing_ok=True)


def _tcp(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        screen.fail(
            f"--listen: an address and a port from 0 to 65535 are wanted, as in 127.0.0.1:5901 (given: {listen!r})"
        )
    try:
        return socket.create_server((host.strip("[]") or "127.0.0.1", int(port)))
    except OSError as error:
        screen.fail(f"--listen {listen}: {error}")


def _unix(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(str(path))
    except OSError as error:
        screen.fail(f"--unix {path}: {error}")
    path.chmod(0o600)
    server.listen()
    return server


def _serve(server: socket.socket, words: Sequence[str], viewer: bool) -> None:
    """One kubectl for each connection, which reads and writes the connection itself."""
    if server.family == socket.AF_UNIX:
        screen.err.print(f"listening on unix:{server.getsockname()}; Ctrl-C ends")
    else:
        screen.err.print("listening on {}:{}; Ctrl-C ends".format(*server.getsockname()[:2]))
    watched = _start_viewer(*server.getsockname()[:2]) if viewer else None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server.settimeout(0.5)
    running: list[subprocess.Popen[bytes]] = []
    with contextlib.suppress(KeyboardInterrupt):
        while watched is None or watched.poll() is None:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                connection.setblocking(True)
                running.append(subprocess.Popen(words, stdin=connection.fileno(), stdout=connection.fileno()))
                connection.close()
            running = [process for process in running if process.poll() is None]
    for process in running:
        process.terminate()
        process.wait()


def _start_viewer(host: str, port: int) -> subprocess.Popen[bytes]:
    found = next((entry for entry in VIEWERS if shutil.which(entry[0])), None)
    if found is None:
        names = ", ".join(program for program, _ in VIEWERS)
        screen.fail(f"no VNC viewer in PATH ({names}): install one, or give its address to yours without --viewer")
    return subprocess.Popen([found[0], found[1].format(host=host, port=port)])
