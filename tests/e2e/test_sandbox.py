"""A berth pod whose sandbox dies: kubelet ends the pod, so the guest is shut down and, by its policy, started anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testbed.kube import Cluster, Machine, tiny, wait

Make = Callable[..., Machine]

KILL = """
for folder in $(find /sys/fs/cgroup -type d -path "*pod$1*" -o -type d -path "*pod$(echo $1 | tr - _)*"); do
  for pid in $(cat "$folder/cgroup.procs" 2>/dev/null); do
    if [ "$(cat /proc/$pid/comm)" = pause ]; then kill -KILL "$pid" && exit 0; fi
  done
done
exit 1
"""


@pytest.mark.timeout(180)
def test_a_dead_sandbox_ends_the_guest_in_order_and_it_is_started_anew(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("vm", restart="OnFailure"))
    vm.wait_up()
    before, berth = vm.boot_id(), vm.berth()
    assert berth is not None
    cluster.on_node(berth["spec"]["nodeName"], "sh", "-c", KILL, "kill", berth["metadata"]["uid"])
    wait("a second start", lambda: vm.status().get("epoch") == 2, 60)
    vm.wait_up()
    assert vm.boot_id() != before
    last = vm.status()["lastExit"]
    assert (last["epoch"], last["reason"], last["exitCode"]) == (1, "ShutDown", 0)
    assert "sandbox died" in last["message"]
