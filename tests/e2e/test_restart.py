"""Restart policies: what happens after a guest ended by itself, in order or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testbed.kube import Cluster, Machine, tiny, wait

Make = Callable[..., Machine]


@pytest.mark.parametrize(
    ("policy", "args", "again"),
    [
        ("Always", "berth.poweroff=1", True),
        ("OnFailure", "berth.poweroff=1", False),
        ("OnFailure", "berth.panic=1", True),
        ("Never", "berth.panic=1", False),
    ],
)
def test_policy(make: Make, policy: str, args: str, again: bool) -> None:
    vm = make(tiny("ends", args=args, restart=policy))
    wait("it ended", lambda: vm.status().get("lastExit"), 60)
    exit_ = vm.status()["lastExit"]
    assert exit_["reason"] == ("GuestPanicked" if "panic" in args else "GuestPoweroff")
    assert exit_["exitCode"] == (1 if "panic" in args else 0)
    if again:
        wait("it is started again", lambda: vm.status()["epoch"] >= 2, 60)
        assert vm.status()["restarts"] >= 1
    else:
        vm.wait_phase("Failed" if "panic" in args else "Stopped", 30)
        assert vm.status()["epoch"] == 1


def test_crashes_back_off(make: Make) -> None:
    vm = make(tiny("crashes", args="berth.panic=1"))
    wait("a second crash", lambda: vm.status().get("restarts", 0) >= 2, 90)
    status = wait("the next start is announced", lambda: vm.status() if vm.status().get("nextStartAt") else {}, 60)
    assert status["nextStartAt"] > status["lastExit"]["at"]
    assert "panic" in vm.condition("GuestRunning")["message"].lower()


def test_a_killed_qemu_is_told_and_started_again(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("shot"))
    status = vm.wait_up()
    uid = (vm.object() or {})["metadata"]["uid"]
    cluster.signal(status["node"], "KILL", "-f", f"qemu-system.*-uuid {uid}")
    wait("its end is told", lambda: vm.status().get("lastExit"), 10)
    assert vm.status()["lastExit"]["reason"] in ("QemuCrashed", "Killed")
    wait("it is started again", lambda: vm.status()["epoch"] == 2, 30)
    vm.wait_up()
