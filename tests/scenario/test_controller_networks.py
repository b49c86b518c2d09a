"""Machines on Networks around the real reconciles, all else in memory: leases, numbers, members, crashes."""

from __future__ import annotations

import asyncio
import copy
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from berth.api.order import NodeFacts, Order, SegmentMembers
from berth.controller.cache import Cache, Key
from berth.controller.networks import NetworkReconciler, Networks
from berth.controller.reconcile import Reconciler
from berth.effects.memory_cluster import MemoryCluster
from berth.effects.ports_cluster import Conflict
from berth.plan import world as seen
from berth.plan.berthpod import pod_name
from berth.plan.world import Agent, Object

SPEC: Object = {"boot": {"kernel": {"image": "example.org/kernel:1"}}}
OFFICE = ("default", "office")


class Agents:
    """Both nodes' agents: they take everything."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.sent: dict[str, str] = {}
        self.members: dict[str, SegmentMembers] = {}

    def view(self, node: str, uid: str) -> Agent:
        facts = NodeFacts(node=node, agent_version="1", hypervisor_connected=True)
        return Agent(node, exists=True, connected=True, facts=facts, sent=self.sent.get(uid))

    def address(self, node: str) -> str:
        return {"a": "192.0.2.1", "b": "192.0.2.2"}[node]

    async def send(self, node: str, order: Order, digest: str) -> None:
        self.orders[order.uid], self.sent[order.uid] = order, digest

    async def send_members(self, node: str, members: SegmentMembers) -> None:
        self.members[node] = members

    async def withdraw(self, node: str, uid: str) -> None:
        self.orders.pop(uid, None)


class Scene:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.freed: list[Key] = []
        self.rung: list[Key] = []
        self.cluster = MemoryCluster(lambda: self.now)
        self.cluster.nodes = {n: {"metadata": {"name": n}} for n in "ab"}
        self.cluster.on_change = self._deliver
        self.start_controller()

    def start_controller(self) -> None:
        self.cache, self.known, self.agents = Cache(), Networks(), Agents()
        for kind, objects in (("Network", self.cluster.networks), ("Machine", self.cluster.machines),
                              ("Pod", self.cluster.pods)):  # fmt: skip
            for obj in objects.values():
                self._deliver(kind, "ADDED", copy.deepcopy(obj))
        self.machines = Reconciler(
            self.cache,
            self.cluster,
            self.agents,
            seen.Cluster,
            lambda *_: None,
            lambda: self.now,
            self.known,
            self._leased,
        )
        self.networks = NetworkReconciler(
            self.known, self.cache, self.cluster, self.agents, self._leased, lambda: self.now
        )
        self.networks.look_for_orphans()

    def _leased(self, network: Key, given_back: bool) -> None:
        self.rung.append(network)
        self.freed += [network] if given_back else []

    def _deliver(self, kind: str, change: str, obj: Object) -> None:
        key = obj["metadata"]["namespace"], obj["metadata"]["name"]
        gone = change == "DELETED"
        if kind == "Network":
            _ = self.known.lose(key) if gone else self.known.see(obj)
        elif kind == "Pod":
            _ = self.cache.lose_pod(key, obj) if gone else self.cache.see_pod(obj)
        else:
            _ = self.cache.lose_machine(key) if gone else self.cache.see_machine(obj)

    def settle(self, rounds: int = 6) -> None:
        """Everything that wants to happen; pods are scheduled by their names' last digit."""
        for _ in range(rounds):
            for network in list(self.cluster.networks):
                asyncio.run(self.networks.work(network, 0.0))
            for key in list(self.cluster.machines):
                asyncio.run(self.machines.reconcile(key))
            for key, pod in list(self.cluster.pods.items()):
                if not pod["spec"].get("nodeName"):
                    pod["spec"]["nodeName"] = "ab"[sum(map(ord, key[1])) % 2]
                    self.cluster.pod_changed(key)
            self.now += timedelta(seconds=10)

    def machine(self, name: str, *, nics: list[Object] | None = None, **spec: Any) -> Key:
        lan = [{"name": "lan", "network": {"name": "office"}}] if nics is None else nics
        self.cluster.apply("default", name, {**SPEC, "nics": lan, **spec})
        return "default", name

    def leases(self) -> dict[str, list[str]]:
        status = self.cluster.networks[OFFICE].get("status") or {}
        return {lease["machine"].rpartition("/")[2]: lease.get("addresses") or [] for lease in status["leases"]}

    def delete(self, name: str) -> None:
        self.cluster.delete("default", name)
        self.settle()
        pod = self.cluster.pods.get(("default", pod_name(name)))
        if pod is not None:
            self.cluster.remove_pod(("default", pod_name(name)))
        self.settle()


