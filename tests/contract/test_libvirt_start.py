"""A real libvirt start through the wrapper: a machine's own uid, in the berth's cgroups and network namespace.

In the agent's image only: the emulator wrapper is installed setuid there.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.api.order import NicOrder
from berth.effects.berths import NodeBerths
from berth.effects.folders import MachineFolders
from berth.effects.media import NodeMedia
from berth.effects.network import NodeNetwork
from tests.contract import lan as lans
from tests.contract import pods

VM = "6f5ffeef-839c-4c00-8437-8da47dfe23fa"
GUEST_UID = 1_900_000_042
NICS = [NicOrder(name="default", mac=lans.GUEST_MAC)]
DOMAIN = """
<domain type='qemu'>
  <name>start-test</name><uuid>{vm}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <seclabel type='static' model='dac' relabel='yes'><label>+{uid}:+{uid}</label></seclabel>
  <devices>
    <emulator>/usr/local/bin/berth-qemu</emulator>
    <interface type='ethernet'>
      <mac address='{mac}'/><target dev='{tap}' managed='no'/><model type='virtio'/>
    </interface>
    <serial type='unix'>
      <source mode='connect' path='{console}'><reconnect enabled='yes' timeout='1'/></source>
    </serial>
    <graphics type='vnc'><listen type='socket' socket='{vnc}'/></graphics>
  </devices>
</domain>
"""


@pytest.fixture
def libvirtd() -> Iterator[None]:
    """A daemon of this test's own, unless one is running."""
    if Path("/run/libvirt/libvirt-sock").exists():
        yield
        return
    daemon = subprocess.Popen(["/usr/sbin/libvirtd"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pods.until(Path("/run/libvirt/libvirt-sock").exists, 20, "libvirtd's socket")
    yield
    daemon.terminate()
    daemon.wait()


def virsh(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["virsh", "-q", *arguments], capture_output=True, text=True, timeout=60, check=False)
    log = Path("/var/log/libvirt/qemu/start-test.log")
    assert not check or done.returncode == 0, done.stderr + (log.read_text()[-2000:] if log.exists() else "")
    return done


def qemu_pid() -> int:
    return int(Path("/run/libvirt/qemu/start-test.pid").read_text())


def test_start_through_the_wrapper(libvirtd: None, start_pod: Callable[..., pods.FakePod], tmp_path: Path) -> None:
    pod = start_pod()
    lan = lans.Lan(pod)
    lan.up()
    berths, network = NodeBerths(rescan_seconds=0), NodeNetwork()
    berth = berths.find(pod.uid)
    assert berth is not None
    berths.prepare_cgroup(VM, GUEST_UID, berth)
    files = NodeMedia(MachineFolders()).prepare(VM, GUEST_UID, berth, disks=(), kernel=None, cloud_init=None, vnc=True)
    tap = network.create_taps(VM, GUEST_UID, NICS)["default"]
    (tmp_path / "domain.xml").write_text(
        DOMAIN.format(
            vm=VM, uid=GUEST_UID, mac=lans.GUEST_MAC, tap=tap, console=files.console_socket, vnc=files.vnc_socket
        )
    )
    try:
        start = time.monotonic()
        virsh("create", str(tmp_path / "domain.xml"), "--paused")
        print(f"create: {time.monotonic() - start:.2f} s")
        network.attach(VM, berth, NICS, "web")
        virsh("resume", "start-test")
        check_process(pod)
        check_sockets(pod)
        assert "vm0" in lans.run(lan.netns, "ip -o link")
        # Whoever is not that machine is refused, and libvirt tells why: in its error, or in the log alone when
        # it saw no more of QEMU than the closed socket.
        virsh("destroy", "start-test")
        berths.prepare_cgroup(VM, GUEST_UID + 1, berth)
        network.create_taps(VM, GUEST_UID, NICS)
        refused = virsh("create", str(tmp_path / "domain.xml"), "--paused", check=False)
        assert refused.returncode != 0
        assert "is not the uid of VM" in refused.stderr + Path("/var/log/libvirt/qemu/start-test.log").read_text()
    finally:
        virsh("destroy", "start-test", check=False)
        network.detach(VM)
        berths.forget(VM)
        lan.down()


def check_process(pod: pods.FakePod) -> None:
    pid = qemu_pid()
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{GUEST_UID}\t{GUEST_UID}\t{GUEST_UID}\t{GUEST_UID}" in status
    assert "CapEff:\t0000000000000000" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        assert pod.uid in line or line.endswith(":/"), line
    assert pod.uid in Path(f"/proc/{pid}/cgroup").read_text()


def check_sockets(pod: pods.FakePod) -> None:
    """The serial console is connected, and the berth can reach the screen."""
    screen = Path(f"/proc/{pod.pid}/root/run/berth/vnc/vnc.sock")
    made = os.stat(screen)
    assert stat.S_ISSOCK(made.st_mode)
    assert (made.st_uid, made.st_gid) == (GUEST_UID, 65532)
    assert made.st_mode & 0o020
    client = ["nsenter", f"--mount=/proc/{pod.pid}/ns/mnt", "chroot", "--userspec=65532:65532", str(pod.root)]
    vnc = subprocess.Popen([*client, "/usr/local/bin/berth", "vnc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert vnc.stdout
    assert vnc.stdout.read(12) == b"RFB 003.008\n"
    vnc.kill()
    vnc.wait()
