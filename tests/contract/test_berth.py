"""The berth binary, run for real: console relay, control protocol, signals, cost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from berth.effects import links
from berth.effects.berths import NodeBerths
from tests.contract import pods


@dataclass(slots=True)
class Running:
    """A berth on a terminal of its own."""

    process: subprocess.Popen[bytes]
    terminal: int
    folder: Path
    inner: str  # the terminal's other side

    @contextlib.contextmanager
    def other_side(self) -> Iterator[int]:
        fd = os.open(self.inner, os.O_RDWR | os.O_NOCTTY)
        try:
            yield fd
        finally:
            os.close(fd)

    def is_raw(self) -> bool:
        with self.other_side() as fd:
            return not termios.tcgetattr(fd)[3] & termios.ECHO

    def has_read_all(self) -> bool:
        with self.other_side() as fd:
            return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4))) == (0,)

    def connect(self, name: str) -> socket.socket:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(5)
        line.connect(str(self.folder / f"{name}.sock"))
        return line

    def agent(self) -> socket.socket:
        line = self.connect("control")
        assert line.recv(100).startswith(b"hello ")
        return line

    def guest(self) -> socket.socket:
        line = self.connect("console")
        line.sendall(b"\x01")  # its echo tells that the berth has taken the line up
        assert self.read(1) == b"\x01"
        return line

    def read(self, count: int, seconds: float = 5.0) -> bytes:
        """So many bytes of the terminal's output, or what came until the time was up."""
        got, deadline = b"", time.monotonic() + seconds
        while len(got) < count and select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                got += os.read(self.terminal, count - len(got))
            except OSError:  # the berth ended and closed its side
                break
        return got


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pods.binary("berth", tmp_path_factory.mktemp("bin"))


@pytest.fixture
def berth(program: Path, tmp_path: Path) -> Iterator[Running]:
    outer, inner = pty.openpty()
    process = subprocess.Popen([program, "run", tmp_path], stdin=inner, stdout=inner, stderr=inner)
    running = Running(process, outer, tmp_path, os.ttyname(inner))
    os.close(inner)
    pods.until((tmp_path / "control.sock").exists)
    pods.until(running.is_raw, what="a raw terminal: before, it echoes what is typed")
    yield running
    if process.poll() is None:
        process.kill()
    process.wait()
    os.close(outer)


def test_console_passes_every_byte_both_ways(berth: Running) -> None:
    guest = berth.guest()
    every = bytes(range(256))
    guest.sendall(every)
    assert berth.read(256) == every
    os.write(berth.terminal, every)
    got = b""
    while len(got) < 256:
        got += guest.recv(256)
    assert got == every


def test_no_output_is_lost_while_somebody_reads(berth: Running) -> None:
    guest = berth.guest()
    guest.setblocking(False)
    sent = got = 0
    while got < 2_000_000:
        readable, writable, _ = select.select([berth.terminal], [guest] if sent < 2_000_000 else [], [], 5)
        assert readable or writable
        sent += guest.send(b"x" * min(4096, 2_000_000 - sent)) if writable else 0
        got += len(os.read(berth.terminal, 4096)) if readable else 0
    assert got == 2_000_000


def test_guest_is_held_up_for_a_second_then_output_is_dropped_and_the_gap_marked(berth: Running) -> None:
    guest = berth.guest()
    start = time.monotonic()
    guest.sendall(b"x" * 1_000_000)
    assert 0.8 < time.monotonic() - start < 4
    guest.sendall(b"y" * 1000)
    seen = berth.read(1_100_000, seconds=1)
    assert len(seen) < 200_000
    assert b"bytes of console output dropped: nobody read them]" in seen
    guest.sendall(b"after")
    assert berth.read(5) == b"after"


