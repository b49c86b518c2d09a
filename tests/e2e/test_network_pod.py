"""A guest on the pod network: its addresses, every port both ways, Services, names, port-forward, a MAC that stays."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from testbed.kube import CLIENT, Cluster, Json, Machine, in_client, tiny, wait

Make = Callable[..., Machine]
LABELS = {"app": "guest"}
# Tells each client the address it came from.
SERVER = """
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(self.client_address[0].removeprefix("::ffff:").encode())
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(("", 8080), Handler).serve_forever()
"""


def url_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def labelled(name: str, **spec: object) -> Json:
    manifest = tiny(name, **spec)
    manifest["metadata"]["labels"] = LABELS
    return manifest


def service(name: str, **spec: object) -> Json:
    ports = [{"name": "web", "port": 8000, "targetPort": 80}]
    body: Json = {"selector": LABELS, "ports": ports, "ipFamilyPolicy": "PreferDualStack", **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body}


def server(name: str) -> Json:
    container = {
        "name": "main",
        "image": "ghcr.io/berth-dev/testtools:dev",
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", SERVER],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def pod_ips(cluster: Cluster, namespace: str, name: str) -> list[str]:
    found = cluster.get(f"/api/v1/namespaces/{namespace}/pods/{name}") or {}
    return [entry["ip"] for entry in found["status"]["podIPs"]]


def wait_addresses(vm: Machine) -> None:
    """Every address of the pod leads into the guest: IPv6 comes some seconds after the first line."""
    urls = [f"http://{url_host(address)}/" for address in vm.ips()]
    wait(f"{urls} answer", lambda: all(fetch(vm.cluster, url) for url in urls), 30)


def wait_resolved(cluster: Cluster, name: str, addresses: list[str]) -> None:
    words = ("exec", "-n", CLIENT[0], CLIENT[1], "--", "getent", "ahosts", name)
    wait(f"{name} is {addresses}", lambda: set(addresses) <= set(cluster.run("kubectl", *words).stdout.split()), 30)


def fetch(cluster: Cluster, url: str) -> str:
    """What the client pod gets; empty when there is no answer."""
    words = ("exec", "-n", CLIENT[0], CLIENT[1], "--", "curl", "-gsS", "-m", "3", url)
    done = cluster.run("kubectl", *words)
    return done.stdout if done.returncode == 0 else ""


def test_the_guest_has_the_pods_ports_both_ways_and_clients_keep_their_address(
    cluster: Cluster, namespace: str, make: Make
) -> None:
    vm = make(labelled("web"))
    cluster.apply(server("outside"), namespace=namespace)
    vm.wait_up()
    cluster.kubectl("wait", "--for=condition=Ready", "-n", namespace, "pod/outside", "--timeout=60s", seconds=70)
    wait_addresses(vm)
    clients, servers = pod_ips(cluster, *CLIENT), pod_ips(cluster, namespace, "outside")
    assert [":" in address for address in vm.ips()] == [":" in address for address in clients]
    for address, client, outside in zip(vm.ips(), clients, servers, strict=True):
        assert f"client {client}\n" in fetch(cluster, f"http://{url_host(address)}/")
        assert "datagram" in in_client(cluster, "sh", "-c", f"echo datagram | nc -u -w 2 {address} 7001")
        # Ports that nobody has ever heard of, from the first to the last.
        for port in (1, 10250, 65535):
            vm.shell(f"(echo here-$((40+2)) | nc -l -p {port} >/dev/null 2>&1 &) ; sleep 0.3")
            assert "here-42" in in_client(cluster, "sh", "-c", f"nc -w 5 {address} {port} </dev/null")
        assert vm.shell(f"wget -qO- http://{url_host(outside)}:8080/") == address, "egress has the pod's identity"


def servers(text: str) -> set[str]:
    """The name servers in a resolv.conf, each written one way: busybox writes all zeros of IPv6."""
    lines = [line.split() for line in text.splitlines() if line.startswith("nameserver")]
    return {str(ipaddress.ip_address(words[1])) for words in lines}


def test_the_guest_is_told_what_a_pod_is_told(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("told", hostname="spoken-of"))
    vm.wait_up()
    wait_addresses(vm)
    resolver = in_client(cluster, "cat", "/etc/resolv.conf")
    inside = vm.shell("hostname; cat /sys/class/net/eth0/mtu; cat /etc/resolv.conf")
    name, mtu, *lines = inside.splitlines()
    assert name == "spoken-of"
    assert mtu == in_client(cluster, "cat", "/sys/class/net/eth0/mtu").strip()
    assert servers(resolver) == servers(inside), "every name server of both families"
    assert f"search {vm.namespace}.svc.cluster.local svc.cluster.local cluster.local" in lines
    assert "kubernetes.default.svc.cluster.local" in vm.shell("nslookup kubernetes.default.svc.cluster.local")


def test_services_of_every_kind_lead_into_the_guest(cluster: Cluster, namespace: str, make: Make) -> None:
    vm = make(labelled("member", hostname="first", subdomain="crew"))
    cluster.apply(service("front"), service("crew", clusterIP="None"), service("door", type="NodePort"),
                  namespace=namespace)  # fmt: skip
    vm.wait_up()
    wait_addresses(vm)
    for option in ("-4", "-6") if len(vm.ips()) > 1 else ("-4",):
        words = ("curl", "-sS", "-m", "10", option, f"http://front.{namespace}.svc.cluster.local:8000/")
        assert "hostname first" in in_client(cluster, *words)
    for name in ("crew", "first.crew"):
        wait_resolved(cluster, f"{name}.{namespace}.svc.cluster.local", vm.ips())
    door = cluster.get(f"/api/v1/namespaces/{namespace}/services/door") or {}
    port = door["spec"]["ports"][0]["nodePort"]
    for node in cluster.items("/api/v1/nodes"):
        for entry in node["status"]["addresses"]:
            if entry["type"] == "InternalIP" and (len(vm.ips()) > 1 or ":" not in entry["address"]):
                url = f"http://{url_host(entry['address'])}:{port}/"
                assert urllib.request.urlopen(url, timeout=10).read().startswith(b"client ")


@contextmanager
def forwarded(vm: Machine, port: int) -> Iterator[int]:
    """kubectl port-forward to the guest, as long as the block lasts; gives the local port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        local = int(free.getsockname()[1])
    command = ["kubectl", "port-forward", "-n", vm.namespace, f"pod/{vm.status()['berth']}", f"{local}:{port}"]
    process = subprocess.Popen(command, env=vm.cluster.environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "Forwarding" in process.stdout.readline()
        yield local
    finally:
        process.kill()
        process.wait()


def test_port_forward_reaches_the_guest(make: Make) -> None:
    vm = make(tiny("forward"))
    vm.wait_up()
    with forwarded(vm, 80) as port:
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read().decode()
    assert "hostname forward" in answer


def test_the_mac_stays_for_the_machines_life(cluster: Cluster, make: Make) -> None:
    vm = make(tiny("same"))
    vm.wait_up()
    before, first = vm.shell("cat /sys/class/net/eth0/address"), vm.status()["epoch"]
    assert cluster.berth("restart", "same", "-n", vm.namespace, "--wait").returncode == 0
    vm.wait_up()
    assert vm.status()["epoch"] > first
    assert vm.shell("cat /sys/class/net/eth0/address") == before


@pytest.mark.timeout(180)
def test_a_network_policy_holds_for_guests_as_for_pods(cluster: Cluster, namespace: str, make: Make) -> None:
    vm = make(labelled("guarded"))
    cluster.apply(server("outside"), namespace=namespace)
    vm.wait_up()
    cluster.kubectl("wait", "--for=condition=Ready", "-n", namespace, "pod/outside", "--timeout=60s", seconds=70)
    wait_addresses(vm)
    urls = [f"http://{url_host(address)}/" for address in vm.ips()]
    outside = [f"http://{url_host(address)}:8080/" for address in pod_ips(cluster, namespace, "outside")]

    def apply(name: str, **spec: object) -> None:
        body = {"podSelector": {"matchLabels": LABELS}, **spec}
        kind: Json = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        cluster.apply({**kind, "metadata": {"name": name}, "spec": body}, namespace=namespace)

    def leaves() -> list[bool]:
        tries = "; ".join(f"wget -q -T 2 -O /dev/null {url} && echo yes || echo no" for url in outside)
        return [answer == "yes" for answer in vm.shell(tries).split()]

    assert all(leaves())
    # The tests' own pod keeps its way in, or nobody could ask the guest what it can reach.
    client = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": CLIENT[0]}}}
    apply("only-the-shell", ingress=[{"from": [client], "ports": [{"port": 7002}]}])
    wait("port 80 is shut by every address", lambda: not any(fetch(cluster, url) for url in urls), 30)
    apply("no-egress", policyTypes=["Egress"], egress=[])
    wait("nothing gets out", lambda: not any(leaves()), 30)
    apply("no-egress", policyTypes=["Egress"], egress=[{"ports": [{"port": 8080}]}])
    wait("port 8080 gets out", lambda: all(leaves()), 30)
    cluster.kubectl("delete", "networkpolicy", "-n", namespace, "only-the-shell")
    wait("port 80 is open again", lambda: all(fetch(cluster, url) for url in urls), 30)
