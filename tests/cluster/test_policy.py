"""NetworkPolicies hold on the built-in cluster, in both address families, between nodes and within one."""

from __future__ import annotations

from typing import Any

from testbed.kube import Json, wait

from .conftest import Space, pod
from .test_network import SERVER, fetch, service, url_host


def policy(name: str, selected: str, **spec: Any) -> Json:
    chosen = {"matchLabels": {"app": selected}}
    body: Json = {"podSelector": chosen, **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": body}


def reaches(space: Space, client: str, address: str) -> bool:
    url = f"http://{url_host(address)}:8080/"
    done = space.bed.cluster.run(
        *("kubectl", "exec", "-n", space.name, client, "--", "curl", "-sSf", "-m", "1", url), seconds=30
    )
    return done.returncode == 0


def settles(space: Space, wanted: dict[tuple[str, str], bool]) -> None:
    """Wait until every pair of pods can or cannot connect as wanted, by every address."""

    def found() -> dict[tuple[str, str], set[bool]]:
        return {
            (client, server): {reaches(space, client, address) for address in space.addresses(server)}
            for client, server in wanted
        }

    def wrong() -> bool:
        return any(found()[pair] != {value} for pair, value in wanted.items())

    wait(f"{wanted}", lambda: not wrong(), 30)


def test_ingress_is_shut_then_opened_for_one_pod(space: Space) -> None:
    one, two = space.bed.workers
    space.start(pod("web", one, SERVER), pod("near", one), pod("far", two))
    settles(space, {("near", "web"): True, ("far", "web"): True})
    space.apply(policy("shut", "web"))
    settles(space, {("near", "web"): False, ("far", "web"): False, ("web", "web"): True})
    chosen = {"podSelector": {"matchLabels": {"app": "far"}}}
    space.apply(policy("open", "web", ingress=[{"from": [chosen], "ports": [{"port": 8080}]}]))
    settles(space, {("near", "web"): False, ("far", "web"): True})
    space.bed.cluster.kubectl("delete", "networkpolicy", "-n", space.name, "--all")
    settles(space, {("near", "web"): True, ("far", "web"): True})


def test_egress_is_shut_towards_pods_and_the_node_but_not_for_names(space: Space) -> None:
    one, two = space.bed.workers
    space.start(pod("web", two, SERVER), pod("client", one), service())
    names = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53},
             {"protocol": "UDP", "port": 10153}, {"protocol": "TCP", "port": 10153}]  # fmt: skip
    space.apply(policy("shut", "client", policyTypes=["Egress"], egress=[{"ports": names}]))
    settles(space, {("client", "web"): False})
    assert space.execute("client", "getent", "hosts", "front")
    kubelet = f"https://{space.bed.topology.nodes[0].address}:10250/healthz"
    shut = space.bed.cluster.run(
        *("kubectl", "exec", "-n", space.name, "client", "--", "curl", "-sk", "-m", "1", kubelet)
    )
    assert shut.returncode == 28, "the connection timed out"
    space.apply(policy("open", "client", policyTypes=["Egress"], egress=[{"to": [{"podSelector": {}}]}]))
    fetch(space, "client", "http://front/", "-4")
    fetch(space, "client", "http://front/", "-6")


def test_rules_outlive_their_engine(space: Space) -> None:
    one, two = space.bed.workers
    space.start(pod("web", one, SERVER), pod("far", two))
    space.apply(policy("shut", "web"))
    settles(space, {("far", "web"): False})
    space.bed.run("restart", "policy")
    settles(space, {("far", "web"): False})