def test_output_to_a_closed_terminal_never_holds_the_guest_up(program: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen([program, "run", tmp_path], stdin=subprocess.DEVNULL, stdout=writer)
    os.close(writer)
    os.close(reader)
    pods.until((tmp_path / "console.sock").exists)
    line = socket.socket(socket.AF_UNIX)
    line.connect(str(tmp_path / "console.sock"))
    line.settimeout(5)
    line.sendall(b"x" * 1_000_000)
    assert process.poll() is None
    process.kill()
    process.wait()


def test_typing_without_a_guest_is_forgotten(berth: Running) -> None:
    os.write(berth.terminal, b"ghost")
    time.sleep(0.05)  # the kernel hands it over in a work queue of its own, which nothing tells of
    pods.until(berth.has_read_all)
    guest = berth.guest()
    os.write(berth.terminal, b"real")
    assert guest.recv(100) == b"real"


def test_newest_console_peer_wins(berth: Running) -> None:
    first = berth.guest()
    second = berth.guest()
    assert first.recv(10) == b""
    os.write(berth.terminal, b"k")
    assert second.recv(10) == b"k"


def test_last_words_of_the_guest_are_read_after_it_hung_up(berth: Running) -> None:
    guest = berth.guest()
    guest.sendall(b"reboot: Power down\r\n")
    guest.close()
    assert berth.read(20) == b"reboot: Power down\r\n"


def test_last_words_survive_a_guest_that_died_with_keystrokes_unread(berth: Running) -> None:
    guest = berth.guest()
    os.write(berth.terminal, b"unread")
    pods.until(lambda: guest.recv(6, socket.MSG_PEEK) == b"unread")
    berth.process.send_signal(signal.SIGSTOP)
    guest.sendall(b"Kernel panic")
    guest.close()
    berth.process.send_signal(signal.SIGCONT)
    assert berth.read(12) == b"Kernel panic"


def test_exit_code_comes_from_the_agent_and_output_is_flushed(berth: Running) -> None:
    guest, agent = berth.guest(), berth.agent()
    guest.sendall(b"z" * 3000)
    assert berth.read(3000) == b"z" * 3000
    agent.sendall(b"note the guest panicked\nexit 3\n")
    assert berth.process.wait(5) == 3
    assert berth.read(1000, seconds=0.2) == b"\r\nberth: the guest panicked\r\n"


def test_the_last_note_is_the_containers_termination_message(
    start_pod: Callable[..., pods.FakePod], berths: NodeBerths
) -> None:
    pod = start_pod()
    log = pod.root / "dev/termination-log"  # as kubelet makes it
    log.parent.mkdir()
    log.write_text("")
    log.chmod(0o666)
    berth = berths.find(pod.uid)
    assert berth is not None
    with links.open_socket(berth) as agent:
        agent.setblocking(True)
        agent.sendall(b"note first\nnote the guest panicked\nexit 1\n")
    assert pod.wait() == 1
    assert log.read_text() == "the guest panicked"


def test_shutdown_is_said_to_every_agent_that_connects(berth: Running) -> None:
    first = berth.agent()
    berth.process.send_signal(signal.SIGTERM)
    assert first.recv(100) == b"shutdown\n"
    second = berth.connect("control")
    pods.until(lambda: b"shutdown\n" in second.recv(100, socket.MSG_PEEK))
    assert first.recv(100) == b""  # the newest agent wins
    second.sendall(b"exit 0\n")
    assert berth.process.wait(5) == 0


def test_ping_unknown_and_bad_exit_codes(berth: Running) -> None:
    agent = berth.agent()
    agent.sendall(b"ping\n")
    assert agent.recv(100) == b"pong\n"
    for bad in (b"exit\n", b"exit 256\n", b"exit -1\n", b"exit 1 2\n", b"exit +1\n", b"jump\n", b"\n"):
        agent.sendall(bad)
        assert agent.recv(200).startswith(b"error unknown command")
    assert berth.process.poll() is None


def test_note_cannot_steer_a_terminal(berth: Running) -> None:
    berth.agent().sendall(b"note a\x1b[2Jb\x7f\n")
    assert berth.read(100, seconds=0.3) == b"\r\nberth: a?[2Jb?\r\n"


def test_agent_that_talks_without_end_is_hung_up_on(berth: Running) -> None:
    agent = berth.agent()
    agent.sendall(b"a" * 1024)
    assert agent.recv(100) == b"error line too long\n"
    assert agent.recv(100) == b""
    berth.agent().sendall(b"ping\n")


def test_lines_may_come_in_pieces_and_together(berth: Running) -> None:
    agent = berth.agent()
    agent.sendall(b"pi")
    time.sleep(0.02)
    agent.sendall(b"ng\nping\n")
    got = b""
    while len(got) < 10:
        got += agent.recv(100)
    assert got == b"pong\npong\n"


def test_only_root_may_control(berth: Running) -> None:
    os.chmod(berth.folder / "control.sock", 0o666)  # even if the file's mode did not keep others away
    for folder in (berth.folder, *berth.folder.parents):
        if folder.stat().st_uid == 0 and len(folder.parts) > 2:
            folder.chmod(0o755)
    agent = berth.agent()
    child = os.fork()
    if not child:
        os.setuid(65534)
        os._exit(0 if berth.connect("control").recv(9) == b"" else 1)
    assert os.waitpid(child, 0)[1] == 0  # it was hung up on at once
    agent.sendall(b"ping\n")
    assert agent.recv(100) == b"pong\n"  # and the agent in charge did not notice


def test_stopped_before_a_guest_came(berth: Running) -> None:
    berth.process.send_signal(signal.SIGTERM)
    assert berth.process.wait(6) == 0
    assert b"stopped before a guest came" in berth.read(200, seconds=0.2)


def test_guest_gone_and_no_agent_to_tell_why(berth: Running) -> None:
    start = time.monotonic()
    berth.guest().close()
    assert berth.process.wait(20) == 70
    assert 9.5 < time.monotonic() - start < 14
    assert b"the guest is gone and no agent says why" in berth.read(200, seconds=0.2)


def test_agent_may_be_away_while_the_guest_runs(berth: Running) -> None:
    guest = berth.guest()
    berth.agent().close()
    assert berth.process.poll() is None
    berth.agent()
    guest.sendall(b"still here")
    assert berth.read(10) == b"still here"


def test_costs_less_than_a_mebibyte_and_no_thread(berth: Running) -> None:
    berth.guest().sendall(b"x" * 60_000)
    berth.read(60_000)
    status = dict(
        line.split(":\t")
        for line in Path(f"/proc/{berth.process.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert int(status["VmRSS"].split()[0]) < 1024
    assert status["Threads"] == "1"


def test_idle_berth_uses_no_cpu(berth: Running) -> None:
    _guest, _agent = berth.guest(), berth.agent()
    turns = Path(f"/proc/{berth.process.pid}/schedstat")

    def quiet() -> bool:
        before = turns.read_text().split()[2]
        time.sleep(0.5)
        return turns.read_text().split()[2] == before  # not once on a CPU

    pods.until(quiet, what="a quiet half second")


def test_vnc_relays_both_ways_and_ends_with_the_screen(program: Path, tmp_path: Path) -> None:
    screen = socket.socket(socket.AF_UNIX)
    screen.bind(str(tmp_path / "vnc.sock"))
    screen.listen()
    command: list[str | Path] = [program, "vnc", tmp_path / "vnc.sock"]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    line, _ = screen.accept()
    assert client.stdin
    assert client.stdout
    line.sendall(b"RFB 003.008\n")
    assert client.stdout.read(12) == b"RFB 003.008\n"
    client.stdin.write(b"RFB 003.008\n")
    client.stdin.flush()
    assert line.recv(12) == b"RFB 003.008\n"

    def paint() -> None:
        line.sendall(b"p" * 1_000_000)
        line.close()

    sender = threading.Thread(target=paint)
    sender.start()  # more than the pipes hold: somebody has to read meanwhile
    assert len(client.stdout.read()) == 1_000_000
    sender.join()
    assert client.wait(5) == 0


def test_vnc_without_a_screen_says_so(program: Path, tmp_path: Path) -> None:
    result = subprocess.run([program, "vnc", tmp_path / "none.sock"], capture_output=True, text=True)
    assert result.returncode == 71
    assert "the guest has no screen at" in result.stderr


def test_usage(program: Path) -> None:
    result = subprocess.run([program, "dance"], capture_output=True, text=True)
    assert result.returncode == 64
    assert "usage: berth" in result.stderr
    assert subprocess.run([program, "version"], capture_output=True).stdout.strip()
