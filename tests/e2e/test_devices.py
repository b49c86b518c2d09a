"""Disks, console, display, probes, cloud-init and the guest agent, seen from inside real guests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.kube import ROOT, Cluster, Json, Machine, terminal, tiny, wait

Make = Callable[..., Machine]


def test_an_empty_disk_and_a_claim_that_stays(cluster: Cluster, namespace: str, make: Make) -> None:
    claim: Json = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "keep"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    }
    cluster.apply(claim, namespace=namespace)
    disks = [
        {"name": "scratch", "empty": {}, "size": "16Mi"},
        {"name": "keep", "pvc": {"claimName": "keep"}, "size": "32Mi"},
    ]
    vm = make(tiny("disks", args="berth.write=/dev/vdb", disks=disks))
    vm.wait_up()
    sizes = dict(line.split()[1:3] for line in vm.http().splitlines() if line.startswith("disk "))
    assert sizes == {"vda": str(16 << 20), "vdb": str(32 << 20)}
    wait("first marker", lambda: "berth-guest: disk /dev/vdb was empty" in vm.log(), 10)
    assert cluster.berth("restart", "disks", "-n", namespace, "--wait").returncode == 0
    vm.wait_up()
    wait("the marker stayed", lambda: "berth-guest: disk /dev/vdb kept" in vm.log(), 10)


def test_the_console_is_attach(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("console"))
    vm.wait_up()
    with vm.attach() as console:
        console.ask("echo marker-$((40+2))", "marker-42")
    assert "marker-42" in vm.log()
    with terminal(cluster, sys.executable, "-m", "berth.cli", "console", "console", "-n", vm.namespace) as console:
        console.ask("echo again-$((40+2))", "again-42")


def test_vnc_through_the_cli(cluster: Cluster, make: Make, tmp_path: Path) -> None:
    vm = make(tiny("screen", display={"type": "VNC"}))
    vm.wait_phase("Running")
    path = tmp_path / "vnc.sock"
    command = [sys.executable, "-m", "berth.cli", "vnc", "screen", "-n", vm.namespace, "--unix", str(path)]
    proxy = subprocess.Popen(command, env=cluster.environment)
    try:
        wait("the proxy listens", path.exists, 20)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(path))
            assert connection.recv(12).startswith(b"RFB 003.")
    finally:
        proxy.terminate()
        proxy.wait(10)


def test_probes_see_the_guest(cluster: Cluster, make: Make) -> None:
    fast = {"periodSeconds": 1, "failureThreshold": 60}
    probes = {"readiness": {"httpGet": {"port": 80}, **fast}, "startup": {"tcpSocket": {"port": 7000}, **fast}}
    vm = make(tiny("probed", probes=probes))
    vm.wait_up()
    wait("kubelet found it ready", lambda: vm.condition("Ready").get("status") == "True", 20)
    pod = vm.berth() or {}
    assert next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")["status"] == "True"


def test_a_failed_liveness_probe_restarts_the_guest(make: Make) -> None:
    dead = {"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 2, "initialDelaySeconds": 5}
    vm = make(tiny("unwell", probes={"liveness": dead}, shutdown={"gracePeriodSeconds": 5}))
    wait("it is started again", lambda: vm.status().get("epoch", 0) >= 2, 60)


def test_kubectl_top_counts_the_guest(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("counted"))
    vm.wait_up()

    def memory() -> int:
        done = cluster.run("kubectl", "top", "pod", vm.status()["berth"], "-n", vm.namespace, "--no-headers")
        return int(done.stdout.split()[2].removesuffix("Mi")) if done.returncode == 0 else 0

    assert wait("kubectl top shows it", memory, 90, every=2) > 40


def test_a_restricted_namespace_takes_a_machine(cluster: Cluster, namespace: str, make: Make) -> None:
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    make(tiny("careful")).wait_up()


def test_forty_characters_and_more_in_a_name(make: Make) -> None:
    for length in (63, 253):
        vm = make(tiny(("n" * 60 + ".") * 4 + "n" * 9 if length == 253 else "m" * length))
        vm.wait_phase("Running", 60)
        vm.delete("--timeout=60s")


@pytest.mark.timeout(400)
def test_a_cloud_image_with_cloud_init_and_guest_agent(cluster: Cluster, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(ROOT / "examples" / "debian.yaml"))
    vm = Machine(cluster, namespace, "debian")
    start = time.monotonic()
    vm.wait_phase("Running", 60)
    guest = wait("the guest agent answers", lambda: (vm.status().get("guest") or {}).get("agentConnected"), 240)
    assert guest
    wait("it says its name", lambda: (vm.status().get("guest") or {}).get("hostname") == "debian", 60)
    assert "Debian" in (vm.status()["guest"].get("os") or "")
    wait("cloud-init ran the user data", lambda: "cloud-init-was-here" in vm.log(), 240)
    print(f"cloud image: {time.monotonic() - start:.0f} s from apply to cloud-init's end")
    vm.patch({"power": "Off"})
    assert vm.wait_phase("Stopped", 90)["lastExit"]["reason"] == "ShutDown"
