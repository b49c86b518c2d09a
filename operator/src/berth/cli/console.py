"""`berth console`: the guest's serial console in this terminal, by `kubectl attach`; Ctrl-] leaves it.

kubectl runs on a terminal of its own here, because it has no key to leave a guest that goes on.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from berth.cli import screen
from berth.cli.cluster import Cluster, Json, connect
from berth.cli.options import Context, Kubeconfig, Name, Namespace

LEAVE: Final = b"\x1d"
CONTAINER: Final = "berth"


def console_command(
    name: Name, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Open the serial console. Ctrl-] leaves it; the guest goes on."""
    cluster = connect(namespace, context, kubeconfig)
    pod = running_berth(cluster, cluster.machine(name))
    if shutil.which("kubectl") is None:
        screen.fail("kubectl is not in PATH: the console goes through it")
    words = cluster.access.kubectl("attach", pod, "-c", CONTAINER, "-i", "-q")
    if not sys.stdin.isatty():
        os.execvp(words[0], words)
    screen.err.print(f"Console of {name}; Ctrl-] leaves it, the guest goes on.")
    code = _in_terminal([*words, "-t"])
    screen.err.print("\nLeft the console.")
    raise SystemExit(code)


def running_berth(cluster: Cluster, vm: Json) -> str:
    """The machine's berth pod, which has to be there and up."""
    name, status = vm["metadata"]["name"], vm.get("status") or {}
    berth = status.get("berth")
    if not berth or status.get("phase") in ("Stopped", "Failed", "Pending"):
        log = f"; `kubectl logs -n {cluster.access.namespace} {berth}` has its last output" if berth else ""
        screen.fail(
            f"{name} is {status.get('phase', 'not started yet')}: there is no console{log}; see `berth why {name}`"
        )
    return str(berth)


def _in_terminal(words: list[str]) -> int:
    """Run a command on a new terminal and connect it with this one until it ends or the user leaves."""
    pid, master = pty.fork()
    if pid == 0:
        os.execvp(words[0], words)
    _same_size(master)
    signal.signal(signal.SIGWINCH, lambda *_: _same_size(master))
    with _raw(sys.stdin.fileno()):
        left = _relay(master)
    if left:
        os.kill(pid, signal.SIGTERM)
    os.close(master)
    _, status = os.waitpid(pid, 0)
    return 0 if left else os.waitstatus_to_exitcode(status)


def _relay(master: int) -> bool:
    """Bytes both ways; True when the user left, False when the command ended."""
    keyboard, output = sys.stdin.fileno(), sys.stdout.fileno()
    while True:
        ready, _, _ = select.select([keyboard, master], [], [])
        if master in ready:
            data = _read(master)
            if not data:
                return False
            _write(output, data)
        if keyboard in ready:
            data = _read(keyboard)
            before, leave, _ = data.partition(LEAVE)
            _write(master, before)
            if leave or not data:
                return True


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # a terminal whose other side is closed gives EIO
        return b""


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _same_size(master: int) -> None:
    termios.tcsetwinsize(master, termios.tcgetwinsize(sys.stdout.fileno()))


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
