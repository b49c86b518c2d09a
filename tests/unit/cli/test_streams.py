"""Console and screen, with a stand-in for kubectl: bytes get through both ways, and leaving leaves nothing behind."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.server import Server, serve

SECONDS = 60
KUBECTL = """#!/bin/sh
echo "$@" >> {folder}/words
case "$*" in
  *" exec "*) printf 'RFB 003.008\\n'; exec cat;;
  *) printf 'guest login: '; exec cat;;
esac
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    script = tmp_path / "kubectl"
    script.write_text(KUBECTL.format(folder=tmp_path))
    script.chmod(0o755)
    with serve(tmp_path) as running:
        status = {"phase": "Running", "berth": "berth-web", "observedGeneration": 1}
        running.put("web", {"display": {"type": "VNC"}}, status)
        yield running


def command(server: Server, *words: str) -> tuple[list[str], dict[str, str]]:
    path = f"{server.kubeconfig.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig), "PATH": path}
    return [sys.executable, "-m", "berth.cli", *words], environment


def read_until(descriptor: int, wanted: bytes) -> bytes:
    seen, deadline = b"", time.monotonic() + SECONDS
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 1)[0]:
            seen += os.read(descriptor, 4096)
    assert wanted in seen, seen
    return seen


def test_a_screen_is_offered_on_a_port(server: Server) -> None:
    words, environment = command(server, "vnc", "web", "--listen", "127.0.0.1:0")
    proxy = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
    assert proxy.stderr is not None
    try:
        said = read_until(proxy.stderr.fileno(), b"Ctrl-C").decode()
        port = int(re.search(r"127\.0\.0\.1:(\d+)", said)[1])  # type: ignore[index]
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", port), SECONDS) as viewer:
                viewer.sendall(b"hello")
                assert read_until(viewer.fileno(), b"hello").startswith(b"RFB 003.008\n")
    finally:
        proxy.send_signal(signal.SIGINT)
        assert proxy.wait(SECONDS) == 0
    wanted = "--namespace lab exec -i -q berth-web -c berth -- berth vnc"
    assert wanted in (server.kubeconfig.parent / "words").read_text()


def test_a_screen_is_offered_on_a_unix_socket_that_goes_afterwards(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "vnc.sock"
    words, environment = command(server, "vnc", "web", "--unix", str(path))
    proxy = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE)
    assert proxy.stderr is not None
    try:
        read_until(proxy.stderr.fileno(), b"Ctrl-C")
        assert path.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as viewer:
            viewer.connect(str(path))
            read_until(viewer.fileno(), b"RFB 003.008\n")
    finally:
        proxy.terminate()
        proxy.wait(SECONDS)
    assert not path.exists()


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:x", "127.0.0.1:99999"])
def test_a_wrong_address_is_refused(server: Server, listen: str) -> None:
    words, environment = command(server, "vnc", "web", "--listen", listen)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 1
    assert "--listen" in done.stderr
    assert listen in done.stderr


def test_the_console_passes_keys_and_is_left_by_its_own_key(server: Server) -> None:
    words, environment = command(server, "console", "web")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(words[0], words, environment)
    read_until(terminal, b"guest login: ")
    os.write(terminal, b"root\r")
    read_until(terminal, b"root")
    os.write(terminal, b"\x1d")
    read_until(terminal, b"Left the console")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0
    wanted = "--namespace lab attach berth-web -c berth -i -q -t"
    assert wanted in (server.kubeconfig.parent / "words").read_text()


def test_without_a_terminal_the_console_is_a_pipe(server: Server) -> None:
    words, environment = command(server, "console", "web")
    done = subprocess.run(
        words, env=environment, input="echo\n", capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.stdout == "guest login: echo\n"
