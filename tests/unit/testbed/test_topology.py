"""kind-config.yaml → nodes, addresses and subnets."""

from __future__ import annotations

import pytest

from testbed import errors, settings, topology

SMALL = """
kind: Cluster
name: berth
networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/16}
nodes: [{role: control-plane}, {role: worker, labels: {zone: a}}, {role: worker}]
"""
DUAL = """
kind: Cluster
name: berth
networking:
  ipFamily: dual
  podSubnet: 10.244.0.0/16,fd00:10:244::/56
  serviceSubnet: 10.96.0.0/16,fd00:10:96::/112
nodes: [{role: control-plane}, {role: worker}, {role: worker}]
"""


def test_the_committed_file_has_one_control_plane_and_two_workers() -> None:
    shape = topology.parse((settings.REPOSITORY / "kind-config.yaml").read_text())
    assert [node.name for node in shape.nodes] == ["berth-worker", "berth-worker2"]  # the names kind gives


def test_addresses_follow_from_the_order_of_the_nodes() -> None:
    shape = topology.parse(SMALL)
    assert [(n.address, n.pod_cidr) for n in shape.nodes] == [
        ("10.200.0.11", "10.244.1.0/24"),
        ("10.200.0.12", "10.244.2.0/24"),
    ]
    assert (shape.gateway, shape.api_service, shape.dns_services) == ("10.200.0.1", "10.96.0.1", ("10.96.0.10",))


def test_a_cluster_of_both_families_has_two_of_everything_ipv4_first() -> None:
    shape = topology.parse(DUAL, index=1)
    assert shape.nodes[1].addresses == ("10.201.0.12", "fd00:10:201::12")
    assert shape.nodes[1].pod_cidrs == ("10.245.2.0/24", "fd00:10:244:102::/64")
    assert shape.gateways == ("10.201.0.1", "fd00:10:201::1")
    assert shape.service_cidrs == ("10.96.0.0/16", "fd00:10:96::/112")
    assert shape.dns_services == ("10.96.0.10", "fd00:10:96::a")


def test_labels_are_kept() -> None:
    assert topology.parse(SMALL).nodes[0].labels == (("zone", "a"),)


def test_a_second_testbed_shares_no_name_and_no_address_with_the_first() -> None:
    first, second = topology.parse(SMALL), topology.parse(SMALL, index=1)
    assert {n.name for n in first.nodes}.isdisjoint(n.name for n in second.nodes)
    assert {n.address for n in first.nodes}.isdisjoint(n.address for n in second.nodes)
    assert second.pod_cidrs == ("10.245.0.0/16",)


def test_a_node_is_found_by_the_end_of_its_name() -> None:
    shape = topology.parse(SMALL)
    assert shape.node("worker2") is shape.nodes[1]
    assert shape.node("berth-worker") is shape.nodes[0]


def test_an_unknown_node_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(errors.TestbedError, match=r"worker9.*berth-worker, berth-worker2"):
        topology.parse(SMALL).node("worker9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Pod", "must be Cluster"),
        ("kind: Cluster\nnodes: [{role: worker}]", "exactly one control-plane"),
        ("kind: Cluster\nnodes: [{role: control-plane}]", "1 to 9 workers.*given 0"),
        (SMALL.replace("10.244.0.0/16", "nonsense"), r"networking\.podSubnet.*'nonsense'"),
        (SMALL.replace("10.244.0.0/16", "10.244.0.0/24"), r"/20 or larger"),
        (SMALL.replace("{zone: a}", "7"), "labels"),
        (SMALL.replace("podSubnet", "ipFamily: ipv6, podSubnet"), r"ipFamily.*'ipv6'"),
        (DUAL.replace(",fd00:10:244::/56", ""), r"podSubnet.*and an IPv6 subnet.*'10\.244"),
        (DUAL.replace("::/56", "::/62"), r"/60 or larger.*/62"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(errors.BadTopology, match=message):
        topology.parse(text)
