"""A guest's network against a pod's on the same path and against a bare tap: throughput, latency, connections; an
overlay; resume to packet.

Client and servers stand on different nodes. The pod speaks the tiny guest's own little protocols (a line is run as a
command on port 7002, bytes come back on 7001), so that the client is the same program for both.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass

from rich.table import Table

from benchmarks import baretap
from testbed.kube import Cluster, Json, Machine, tiny, wait

SERVER = (
    "socat TCP6-LISTEN:7001,fork,reuseaddr PIPE & exec socat TCP6-LISTEN:7002,fork,reuseaddr SYSTEM:'read l; eval $l'"
)
CLIENT = r"""
import json, socket, sys, time
host, size, trips, connects = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def stat():
    with open("/proc/stat") as f:
        words = f.readline().split()[1:]
    return sum(map(int, words)) - int(words[3]) - int(words[4])
def open_to(port):
    line = socket.create_connection((host, port), 10)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line
busy, began, got = stat(), time.monotonic(), 0
with open_to(7002) as line:
    line.sendall(f"head -c {size} /dev/zero\n".encode())
    while got < size and (chunk := line.recv(1 << 18)):
        got += len(chunk)
took = time.monotonic() - began
cpu = (stat() - busy) / 100
times = []
with open_to(7001) as line:
    for _ in range(trips):
        at = time.monotonic()
        line.sendall(b"x")
        line.recv(1)
        times.append(time.monotonic() - at)
at = time.monotonic()
for _ in range(connects):
    with open_to(7001) as line:
        line.sendall(b"x")
        line.recv(1)
rate = connects / (time.monotonic() - at)
times.sort()
print(json.dumps({"megabits": got * 8 / took / 1e6, "cpu": cpu / (got * 8 / 1e9), "ms": 1000 * times[len(times) // 2],
                  "connects": rate}))
"""


GAP = r"""
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000), 10) as line:
    line.recv(1)
    print("connected", flush=True)
    last = time.monotonic()
    while line.recv(4096):  # a line every few milliseconds, until there is none for a while
        now = time.monotonic()
        if now - last > 0.5:
            print(time.time())
            break
        last = now
"""


@dataclass(frozen=True, slots=True)
class Path:
    """What one way to a server carries."""

    name: str
    megabits: float  # a second, to the client
    ms: float  # median of a byte there and back
    connects: float  # connections a second, one after the other, each with a byte there and back
    cpu: float  # CPU seconds of the whole machine per gigabit


def measure(cluster: Cluster, namespace: str, nodes: list[str], size: int) -> tuple[list[Path], float]:
    """The paths, the pod's first, which is the floor; and how long a paused guest takes to its next packet."""
    client, server = (
        _pod(cluster, namespace, "client", nodes[0], "sleep 3600"),
        _pod(cluster, namespace, "server", nodes[1], SERVER),
    )
    found = [_path(cluster, namespace, client, "pod ↔ pod", _ip(cluster, namespace, server), size)]
    found.append(_by_hand(cluster, namespace, client, server, size))
    bare = baretap.measure(cluster, namespace, nodes[1], CLIENT, *_load(size))
    found.append(Path("node ↔ guest, bare tap", **json.loads(bare)))
    network: Json = {"apiVersion": "berth.dev/v1alpha1", "kind": "Network", "metadata": {"name": "bench"},
                     "spec": {"overlay": {}, "ipv4": {"range": "10.66.0.0/24"}}}  # fmt: skip
    cluster.apply(network, namespace=namespace)
    nics: list[Json] = [{"name": "default", "pod": {}}, {"name": "lan", "network": {"name": "bench"}}]
    guests = []
    for number, node in enumerate(nodes[:2]):
        place = {"nodeSelector": {"kubernetes.io/hostname": node}}
        cluster.apply(tiny(f"g{number}", nics=nics, placement=place), namespace=namespace)
        guests.append(Machine(cluster, namespace, f"g{number}"))
    for guest in guests:
        guest.wait_up(120)
    found.append(_path(cluster, namespace, server, "pod ↔ guest, pod IP, one node", guests[1].status()["ip"], size))
    found.append(_path(cluster, namespace, client, "pod ↔ guest, pod IP", guests[1].status()["ip"], size))
    found += _between(guests)
    return found, resume_to_packet(cluster, namespace, guests[1])


