"""One machine moves again and again, and a stream from it over an overlay counts every number.

A few moves in every run, beside other tests; `make test-lives` asks for fifty, alone, and prints how long they took.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from testbed.kube import Cluster, Json, Machine, stream_between, tiny, wait
from tests.e2e.moves import berths, move, moved

Make = Callable[[dict[str, Any]], Machine]
MOVES = int(os.environ.get("BERTH_MOVES", "3"))


@pytest.mark.timeout(120 + 20 * MOVES)
def test_many_moves_in_a_row(cluster: Cluster, namespace: str, make: Make) -> None:
    network: Json = {
        "apiVersion": "berth.dev/v1alpha1",
        "kind": "Network",
        "metadata": {"name": "lan"},
        "spec": {"overlay": {}, "ipv4": {"range": "10.79.0.0/24"}},
    }
    cluster.apply(network, namespace=namespace)
    nics = [{"name": "default", "pod": {}}, {"name": "lan", "network": {"name": "lan"}}]
    vm, peer = make(tiny("wanderer", nics=nics)), make(tiny("peer", nics=nics))
    vm.wait_up()
    peer.wait_up()
    address = next(nic["addresses"][0] for nic in vm.status()["nics"] if nic["name"] == "lan")
    boot, pauses, homes = vm.boot_id(), [], [vm.status()["node"]]
    with stream_between(peer, address.split("/")[0]) as numbers:
        for number in range(MOVES):
            numbers.goes_on()
            move(vm, f"move-{number}")
            pauses.append(moved(vm, f"move-{number}")["pauseMs"])
            homes.append(vm.status()["node"])
        numbers.goes_on()
        count = numbers.newest()
    assert all(here != there for here, there in itertools.pairwise(homes))
    assert vm.boot_id() == boot
    wait("one berth is left", lambda: len([name for name in berths(vm) if "wanderer" in name]) == 1, 60)
    print(f"{MOVES} moves, {count} numbers; pause {statistics.median(pauses):.0f} ms, at most {max(pauses)} ms")