@pytest.fixture
def scene() -> Scene:
    made = Scene()
    made.cluster.apply_network(*OFFICE, {"overlay": {}, "ipv4": {"range": "10.9.0.0/28"}})
    return made


def test_machines_wait_for_their_network_and_start_when_it_comes() -> None:
    scene = Scene()
    key = scene.machine("vm1")
    scene.settle()
    conditions = {c["type"]: c for c in scene.cluster.machines[key]["status"]["conditions"]}
    assert conditions["NetworkReady"]["reason"] == "NetworkMissing"
    assert not scene.cluster.pods
    scene.cluster.apply_network(*OFFICE, {"overlay": {}, "ipv4": {"range": "10.9.0.0/28"}})
    scene.settle()
    assert scene.leases() == {"vm1": ["10.9.0.1"]}
    (order,) = scene.agents.orders.values()
    assert order.machine.nics[0].addresses == ("10.9.0.1/28",)


def test_a_machine_that_came_before_its_networks_number_is_told_of_it(scene: Scene) -> None:
    key = scene.machine("vm1")
    asyncio.run(scene.machines.reconcile(key))
    conditions = {c["type"]: c for c in scene.cluster.machines[key]["status"]["conditions"]}
    assert conditions["NetworkReady"]["reason"] == "NetworkPending"
    while asyncio.run(scene.networks.work(OFFICE, 0.0)) is not None:
        assert not scene.freed
    assert scene.freed == [OFFICE]  # the watch's own news of it comes too late to be any
    scene.freed.clear()
    scene.settle()
    assert scene.leases() == {"vm1": ["10.9.0.1"]}
    assert scene.freed == []


def test_an_interface_that_is_added_is_ordered_without_waiting_for_another_bell(scene: Scene) -> None:
    key = scene.machine("vm1", nics=[{"name": "default", "pod": {}}])
    scene.settle()
    (order,) = scene.agents.orders.values()
    scene.rung.clear()
    scene.machine("vm1", nics=[{"name": "default", "pod": {}}, {"name": "lan", "network": {"name": "office"}}])
    assert asyncio.run(scene.machines.reconcile(key)) == 0.0  # the lease is written: at once again
    asyncio.run(scene.machines.reconcile(key))
    (order,) = scene.agents.orders.values()
    assert [nic.name for nic in order.machine.nics] == ["default", "lan"]
    assert order.machine.nics[1].addresses == ("10.9.0.1/28",)
    assert scene.rung == [OFFICE]  # no pod has changed, and yet the nodes have to hear of the new member
    asyncio.run(scene.networks.work(OFFICE, 0.0))
    assert [len(said.members) for said in scene.agents.members.values()] == [1]


def test_both_nodes_hear_of_all_members(scene: Scene) -> None:
    for number in range(4):
        scene.machine(f"vm{number}")
    scene.settle()
    heard = {node: {m.node_address for m in said.members} for node, said in scene.agents.members.items()}
    assert heard == {"a": {"192.0.2.1", "192.0.2.2"}, "b": {"192.0.2.1", "192.0.2.2"}}
    assert {len(said.members) for said in scene.agents.members.values()} == {4}


