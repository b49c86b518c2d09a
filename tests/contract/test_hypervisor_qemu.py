"""What only real QEMU and a real libvirtd can show: how guests end, and libvirtd going and coming back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from berth.domain.host import MACHINE, PLAIN_MODEL
from berth.domain.observed import DomainState, QemuProcess
from berth.effects.berths import facts_of
from berth.effects.hypervisor import Libvirt
from berth.effects.ports import DomainEventKind
from berth.effects.probe import HostProber
from berth.effects.qemu_process import NodeQemus
from berth.errors import HostFault, HypervisorDown
from tests.contract import libvirtd, pods
from tests.contract.libvirtd import Bench, QemuBench

# qemu-guest-agent in the guest's shell, with a host name that would colour a terminal and break a limit.
TALKING_AGENT = r"""exec 3<>$(echo /dev/vport*p1)
long=$(printf 'x%.0s' $(seq 600))
ip() { echo "\"ip-addresses\": [{\"ip-address-type\": \"ipv4\", \"ip-address\": \"$1\", \"prefix\": 8}]"; }
LO="{\"name\": \"lo\", \"hardware-address\": \"00:00:00:00:00:00\", $(ip 127.0.0.1)}"
NIC="{\"name\": \"eth0\u001b\", \"hardware-address\": \"52:54:00:12:34:56\", $(ip 10.0.2.2)}"
answer() { case "$1" in
*guest-sync*) id=${1##*:}; echo "{\"return\": ${id%%\}*}}" >&3;;
*get-host-name*) echo "{\"return\": {\"host-name\": \"web\u001b[31m$long\"}}" >&3;;
*network-get-interfaces*) echo "{\"return\": [$LO, $NIC]}" >&3;;
*get-osinfo*) echo '{"return": {"id": "test", "pretty-name": "Test OS", "kernel-release": "6.1.0"}}' >&3;;
*) echo '{"error": {"class": "CommandNotFound", "desc": "no"}}' >&3;; esac; }
while read -r line <&3; do answer "$line"; done &"""


@pytest.fixture
def daemon() -> libvirtd.Daemon:
    made = libvirtd.Daemon()
    made.start()
    return made


@pytest.fixture
def bench(daemon: libvirtd.Daemon) -> Iterator[QemuBench]:
    made = QemuBench(Libvirt())
    yield made
    daemon.start()
    pods.until(lambda: _answers(made), 20, "libvirtd's answer")
    made.close()


@pytest.fixture(params=["memory", "qemu"])
def either(request: pytest.FixtureRequest, daemon: libvirtd.Daemon) -> Iterator[Bench]:
    """Those of which it can be asked what QEMU can be."""
    made = libvirtd.memory() if request.param == "memory" else QemuBench(Libvirt())
    yield made
    made.close()


def test_what_qemu_can_be(either: Bench) -> None:
    found = either.hypervisor.abilities()
    assert found == either.hypervisor.abilities()
    assert MACHINE in found.machine_types
    emulated = next(cpu for cpu in found.cpus if cpu.accelerator == "tcg")
    assert "sse4.2" in emulated.features
    assert emulated.models.index(PLAIN_MODEL) < emulated.models.index("Nehalem"), "the richer one comes later"


def test_a_board_that_is_not_there_is_refused(either: Bench) -> None:
    machine = either.order.machine.model_copy(update={"machine_type": "pc-q35-99.0"})
    either.order = either.order.model_copy(update={"machine": machine})
    with pytest.raises(HostFault, match=r"machine type 'pc-q35-99\.0'") as refused:
        either.hypervisor.create_paused(either.xml())
    assert refused.value.reason == "DomainRefused"
    assert either.hypervisor.domains() == []


def run(bench: QemuBench, args: str = "") -> None:
    bench.with_args(args)
    bench.hypervisor.create_paused(bench.xml())
    bench.hypervisor.resume(bench.uid)


def test_a_guest_that_powers_itself_off(bench: QemuBench) -> None:
    run(bench, "berth.poweroff=0")
    bench.heard(DomainEventKind.SHUTDOWN, "guest", 60)
    bench.heard(DomainEventKind.STOPPED, "shutdown")
    bench.gone()


def test_how_fast_a_guest_changes_its_memory(bench: QemuBench) -> None:
    """And how much of it holds anything."""
    run(bench)
    bench.wait_ready()
    qemus, size = NodeQemus(), bench.order.machine.memory_bytes
    process = QemuProcess(bench.pid(), facts_of(bench.pid()).start_time)  # type: ignore[union-attr]
    rests = qemus.pace(process, size, 1, 2)
    assert rests is not None
    assert 16 << 20 < rests.memory < size // 2
    assert rests.dirty < 4 << 20
    bench.type("dirty 65536 32768 &")
    bench.shows("it begins", 60)
    found = [qemus.pace(process, size, 1, 2) for _ in range(3)]
    print(rests, found)
    for pace in found:
        assert pace is not None
        assert (48 << 20) < pace.memory - rests.memory < (80 << 20)
        assert (16 << 20) < pace.dirty < (48 << 20)
        assert pace.working is not None
        assert (32 << 20) < pace.working < (128 << 20)
        assert 0 < pace.busy <= 1
    assert qemus.pace(process, size * 2, 1, 0) is None
    assert qemus.pace(QemuProcess(process.pid, 1), size, 1, 0) is None
    assert qemus.pace(QemuProcess(1 << 22, 1), size, 1, 0) is None


def test_a_guest_that_reboots_is_the_same_domain(bench: QemuBench) -> None:
    run(bench, "berth.reboot=0")
    bench.heard(DomainEventKind.REBOOTED, seconds=60)
    found = bench.hypervisor.domain(bench.uid)
    assert found is not None
    assert found.state is DomainState.RUNNING


def test_a_guest_that_panics(bench: QemuBench) -> None:
    run(bench, "berth.panic=0")
    bench.heard(DomainEventKind.CRASHED, "panicked", 60)
    bench.heard(DomainEventKind.STOPPED, "crashed")
    bench.gone()


@pytest.mark.parametrize(
    ("number", "kind", "detail"),
    [
        (signal.SIGKILL, DomainEventKind.STOPPED, "failed"),
        (signal.SIGTERM, DomainEventKind.SHUTDOWN, "host"),
        (signal.SIGABRT, DomainEventKind.STOPPED, "failed"),
    ],
)
def test_qemu_that_gets_a_signal(bench: QemuBench, number: signal.Signals, kind: DomainEventKind, detail: str) -> None:
    run(bench)
    os.kill(bench.pid(), number)
    bench.heard(kind, detail)
    bench.gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_guest_outlives_libvirtd(bench: QemuBench, daemon: libvirtd.Daemon, number: signal.Signals) -> None:
    run(bench)
    pid = bench.pid()
    daemon.stop(number)
    pods.until(lambda: not bench.connections[-1], 10, "the word that libvirtd is gone")
    for ask in (bench.hypervisor.domains, lambda: bench.hypervisor.domain(bench.uid), bench.hypervisor.versions):
        with pytest.raises(HypervisorDown):
            libvirtd.within(1, ask)
    os.kill(pid, 0)
    bench.wait_ready()
    daemon.start()
    pods.until(lambda: bench.connections[-1], 20, "the word that libvirtd is back")
    found = bench.hypervisor.domain(bench.uid)
    assert found is not None
    assert found.state is DomainState.RUNNING
    assert bench.pid() == pid
    bench.hypervisor.press_power_button(bench.uid)
    bench.heard(DomainEventKind.STOPPED, "shutdown")  # events came back with the connection


def test_libvirtd_that_hangs_is_down_and_comes_back(bench: QemuBench, daemon: libvirtd.Daemon) -> None:
    run(bench)
    daemon.signal(signal.SIGSTOP)
    try:
        with pytest.raises(HypervisorDown):
            bench.hypervisor.domain(bench.uid)  # until keepalive gives up
        pods.until(lambda: not bench.connections[-1], 30, "the word that libvirtd is gone")
        with pytest.raises(HypervisorDown):
            libvirtd.within(1, lambda: bench.hypervisor.domain(bench.uid))
    finally:
        daemon.signal(signal.SIGCONT)
    pods.until(lambda: bench.connections[-1], 20, "the word that libvirtd is back")
    assert bench.hypervisor.domain(bench.uid) is not None


def test_a_guest_agent_that_never_answers_holds_nothing_up(bench: QemuBench) -> None:
    run(bench)
    bench.wait_ready()
    bench.type("sleep 1000 < $(echo /dev/vport*p1) &")
    bench.heard(DomainEventKind.AGENT, "connected")
    asked = threading.Thread(target=bench.hypervisor.guest_info, args=(bench.uid,))
    asked.start()
    libvirtd.within(2, lambda: bench.hypervisor.domain(bench.uid))
    bench.hypervisor.suspend(bench.uid)
    bench.hypervisor.resume(bench.uid)
    asked.join(10)
    assert not asked.is_alive()
    libvirtd.within(8, lambda: bench.hypervisor.guest_info(bench.uid))
    assert not bench.hypervisor.guest_info(bench.uid).agent_connected
    assert bench.hypervisor.guest_nics(bench.uid) == ()
    bench.hypervisor.destroy(bench.uid)


def test_what_a_guest_agent_says_is_cut_to_what_may_be_shown(bench: QemuBench) -> None:
    run(bench)
    bench.wait_ready()
    bench.type(*TALKING_AGENT.splitlines())
    bench.heard(DomainEventKind.AGENT, "connected")
    pods.until(lambda: bench.hypervisor.guest_info(bench.uid).agent_connected, 20, "the agent's answer")
    info = bench.hypervisor.guest_info(bench.uid)
    assert info.hostname == "web?[31m" + "x" * 245
    assert (info.os, info.kernel) == ("Test OS", "6.1.0")
    [nic] = bench.hypervisor.guest_nics(bench.uid)
    assert (nic.mac, nic.name, nic.addresses) == ("52:54:00:12:34:56", "eth0?", ("10.0.2.2",))


def test_libvirtd_that_is_down_at_first_is_a_state(daemon: libvirtd.Daemon) -> None:
    daemon.stop(signal.SIGTERM)
    hypervisor = Libvirt()
    heard: list[bool] = []
    try:
        hypervisor.listen(lambda _event: None, lambda up, _message: heard.append(up))
        with pytest.raises(HypervisorDown, match="libvirtd"):
            hypervisor.domains()
        daemon.start()
        pods.until(lambda: heard == [True], 20, "the word that libvirtd is there")
        assert hypervisor.domains() == []
    finally:
        hypervisor.close()
        daemon.start()


def test_what_qemu_says_when_it_cannot_start_is_in_the_error(bench: QemuBench) -> None:
    (bench.folder / "kernel").write_bytes(b"no kernel")
    with pytest.raises(HostFault, match="kernel"):
        bench.hypervisor.create_paused(bench.xml())
    assert bench.hypervisor.domain(bench.uid) is None


def test_the_probe_runs_guest_code() -> None:
    assert HostProber(accelerator="tcg", cpu="qemu64").kvm().usable


def _answers(bench: QemuBench) -> bool:
    try:
        bench.hypervisor.versions()
    except HypervisorDown:
        return False
    return True
