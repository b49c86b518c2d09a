"""A machine on Networks: leases before berths and orders, what stands in the way, what is given back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from berth.api.order import NicKind, SegmentKind
from berth.plan import networks, nics
from berth.plan.acts import CreateBerth, SendOrder
from berth.plan.cluster import plan
from berth.plan.conditions import ConditionType
from berth.plan.networks import WriteLeases
from berth.plan.orders import order
from berth.plan.pending import pending_changes
from berth.plan.segment import Segment
from berth.plan.world import FINALIZER, World
from tests.unit.plan.cluster_worlds import (
    CLUSTER,
    UID,
    agent,
    bound,
    machine,
    pod,
    report,
    told,
    up,
    with_status,
    world,
)
from tests.unit.plan.segments import MAC, ON_LAN, lease, network

HELD = {"finalizers": [FINALIZER]}
LAN = {**ON_LAN, "mac": MAC}


def on(*segments: Segment, nic: dict[str, Any] | None = None, **changes: Any) -> World:
    wanted = machine(nics=[{"name": "default", "pod": {}}, nic or LAN], metadata=HELD, **changes.pop("spec", {}))
    return world(machine=wanted, networks={segment.key: segment for segment in segments}, **changes)


def names(seen: World) -> list[str]:
    return [type(step).__name__ for step in plan(seen).steps]


def said(seen: World) -> tuple[str, str]:
    found = next(c for c in told(seen).conditions if c.type == ConditionType.NETWORK_READY)
    return found.reason, found.message


def test_a_lease_is_written_before_the_berth_is_made() -> None:
    seen = on(network())
    write, create = plan(seen).steps
    assert isinstance(write, WriteLeases)
    assert isinstance(create, CreateBerth)
    (held,) = write.leases
    assert (held.machine, held.uid, held.nic, held.mac, held.addresses) == (
        "default/web", UID, "lan", MAC, ["10.9.0.1"],
    )  # fmt: skip
    assert names(on(network(lease(1)))) == ["CreateBerth"]


@pytest.mark.parametrize(
    ("segments", "nic", "reason", "word"),
    [
        ((), None, "NetworkMissing", "default/office"),
        ((network(namespace="infra"),), {**LAN, "network": {"name": "office", "namespace": "infra"}},
         "NetworkNotShared", "spec.allowedNamespaces"),
        ((network(spec={"ipv4": {"range": "10.9.0.1/24"}}),), None, "NetworkInvalid", "10.9.0.1/24"),
        ((network(metadata={"deletionTimestamp": "2026-03-01T11:00:00Z"}),), None, "NetworkDeleting", "office"),
        ((network(status={"vni": None}),), None, "NetworkPending", "VXLAN"),
        ((network(lease(1, uid="other")),), None, "MacTaken", MAC),
        ((network(),), {**LAN, "network": {"name": "office", "addresses": ["10.8.0.1"]}}, "AddressRefused", "10.8.0.1"),
        ((network(lease(9, uid="other")),), {**LAN, "network": {"name": "office", "addresses": ["10.9.0.9"]}},
         "AddressTaken", "default/web"),
        ((network(spec={"ipv4": {"range": "10.9.0.0/30"}}, status={"vni": 5, "leases": [
            lease(2, uid="a").model_dump(), lease(3, uid="b", mac="02:00:00:00:00:03").model_dump() | {
                "addresses": ["10.9.0.1"]}]}),), None, "AddressesExhausted", "10.9.0.0/30"),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_said_and_nothing_is_started(
    segments: tuple[Segment, ...], nic: dict[str, Any] | None, reason: str, word: str
) -> None:
    seen = on(*segments, nic=nic)
    assert names(seen) == []
    assert said(seen)[0] == reason
    assert word in said(seen)[1]
    assert told(seen).phase == "Pending"


def test_a_shared_network_is_used_from_elsewhere() -> None:
    shared = network(namespace="infra", spec={"allowedNamespaces": ["default"]})
    everybody = network(namespace="infra", spec={"allowedNamespaces": ["*"]})
    nic = {**LAN, "network": {"name": "office", "namespace": "infra"}}
    assert names(on(shared, nic=nic)) == names(on(everybody, nic=nic)) == ["WriteLeases", "CreateBerth"]


def test_the_order_has_all_that_another_node_needs() -> None:
    segment = network(lease(1), spec={"egress": {"type": "NAT"}, "dns": ["10.96.0.10"], "mtu": 1400})
    seen = on(segment, pod=None)
    berth = bound(owner=seen.machine)
    found = order(seen.machine, berth, CLUSTER, seen.networks)
    assert found is not None
    default, lan = found.machine.nics
    assert (default.kind, default.segment) == (NicKind.POD, None)
    assert lan.kind is NicKind.SEGMENT
    assert lan.segment is not None
    assert (lan.segment.kind, lan.segment.vni, lan.segment.nat, lan.segment.mtu) == (
        SegmentKind.OVERLAY, 4096, True, 1400,
    )  # fmt: skip
    assert (lan.mac, lan.addresses, lan.gateways, lan.dns) == (MAC, ("10.9.0.1/24",), ("10.9.0.1",), ("10.96.0.10",))
    assert order(seen.machine, berth, CLUSTER, {}) is None  # nothing is ordered without addresses


@pytest.mark.parametrize(
    ("spec", "kind", "device"),
    [({"bridge": {"name": "br0"}}, SegmentKind.BRIDGE, "br0"),
     ({"vlan": {"device": "eth1", "id": 30}}, SegmentKind.VLAN, "eth1")],
)  # fmt: skip
def test_bridges_and_vlans_are_ordered_by_their_devices(spec: dict[str, Any], kind: SegmentKind, device: str) -> None:
    segment = network(lease(1))
    given = {**spec, "ipv4": {"range": "10.9.0.0/24"}}
    segment = replace(segment, spec=type(segment.spec).model_validate(given))  # type: ignore[union-attr]
    made = networks.segment_order(segment)
    assert (made.kind, made.device) == (kind, device)
    assert made.vlan == (30 if kind is SegmentKind.VLAN else 0)


def running(*segments: Segment, live: list[dict[str, Any]]) -> World:
    """A machine that was started with the pod network alone, and wants these interfaces now."""
    started = machine(nics=[{"name": "default", "pod": {}}])
    wanted = machine(nics=[{"name": "default", "pod": {}}, *live], metadata=HELD)
    seen = world(machine=wanted, pod=up(owner=started), agent=agent(report()))
    return with_status(replace(seen, networks={segment.key: segment for segment in segments}))


def test_an_interface_added_to_a_running_machine_gets_a_lease_and_then_an_order() -> None:
    assert names(running(network(), live=[LAN])) == ["WriteLeases"]
    (step,) = plan(running(network(lease(1)), live=[LAN])).steps
    assert isinstance(step, SendOrder)
    assert [nic.name for nic in step.order.machine.nics] == ["default", "lan"]
    assert told(running(network(lease(1)), live=[LAN])).pending_changes == []


def test_one_that_cannot_be_had_leaves_the_running_machine_alone() -> None:
    seen = running(live=[LAN])
    assert names(seen) == []
    assert said(seen)[0] == "NetworkMissing"
    assert told(seen).phase == "Running"


def test_an_interface_taken_away_is_ordered_away_and_its_lease_given_back_when_the_guest_let_it_go() -> None:
    started = machine(nics=[{"name": "default", "pod": {}}, LAN])
    wanted = machine(nics=[{"name": "default", "pod": {}}], metadata=HELD)
    seen = with_status(world(machine=wanted, pod=up(owner=started), agent=agent(report()),
                             networks={("default", "office"): network(lease(1))}))  # fmt: skip
    (step,) = plan(seen).steps
    assert isinstance(step, SendOrder)
    assert [nic.name for nic in step.order.machine.nics] == ["default"]


def test_other_sources_wait_for_the_next_start() -> None:
    before = machine(nics=[{"name": "default", "pod": {}}]).spec
    after = machine(nics=[{"name": "default", "pod": {}}, {"name": "san", "multus": {"name": "san"}}, LAN]).spec
    assert before is not None
    assert after is not None
    assert pending_changes(before, after) == ["spec.nics[san]"]


def test_what_is_live_in_an_interface_is_ordered_at_once() -> None:
    changed = {**LAN, "link": "Down", "antiSpoofing": False, "bandwidth": {"inbound": {"rate": "10M"}}}
    started = machine(nics=[{"name": "default", "pod": {}}, LAN])
    wanted = machine(nics=[{"name": "default", "pod": {}, "link": "Down"}, changed])
    assert started.spec is not None
    assert wanted.spec is not None
    assert pending_changes(started.spec, wanted.spec) == []
    found = order(wanted, bound(owner=started), CLUSTER, {("default", "office"): network(lease(1))})
    assert found is not None
    default, lan = found.machine.nics
    assert (default.link_up, lan.link_up, lan.anti_spoofing) == (False, False, False)
    assert lan.inbound is not None
    assert (lan.inbound.bits_per_second, lan.inbound.burst_bytes) == (10_000_000, 62_500)


def test_a_deleted_machine_gives_its_leases_back_before_it_goes() -> None:
    gone = {"finalizers": [FINALIZER], "deletionTimestamp": "2026-03-01T11:59:00Z"}
    seen = world(machine=machine(nics=[LAN], metadata=gone), networks={("default", "office"): network(lease(1))})
    write, remove = plan(seen).steps
    assert isinstance(write, WriteLeases)
    assert write.leases == ()
    assert type(remove).__name__ == "RemoveFinalizer"


def test_leases_of_others_are_never_touched() -> None:
    other = lease(5, uid="other")
    gone = {"finalizers": [FINALIZER], "deletionTimestamp": "2026-03-01T11:59:00Z"}
    networks_ = {("default", "office"): network(lease(1), other)}
    write = plan(world(machine=machine(nics=[LAN], metadata=gone), networks=networks_)).steps[0]
    assert isinstance(write, WriteLeases)
    assert write.leases == (other,)


def test_a_machine_that_is_off_keeps_its_addresses() -> None:
    off = machine(nics=[LAN], power="Off", metadata=HELD)
    seen = world(machine=off, networks={("default", "office"): network(lease(1))})
    assert names(seen) == []
    assert [nic.addresses for nic in told(seen).nics] == [["10.9.0.1"]]


def test_what_the_guest_says_stands_beside_what_was_given() -> None:
    from berth.api.order import NicReport

    seen = on(network(lease(1)), pod=None)
    berth = up(owner=seen.machine, ips=("10.0.0.7", "fd00::7"))
    guest = (NicReport(mac=MAC, name="enp2s0", addresses=("10.9.0.1/24", "192.168.5.1/24")),)
    seen = replace(seen, pod=berth, agent=agent(report(guest_nics=guest)))
    default, lan = nics.statuses(seen, living=True)
    assert (default.network, default.addresses) == ("pod", ["10.0.0.7", "fd00::7"])
    assert (lan.network, lan.addresses, lan.guest_name) == ("network/default/office", ["10.9.0.1"], "enp2s0")
    assert lan.guest_addresses == ["10.9.0.1/24", "192.168.5.1/24"]


def test_multus_and_device_plugins_are_asked_by_the_pod() -> None:
    wanted = machine(nics=[{"name": "a", "multus": {"name": "san"}, "mac": MAC},
                           {"name": "b", "device": {"resource": "example.com/vf"}},
                           {"name": "c", "multus": {"name": "bak", "namespace": "infra"}}])  # fmt: skip
    berth = pod(owner=wanted)
    found = order(wanted, replace(berth, node="n"), CLUSTER)
    assert found is not None
    assert [(nic.kind, nic.interface, nic.resource) for nic in found.machine.nics] == [
        (NicKind.ATTACHMENT, "net1", ""), (NicKind.DEVICE, "", "example.com/vf"), (NicKind.ATTACHMENT, "net2", ""),
    ]  # fmt: skip
