"""`berth net` against the stand-in for the API server: what is given, what the guest says, what selects the machine."""

from __future__ import annotations

from typing import Any

import pytest

from berth.cli.net import selects
from tests.unit.cli.server import Server
from tests.unit.cli.test_cluster_commands import Run, condition, running, server

__all__ = ["server"]  # a fixture
Json = dict[str, Any]
PODS = "/api/v1/namespaces/lab/pods"
NICS = [
    {"name": "default", "network": "pod", "mac": "52:54:00:ab:00:01", "addresses": ["10.0.0.7", "fd00::7"]},
    {"name": "lan", "network": "network/lab/office", "mac": "52:54:00:00:00:02", "addresses": ["10.9.0.2"],
     "guestName": "enp2s0", "guestAddresses": ["192.168.1.5/24"]},
]  # fmt: skip


def machine(server: Server) -> None:
    spec = {"nics": [{"name": "default", "pod": {}},
                     {"name": "lan", "link": "Down", "bandwidth": {"inbound": {"rate": "10M"}}}]}  # fmt: skip
    conditions = [condition("NetworkReady", "True")]
    server.put("web", spec, running(nics=NICS, berth="berth-web", conditions=conditions))
    meta = {"name": "berth-web", "namespace": "lab", "uid": "u", "labels": {"app": "shop", "tier": "web"}}
    server.objects[f"{PODS}/berth-web"] = {"metadata": meta, "spec": {"nodeName": "n1"}}


def test_what_is_given_stands_beside_what_the_guest_says(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(server)
    assert run("net", "web", "--no-node") == 0
    out = capsys.readouterr().out
    (lan,) = [line for line in out.splitlines() if line.strip().startswith("lan")]
    assert lan.split() == ["lan", "network/lab/office", "52:54:00:00:00:02", "10.9.0.2", "enp2s0", "192.168.1.5/24",
                           "Down", "inbound", "10M"]  # fmt: skip
    assert "fd00::7" in out
    assert "52:54:00:ab:00:01" in out, "and no picture in place of :ab:"
    assert "network ready" in out


def test_services_and_policies_that_select_it_are_named(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(server)
    port = {"port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30080}
    for name, selector in (("mine", {"app": "shop"}), ("other", {"app": "x"}), ("none", None)):
        spec: Json = {"selector": selector, "clusterIPs": ["10.96.0.9"], "ports": [port]}
        server.objects[f"/api/v1/namespaces/lab/services/{name}"] = {"metadata": {"name": name}, "spec": spec}
    policies = "/apis/networking.k8s.io/v1/namespaces/lab/networkpolicies"
    for name, chosen in (("all", {}), ("theirs", {"matchLabels": {"app": "x"}})):
        policy: Json = {"metadata": {"name": name}, "spec": {"podSelector": chosen, "policyTypes": ["Egress"]}}
        server.objects[f"{policies}/{name}"] = policy
    assert run("net", "web", "--no-node") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mine", "10.96.0.9", "80→8080/TCP", "(node", "30080)"] in lines
    assert ["all", "Egress"] in lines
    assert not {"other", "none", "theirs"} & {word for line in lines for word in line}


def test_a_node_without_an_agent_is_told(server: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    machine(server)
    assert run("net", "web") == 0
    assert "it has no agent pod" in capsys.readouterr().out


def test_a_machine_that_is_off_has_no_more_to_show(
    server: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.put("web", status=running(phase="Stopped"))
    assert run("net", "web") == 0
    assert "no berth" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("expression", "yes"),
    [
        ({"key": "app", "operator": "In", "values": ["shop", "x"]}, True),
        ({"key": "app", "operator": "NotIn", "values": ["shop"]}, False),
        ({"key": "zone", "operator": "NotIn", "values": ["a"]}, True),
        ({"key": "app", "operator": "Exists"}, True),
        ({"key": "app", "operator": "DoesNotExist"}, False),
    ],
)
def test_selectors_are_read_as_kubernetes_reads_them(expression: Json, yes: bool) -> None:
    assert selects({"matchExpressions": [expression]}, {"app": "shop"}) is yes
