"""Pods, Services, node ports, DNS and the API server reach each other as on any cluster."""

from __future__ import annotations

import urllib.request

from testbed.kube import Json, wait

from .conftest import Bed, Space, pod

SERVER = ("python3", "-c", """
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        client = self.client_address[0].removeprefix("::ffff:")
        self.send_response(200); self.end_headers(); self.wfile.write(client.encode())
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
Server(("", 8080), Handler).serve_forever()
""")  # fmt: skip


def service(kind: str = "ClusterIP") -> Json:
    """Its name differs from the pod's: a pod's own host name does not ask DNS."""
    spec: Json = {"type": kind, "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    spec["ipFamilyPolicy"] = "RequireDualStack"
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}, "spec": spec}


def url_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def fetch(space: Space, client: str, url: str, *options: str) -> str:
    return wait(f"{url} answers", lambda: _try(space, client, url, *options), 20)


def _try(space: Space, client: str, url: str, *options: str) -> str | None:
    cluster = space.bed.cluster
    done = cluster.run("kubectl", "exec", "-n", space.name, client, "--", "curl", "-sSf", "-m", "3", *options, url)
    return done.stdout if done.returncode == 0 else None


def test_pods_of_both_nodes_see_each_others_real_address(space: Space) -> None:
    one, two = space.bed.workers
    space.start(pod("client", one), pod("near", one, SERVER), pod("far", two, SERVER))
    clients = space.addresses("client")
    assert [":" in address for address in clients] == [False, True]
    for server in ("near", "far"):
        for address, client in zip(space.addresses(server), clients, strict=True):
            assert fetch(space, "client", f"http://{url_host(address)}:8080/") == client


def test_a_service_is_reached_by_name_from_every_pod_also_by_its_own_server(space: Space) -> None:
    one, two = space.bed.workers
    space.start(pod("web", one, SERVER), pod("near", one), pod("far", two), service())
    for client in ("near", "far", "web"):
        assert fetch(space, client, "http://front/")
        for name in ("front", f"front.{space.name}.svc.cluster.local"):
            assert ":" not in fetch(space, client, f"http://{name}/", "-4")
            assert ":" in fetch(space, client, f"http://{name}/", "-6")


def test_a_service_is_reached_from_the_nodes_and_a_node_port_from_the_host(space: Space) -> None:
    space.start(pod("web", space.bed.workers[0], SERVER), service("NodePort"))
    path = f"/api/v1/namespaces/{space.name}/services/front"
    found = space.bed.cluster.get(path)
    assert found is not None
    port = found["spec"]["ports"][0]["nodePort"]
    for address in found["spec"]["clusterIPs"]:
        fetch(space, "web", f"http://{url_host(address)}/")
        for node in space.bed.topology.nodes:
            assert space.bed.on_node(node.name, "curl", "-sSf", "-m", "5", f"http://{url_host(address)}/")
    for node in space.bed.topology.nodes:
        for address in node.addresses:
            with urllib.request.urlopen(f"http://{url_host(address)}:{port}/", timeout=5) as answer:
                assert answer.status == 200


def test_the_api_server_answers_in_pods_under_its_service_name(space: Space) -> None:
    space.start(pod("client", space.bed.workers[1]))
    script = (
        "d=/var/run/secrets/kubernetes.io/serviceaccount;"
        ' curl -sS -m 5 --cacert $d/ca.crt -H "Authorization: Bearer $(cat $d/token)"'
        " https://kubernetes.default.svc/version"
    )
    assert '"gitVersion": "v1.' in space.execute("client", "sh", "-c", script)


def test_logs_exec_and_attach_go_through_the_api_server(space: Space) -> None:
    space.start(pod("talker", space.bed.workers[0], ("sh", "-c", "echo first line; sleep 86400")))
    assert space.bed.cluster.kubectl("logs", "-n", space.name, "talker") == "first line\n"
    assert space.execute("talker", "hostname") == "talker\n"


def test_usage_is_counted(bed: Bed) -> None:
    path = "/apis/metrics.k8s.io/v1beta1/nodes"
    found = wait("metrics of both nodes", lambda: len(bed.cluster.items(path)) == 2 and bed.cluster.items(path), 60)
    assert {item["metadata"]["name"] for item in found} == set(bed.workers)
