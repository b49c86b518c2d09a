"""Machines among nodes that are not alike, through the real reconcile: where they start and go, and why not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from berth.api.hardware import HostCpu
from berth.api.order import Emulation, Order
from berth.plan.hosts import Host
from tests.scenario.moving_world import MovingWorld
from tests.unit.plan import cpus


class Unlike(MovingWorld):
    """Nodes a, b … with these CPUs, and QEMUs where they are not the usual one."""

    def __init__(self, *host_cpus: HostCpu, **qemus: str) -> None:
        names = tuple("abcdef"[: len(host_cpus)])
        super().__init__(names)
        self.become({name: _host(name, cpu, qemus.get(name)) for name, cpu in zip(names, host_cpus, strict=True)})

    def become(self, hosts: dict[str, Host]) -> None:
        """What the agents tell of these nodes from now on."""
        known = {host.node: host for host in self.common.hosts} | hosts
        told = tuple(known[name] for name in sorted(known))
        kvm = tuple((host.node, host.kind.kvm_usable, "") for host in told)
        self.common = replace(self.common, emulation=Emulation.NEVER, hosts=told, kvm=kvm)
        for name, host in hosts.items():
            self.nodes[name].qemu = host.kind.qemu

    def up(self, on: str = "a", **spec: Any) -> None:
        self.apply(placement={"nodeSelector": {}}, **spec)
        for name in self.places:
            self.places[name].room = name == on
        self.settle(until=lambda: self.status.get("phase") == "Running")
        assert self.status["node"] == on, self.status
        for name in self.places:
            self.places[name].room = True

    def over(self) -> bool:
        return self.migration().get("phase") in ("Succeeded", "Failed", "Cancelled")

    def order(self, node: str) -> Order:
        (order,) = self.nodes[node].orders.values()
        return order


def _host(name: str, cpu: HostCpu, qemu: str | None = None) -> Host:
    return cpus.node(name, cpu, qemu=qemu or "10.0.0")


def cpu_of(order: Order) -> str:
    assert order.machine.cpu is not None
    return order.machine.cpu.model


def test_the_baseline_moves_both_ways_between_unlike_nodes() -> None:
    world = Unlike(cpus.SKYLAKE, cpus.HASWELL)
    world.up()
    first = world.order("a").machine
    assert (cpu_of(world.order("a")), first.machine_type) == ("Haswell-noTSX", "pc-q35-10.0")
    assert world.status["cpuModel"] == "Haswell-noTSX"
    assert world.status["machineType"] == "pc-q35-10.0"
    for number, target in enumerate(("b", "a")):
        world.settle(30)  # the door of the last move closes
        world.move(f"m{number}", target={"nodeName": target})
        world.settle(until=lambda name=f"m{number}": world.migration(name).get("phase") == "Succeeded")  # type: ignore[misc]
        assert world.status["node"] == target, world.migration(f"m{number}")
        assert world.order(target).machine == first
    assert world.starts == 1


def test_a_node_of_another_vendor_is_an_island() -> None:
    world = Unlike(cpus.SKYLAKE, cpus.ROME, cpus.HASWELL)
    world.up()
    condition = world.condition("Migratable")
    assert condition["status"] == "True"
    assert "node b has a CPU of AMD, and the guest runs on one of Intel" in condition["message"]
    assert world.status["incompatibleNodes"] == ["b"]
    world.move()
    world.settle(until=world.over)
    assert (world.migration()["phase"], world.status["node"]) == ("Succeeded", "c")


def test_each_island_starts_machines_with_its_own_baseline() -> None:
    world = Unlike(cpus.SKYLAKE, cpus.ROME)
    world.up(on="b")
    assert cpu_of(world.order("b")) == "EPYC-Rome"
    condition = world.condition("Migratable")
    assert (condition["status"], condition["reason"]) == ("False", "NoCompatibleNode")


def test_a_node_below_the_floor_gets_no_machine_and_is_named() -> None:
    world = Unlike(cpus.PENRYN, cpus.HASWELL)
    world.up(on="b")
    pod = world.pod_on("b")
    assert pod is not None
    terms = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    away = {"key": "metadata.name", "operator": "NotIn", "values": ["a"]}
    assert terms["nodeSelectorTerms"] == [{"matchFields": [away]}]
    assert "node a lacks abm, aes" in world.condition("Migratable")["message"]


def test_where_no_other_node_has_room_the_one_kept_away_from_is_named() -> None:
    world = Unlike(cpus.PENRYN, cpus.HASWELL)
    world.apply()
    world.places["b"].room = False
    world.settle(5)
    message = world.condition("PlacementReady")["message"]
    assert "it is kept away from node a lacks popcnt, sse4.2, which the cluster's floor x86-64-v2" in message


def test_a_model_that_no_node_has_waits_with_a_reason() -> None:
    world = Unlike(cpus.HASWELL, cpus.HASWELL)
    world.apply(cpu={"model": "Skylake-Server-noTSX-IBRS"})
    world.settle(5)
    condition = world.condition("PlacementReady")
    assert condition["reason"] == "NoCompatibleNode"
    assert "node a, b cannot give CPU model Skylake-Server-noTSX-IBRS" in condition["message"]


def test_the_nodes_own_cpu_moves_to_equal_nodes_only() -> None:
    world = Unlike(cpus.SKYLAKE, cpus.HASWELL)
    world.up(cpu={"model": "Host"})
    assert world.condition("Migratable")["reason"] == "NoCompatibleNode"
    world.move()
    world.settle(until=world.over)
    told = world.migration()
    assert (told["phase"], told["reason"]) == ("Failed", "NoCompatibleNode")
    world.become({"b": _host("b", cpus.SKYLAKE)})
    world.move("again")
    world.settle(until=lambda: world.migration("again").get("phase") == "Succeeded")
    assert world.status["node"] == "b"


@pytest.mark.parametrize("named", [True, False])
def test_from_a_newer_qemu_to_an_older_one_is_refused_before_anything_is_sent(named: bool) -> None:
    world = Unlike(cpus.HASWELL, cpus.HASWELL, a="10.0.2", b="9.2.1")
    world.up()
    world.move(**({"target": {"nodeName": "b"}} if named else {}))
    world.settle(until=world.over)
    told = world.migration()
    assert (told["phase"], told["reason"]) == ("Failed", "QemuOlder" if named else "NoCompatibleNode")
    assert "has QEMU 9.2.1, which is older than the guest's QEMU 10.0.2" in told["message"]
    assert not world.nodes["b"].orders
    assert world.pod_on("b") is None
    assert world.status["node"] == "a"


def test_during_a_roll_out_machines_go_from_the_old_to_the_new_and_the_guest_stays_what_it_was() -> None:
    """The guest's own QEMU decides, not that of its node's agent: an upgrade beneath it changes nothing."""
    world = Unlike(cpus.HASWELL, cpus.HASWELL, cpus.HASWELL, a="9.2.1", b="9.2.1", c="9.2.1")
    world.up()
    newer = {name: _host(name, cpus.HASWELL, "10.0.2") for name in ("a", "b")}
    world.become(newer)
    world.settle(2)
    assert world.condition("Migratable")["message"] == "All that it has is there on other nodes, too."
    world.move("old", target={"nodeName": "c"})
    world.settle(until=lambda: world.migration("old").get("phase") == "Succeeded")
    world.settle(30)
    world.move("new", target={"nodeName": "b"})
    world.settle(until=lambda: world.migration("new").get("phase") == "Succeeded")
    world.settle(30)
    assert world.status["incompatibleNodes"] == ["c"]
    world.move("back", target={"nodeName": "c"})
    world.settle(until=lambda: world.migration("back").get("phase") == "Failed")
    assert world.migration("back")["reason"] == "QemuOlder"


def test_a_node_that_turns_out_to_be_older_after_it_was_chosen_is_left_alone() -> None:
    world = Unlike(cpus.HASWELL, cpus.HASWELL)
    world.up()
    world.move()
    while world.pod_on("b") is None:
        world.turn()
    assert not world.nodes["b"].orders
    world.become({"b": _host("b", cpus.HASWELL, "9.2.1")})
    world.settle(until=world.over)
    told = world.migration()
    assert (told["phase"], told["reason"]) == ("Failed", "QemuOlder")
    assert not world.copies, "it was asked to wait for the guest"
    assert world.status["node"] == "a"


def test_a_drain_shuts_down_what_no_other_node_can_take() -> None:
    world = Unlike(cpus.SKYLAKE, cpus.ROME)
    world.up()
    world.settle(5)
    pod = world.pod_on("a")
    assert pod is not None
    assert pod["metadata"]["labels"].get("berth.dev/eviction") != "guarded"
    assert world.drain("a")
    world.settle(20, until=lambda: world.status.get("node") == "b")
    assert cpu_of(world.order("b")) == "EPYC-Rome"
    assert world.starts == 2


def test_a_machine_keeps_its_type_over_restarts_when_the_nodes_get_newer() -> None:
    old = ("pc-q35-8.2", "pc-q35-9.2")
    world = Unlike(cpus.HASWELL)
    world.become({"a": cpus.node("a", cpus.HASWELL, qemu="9.2.1", types=old)})
    world.up()
    assert world.status["machineType"] == "pc-q35-9.2"
    world.become({"a": _host("a", cpus.HASWELL)})
    world.apply(power="Off")
    world.settle(until=lambda: world.status.get("phase") == "Stopped")
    world.up()
    assert world.order("a").machine.machine_type == world.status["machineType"] == "pc-q35-9.2"


def test_nothing_starts_before_the_nodes_have_told_what_they_are() -> None:
    world = Unlike(cpus.HASWELL, cpus.SKYLAKE)
    world.common = replace(world.common, settled=False)
    world.apply()
    world.settle(3)
    assert world.pod is None
    assert world.again is not None
    assert world.again <= 0.5
    world.common = replace(world.common, settled=True)
    world.settle(until=lambda: world.status.get("phase") == "Running")


def test_a_machine_that_was_there_before_the_agents_gets_the_baseline_all_the_same() -> None:
    world = Unlike(cpus.HASWELL, cpus.SKYLAKE)
    known, world.common = world.common, replace(world.common, hosts=())
    world.apply()
    world.places["a"].room = False
    world.turn()
    world.common = replace(world.common, settled=False)
    for _ in range(5):
        world.turn()
    assert world.pod_on("b") is not None
    assert not world.nodes["b"].orders, "its agent is there, and has not told yet what its node is"
    world.common = known
    world.settle(until=lambda: world.status.get("phase") == "Running")
    assert cpu_of(world.order("b")) == "Haswell-noTSX"
    assert world.starts == 1


def test_a_start_on_a_node_that_came_meanwhile_is_planned_anew() -> None:
    world = Unlike(cpus.HASWELL, cpus.HASWELL)
    world.become({"a": cpus.node("a", cpus.HASWELL, types=())})
    world.apply()
    world.deliver()
    world.reconcile()
    world.deliver()
    world.become({"a": _host("a", cpus.ROME), "b": _host("b", cpus.ROME)})
    world.settle(until=lambda: world.status.get("phase") == "Running")
    assert cpu_of(world.order(world.status["node"])) == "EPYC-Rome"
    assert world.starts == 1