def test_a_machine_that_moves_is_expected_at_its_new_node_and_then_named_there(scene: Scene) -> None:
    key = scene.machine("vm1")
    scene.settle()
    (pod,) = scene.cluster.pods.values()
    old = pod["spec"]["nodeName"]
    new = "b" if old == "a" else "a"
    assert list(scene.agents.members) == [old]
    coming = copy.deepcopy(pod)
    coming["metadata"] |= {"name": "berth-vm1-moves", "uid": "p2"}
    coming["metadata"]["annotations"] |= {"berth.dev/epoch": "2", "berth.dev/migration": "m"}
    coming["spec"]["nodeName"] = new
    scene.cluster.pods["default", "berth-vm1-moves"] = coming
    scene.cluster.pod_changed(("default", "berth-vm1-moves"))
    asyncio.run(scene.networks.work(OFFICE, 0.0))
    (expected,) = scene.agents.members[new].members
    assert expected.node == old  # it is there still, and the new node knows the segment already
    machine = scene.cluster.machines[key]
    owner = {"berth": "berth-vm1-moves", "epoch": 2, "node": new}
    asyncio.run(scene.cluster.write_status(seen.read_machine(machine), owner))
    asyncio.run(scene.networks.work(OFFICE, 0.0))
    assert [member.node for member in scene.agents.members[new].members] == [new]
    assert scene.agents.members[old].members == ()  # nothing of the segment is left there


def test_an_idle_network_costs_no_write_and_a_new_controller_none_either(scene: Scene) -> None:
    for number in range(5):
        scene.machine(f"vm{number}")
    scene.settle()
    before = scene.leases()
    scene.cluster.writes.clear()
    scene.settle()
    scene.start_controller()
    scene.settle()
    assert scene.cluster.writes == []
    assert scene.leases() == before


def test_addresses_go_round_and_are_never_shared() -> None:
    """Six addresses, machines that come and go, a controller that starts anew, writes that come second."""
    scene = Scene()
    scene.cluster.apply_network(*OFFICE, {"overlay": {}, "ipv4": {"range": "10.9.0.0/29"}})
    chance = random.Random(7)
    refuse = iter(lambda: chance.random() < 0.2, None)
    write = scene.cluster.write_network_status

    async def contended(network: Any, patch: Object) -> Object:
        if next(refuse):
            raise Conflict(409, "somebody was quicker")
        return await write(network, patch)

    scene.cluster.write_network_status = contended  # type: ignore[method-assign]
    alive: dict[str, list[str]] = {}
    for turn in range(25):
        if len(alive) < 6 and chance.random() < 0.7:
            scene.machine(f"vm{turn}")
            scene.settle(5)
        elif alive:
            scene.delete(chance.choice(sorted(alive)))
        if chance.random() < 0.2:
            scene.start_controller()
        held = scene.leases()
        given = [address for addresses in held.values() for address in addresses]
        assert len(given) == len(set(given)) <= 6
        assert all(held[name] == had for name, had in alive.items() if name in held)
        alive = {name: held[name] for name in held}
        assert set(held) == {name for _, name in scene.cluster.machines}


def test_the_fifteenth_machine_is_told_that_no_address_is_free(scene: Scene) -> None:
    for number in range(15):
        scene.machine(f"vm{number:02}")
    scene.settle(10)
    waiting = [vm for vm in scene.cluster.machines.values() if vm["status"]["phase"] == "Pending" and not _placed(vm)]
    (one,) = waiting
    assert "AddressesExhausted" in {c["reason"] for c in one["status"]["conditions"]}
    assert scene.cluster.networks[OFFICE]["status"]["available"] == 0
    other = next(name for _, name in scene.cluster.machines if name != one["metadata"]["name"])
    scene.freed.clear()
    scene.delete(other)
    assert scene.freed == [OFFICE]  # who waits for an address is told: the watch's own news came too late to be any
    assert one["metadata"]["name"] in scene.leases()


def _placed(vm: Object) -> bool:
    return any(c["type"] == "PlacementReady" and c["status"] == "True" for c in vm["status"]["conditions"])


def test_a_network_in_use_is_kept_until_its_last_machine_goes(scene: Scene) -> None:
    scene.machine("vm1")
    scene.settle()
    scene.cluster.delete_network(*OFFICE)
    scene.settle()
    status = scene.cluster.networks[OFFICE]["status"]
    assert status["conditions"][0]["reason"] == "InUse"
    assert "default/vm1" in status["message"]
    scene.delete("vm1")
    assert OFFICE not in scene.cluster.networks


def test_the_lease_of_a_machine_that_was_forced_away_is_found_and_freed(scene: Scene) -> None:
    key = scene.machine("vm1")
    scene.settle()
    del scene.cluster.machines[key]  # its finalizer was removed by hand
    scene.start_controller()
    scene.settle()
    assert scene.leases() == {}
