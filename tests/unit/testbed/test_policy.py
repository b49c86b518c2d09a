"""(NetworkPolicies, pods, namespaces) → nftables rules of one node, and when they are loaded."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.policy import engine, rules

Json = dict[str, Any]


def pod(name: str, last: int, *, node: str = "one", namespace: str = "a", **spec: Any) -> Json:
    ips = [{"ip": f"10.0.0.{last}"}, {"ip": f"fd00::{last}"}]
    metadata = {"uid": name, "name": name, "namespace": namespace, "labels": {"app": name}}
    return {"metadata": metadata, "spec": {"nodeName": node, **spec}, "status": {"podIPs": ips}}


def policy(**spec: Any) -> Json:
    return {"metadata": {"uid": "p", "name": "p", "namespace": "a"}, "spec": spec}


def space(name: str, **labels: str) -> Json:
    return {"metadata": {"name": name, "labels": labels}}


WEB = {"podSelector": {"matchLabels": {"app": "web"}}}
PODS = (pod("web", 1, containers=[{"ports": [{"name": "http", "containerPort": 8080}]}]), pod("db", 2, node="two"),
        pod("other", 3, namespace="b"))  # fmt: skip
SPACES = (space("a"), space("b", team="red"))


def text(*policies: Json, node: str = "one") -> str:
    return rules.ruleset(rules.World(policies, PODS, SPACES), node)


def chain(ruleset: str, name: str) -> list[str]:
    """The lines of one chain, without semicolons."""
    start = ruleset.index(f"chain {name} {{") + len(f"chain {name} {{")
    return [line.strip().rstrip(";") for line in ruleset[start : ruleset.index("\n  }\n", start)].splitlines()[1:]]


ITSELF = ["ip saddr 10.0.0.1 ip daddr 10.0.0.1 return", "ip6 saddr fd00::1 ip6 daddr fd00::1 return"]


def test_without_policies_nothing_is_in_the_way() -> None:
    assert text() == rules.HEAD


def test_another_engine_may_have_the_other_family() -> None:
    world = rules.World((policy(**WEB),), PODS, SPACES)
    every, six = (rules.ruleset(rules.of_families(world, which), "one") for which in (("ip", "ip6"), ("ip6",)))
    assert every == rules.ruleset(world, "one")
    assert " daddr 10." in every
    assert " daddr 10." not in six
    assert "ip6 daddr fd" in six


def test_a_policy_without_rules_shuts_the_pod_on_its_own_node_only() -> None:
    closed = text(policy(**WEB))
    assert chain(closed, "ingress-web") == [*ITSELF, "drop"]
    forward = chain(closed, "forward")
    assert forward[1] == "ct state established,related accept"
    assert "nd-neighbor-solicit" in forward[2]
    assert forward[3:] == ["ip daddr 10.0.0.1 jump ingress-web", "ip6 daddr fd00::1 jump ingress-web"]
    assert text(policy(**WEB), node="two") == rules.HEAD


def test_egress_is_also_held_against_what_the_node_takes_in_but_neighbours_are_found() -> None:
    taken_in = chain(text(policy(**WEB, policyTypes=["Egress"])), "input")
    assert "nd-neighbor-solicit" in taken_in[2]
    assert taken_in[3:] == ["ip saddr 10.0.0.1 jump egress-web", "ip6 saddr fd00::1 jump egress-web"]


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        ({"podSelector": {}}, ["ip saddr { 10.0.0.1, 10.0.0.2 } return", "ip6 saddr { fd00::1, fd00::2 } return"]),
        ({"namespaceSelector": {"matchLabels": {"team": "red"}}},
         ["ip saddr { 10.0.0.3 } return", "ip6 saddr { fd00::3 } return"]),
        ({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}},
         ["ip saddr { 10.0.0.2 } return", "ip6 saddr { fd00::2 } return"]),
        ({"ipBlock": {"cidr": "10.9.0.0/16", "except": ["10.9.1.0/24"]}},
         ["ip saddr 10.9.0.0/16 ip saddr != { 10.9.1.0/24 } return"]),
        ({"ipBlock": {"cidr": "fd09::/16"}}, ["ip6 saddr fd09::/16 return"]),
        ({"podSelector": {"matchLabels": {"app": "nobody"}}}, []),
    ],
)  # fmt: skip
def test_peers(peer: Json, allowed: list[str]) -> None:
    opened = text(policy(**WEB, ingress=[{"from": [peer]}]))
    assert chain(opened, "ingress-web") == [*ITSELF, *allowed, "drop"]


@pytest.mark.parametrize(
    ("port", "allowed"),
    [
        ({"port": 80}, ["tcp dport 80 return"]),
        ({"protocol": "UDP", "port": 1000, "endPort": 2000}, ["udp dport 1000-2000 return"]),
        ({"protocol": "SCTP"}, ["meta l4proto sctp return"]),
        ({"port": "http"}, ["tcp dport 8080 return"]),
        ({"port": "unknown"}, []),
    ],
)
def test_ports(port: Json, allowed: list[str]) -> None:
    opened = text(policy(**WEB, ingress=[{"ports": [port]}]))
    assert chain(opened, "ingress-web") == [*ITSELF, *allowed, "drop"]


def test_a_named_port_of_egress_is_the_other_pods() -> None:
    rule = {"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}
    opened = text(policy(podSelector={"matchLabels": {"app": "web"}}, policyTypes=["Egress"], egress=[rule]))
    assert chain(opened, "egress-web")[2:-1] == [
        "ip daddr 10.0.0.1 tcp dport 8080 return",
        "ip6 daddr fd00::1 tcp dport 8080 return",
    ]


def test_an_empty_rule_allows_everything_and_policies_add_up() -> None:
    both = text(policy(**WEB), policy(**WEB, ingress=[{}]))
    assert chain(both, "ingress-web") == [*ITSELF, "return", "drop"]


@pytest.mark.parametrize(
    ("operator", "values", "chosen"),
    [("In", ["web"], True), ("NotIn", ["web"], False), ("Exists", None, True), ("DoesNotExist", None, False)],
)
def test_expressions(operator: str, values: list[str] | None, chosen: bool) -> None:
    selector = {"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}
    assert rules.selects(selector, {"app": "web"}) is chosen


def test_pods_that_ended_or_use_their_nodes_address_have_none() -> None:
    ended = {**PODS[0], "status": {**PODS[0]["status"], "phase": "Succeeded"}}
    assert rules.addresses(ended) == []
    assert rules.addresses(pod("host", 9, hostNetwork=True)) == []


def test_rules_are_loaded_when_they_differ_and_again_when_a_node_was_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    identity, loaded = {"one": 1, "gone": 0}, list[tuple[str, str]]()
    monkeypatch.setattr(engine, "_identity", lambda name: identity[name])

    def load(name: str, ruleset: str) -> bool:
        loaded.append((name, ruleset))
        return len(loaded) > 1  # the first time fails

    nodes, world = engine.Nodes(["one", "gone"], load), rules.World((policy(**WEB),), PODS, SPACES)
    assert not nodes.settle(world)
    assert nodes.settle(world)
    assert nodes.settle(world)
    assert len(loaded) == 2
    identity["one"] = 2
    assert nodes.settle(world)
    assert loaded[2] == ("one", rules.ruleset(world, "one"))