def resume_to_packet(cluster: Cluster, namespace: str, guest: Machine) -> float:
    """Seconds from `power: On` of a paused guest until its TCP stream goes on, through API, controller and agent."""
    address = guest.status()["ip"]
    words = ("exec", "-n", namespace, "client", "--", "python3", "-c", GAP, address)
    with subprocess.Popen(("kubectl", *words), stdout=subprocess.PIPE, env=cluster.environment, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "connected\n"
        guest.patch({"power": "Paused"})
        guest.wait_phase("Paused", 30)
        time.sleep(1)  # the silence that the reader is to notice
        asked = time.time()
        guest.patch({"power": "On"})
        return float(reader.stdout.readline()) - asked


def _by_hand(cluster: Cluster, namespace: str, client: str, server: str, size: int) -> Path:
    """A VXLAN between the two pods, made with three commands each: what an overlay can carry at best."""
    addresses = [_ip(cluster, namespace, pod) for pod in (client, server)]
    for number, pod in enumerate((client, server)):
        make = (
            f"ip link add vx type vxlan id 7 dstport 4799 local {addresses[number]} dev eth0"
            f" && bridge fdb append 00:00:00:00:00:00 dev vx dst {addresses[1 - number]}"
            f" && ip address add 10.99.0.{number + 1}/24 dev vx && ip link set vx up"
        )
        cluster.kubectl("exec", "-n", namespace, pod, "--", "sh", "-c", make)
    return _path(cluster, namespace, client, "pod ↔ pod, VXLAN by hand", "10.99.0.2", size)


def _between(guests: list[Machine]) -> list[Path]:
    """Guest to guest: over the overlay, and over the pod network for comparison; the way there and back by ping."""
    lan = next(nic for nic in guests[1].status()["nics"] if nic["name"] == "lan")["addresses"][0]
    found = []
    for name, address in (("guest ↔ guest, pod IPs", guests[1].status()["ip"]), ("guest ↔ guest, overlay", lan)):
        wait(
            f"{address} answers", lambda a=address: " 1 packets received" in guests[0].shell(f"ping -c 1 {a}||true"), 30
        )
        size, began = 4_000_000, time.monotonic()
        got = guests[0].shell(f"echo 'head -c {size} /dev/zero' | nc -w 60 {address} 7002 | wc -c", 90)
        took = time.monotonic() - began
        assert int(got.split()[-1]) >= size
        said = guests[0].shell(f"ping -q -i 0.05 -c 50 {address}", 60)
        average = float(said.rpartition("= ")[2].split("/")[1])
        found.append(Path(name, size * 8 / took / 1e6, average, 0.0, 0.0))
    return found


def _path(cluster: Cluster, namespace: str, client: str, name: str, address: str, size: int) -> Path:
    words = ("exec", "-n", namespace, client, "--", "python3", "-c", CLIENT, address, *_load(size))
    said = json.loads(cluster.kubectl(*words, seconds=300).splitlines()[-1])
    return Path(name, **said)


def _load(size: int) -> tuple[str, ...]:
    """The client's arguments after the address: bytes, bytes there and back, connections."""
    return str(size), "300", "100"


def _pod(cluster: Cluster, namespace: str, name: str, node: str, command: str) -> str:
    container: Json = {"name": "main", "image": "ghcr.io/berth-dev/testtools:dev", "command": ["sh", "-c", command],
                       "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}  # fmt: skip
    spec: Json = {"nodeSelector": {"kubernetes.io/hostname": node}, "containers": [container]}
    pod: Json = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                 "spec": {**spec, "terminationGracePeriodSeconds": 0}}  # fmt: skip
    cluster.apply(pod, namespace=namespace)
    cluster.kubectl("wait", "--for=condition=Ready", "-n", namespace, f"pod/{name}", "--timeout=60s", seconds=70)
    return name


def _ip(cluster: Cluster, namespace: str, pod: str) -> str:
    return str((cluster.get(f"/api/v1/namespaces/{namespace}/pods/{pod}") or {})["status"]["podIP"])


def table(paths: list[Path], resume: float) -> Table:
    """Each path, and what part of the floor it reaches."""
    floor = paths[0]
    out = Table(
        title="network; the floor is pod ↔ pod on the same path", caption=f"power On to the next packet: {resume:.2g} s"
    )
    for column in ("path", "Mbit/s", "÷ floor", "there and back", "× floor", "connects/s", "CPU s per Gbit"):
        out.add_column(column, justify="left" if column == "path" else "right")
    for path in paths:
        connects = f"{path.connects:.0f}" if path.connects else ""
        cpu = f"{path.cpu:.2f}" if path.cpu else ""
        out.add_row(path.name, f"{path.megabits:.0f}", f"{path.megabits / floor.megabits:.3f}", f"{path.ms:.2f} ms",
                    f"{path.ms / floor.ms:.1f}", connects, cpu)  # fmt: skip
    return out
