"""The controller as a process on a real API server: a thousand machines at rest, two replicas, and its port's contract.

Berth is not installed on this cluster: there are no agents, and berth pods never start.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from berth.api import crd
from berth.effects.cluster import Cluster as Port
from berth.effects.kube import Kube
from berth.effects.memory_cluster import MemoryCluster
from berth.effects.ports_cluster import ClusterPort, Conflict, NotFound
from berth.plan import evacuation, incoming, moves
from berth.plan.acts import CreateBerth
from berth.plan.berthpod import berth_pod
from berth.plan.tell import Tell
from berth.plan.world import Cluster as Common
from berth.plan.world import Object, World, read_machine, read_pod
from testbed.kube import ROOT, wait
from tests.cluster.conftest import Bed

MACHINES = 1000
SPEC: Object = {"boot": {"kernel": {"image": "example.invalid/kernel:1"}}}
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Replica:
    """One controller process."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    @property
    def leads(self) -> bool:
        return self.get("/readyz").strip() == "leading"

    def metric(self, pattern: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", self.get("/metrics"), re.MULTILINE))

    def writes(self) -> float:
        return self.metric(r'berth_api_writes_total\{kind="(?:VirtualMachine|Pod)".*\}')

    def reconciles(self) -> float:
        return self.metric(r"berth_reconciles_total\{.*\}")

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=20)


Start = Callable[[str], Replica]


@pytest.fixture(scope="module")
def installed(bed: Bed) -> Bed:
    """The definitions and the controller's namespace."""
    bed.cluster.apply(*map(crd.definition, crd.KINDS))
    names = [f"crd/{kind.plural}.berth.dev" for kind in crd.KINDS]
    bed.cluster.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
    bed.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "berth-system"}})
    return bed


@pytest.fixture
def start(installed: Bed, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(name: str) -> Replica:
            health, log = free_port(), tmp_path / f"{name}.log"
            settings = {
                "KUBECONFIG": str(installed.settings.kubeconfig),
                "BERTH_POD_NAME": name,
                "BERTH_HEALTH_PORT": str(health),
                "BERTH_ENROLL_PORT": str(free_port()),
                "BERTH_EMULATION": "Always",
            }
            output = stack.enter_context(log.open("wb"))
            command = [sys.executable, "-m", "berth.controller"]
            process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, stderr=output)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return Replica(name, process, health, log)

        yield started


@pytest.fixture
def home(installed: Bed) -> Iterator[str]:
    """A namespace for one test's machines."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    installed.cluster.kubectl("create", "namespace", name)
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait("the service account", lambda: installed.cluster.get(account), 20)
    yield name
    installed.cluster.kubectl("delete", "virtualmachines", "-n", name, "--all", "--wait=false", seconds=120)
    installed.cluster.kubectl("delete", "namespace", name, "--wait=false")


def machine(name: str, namespace: str, **spec: Any) -> Object:
    head = {"apiVersion": "berth.dev/v1alpha1", "kind": "VirtualMachine"}
    return {**head, "metadata": {"name": name, "namespace": namespace}, "spec": {**SPEC, **spec}}


def leader(replica: Replica) -> Replica:
    wait(f"{replica.name} leads", lambda: replica.leads, 40, every=0.1)
    return replica


@pytest.mark.timeout(400)
def test_a_thousand_machines_at_rest_cost_a_new_controller_nothing(installed: Bed, start: Start, home: str) -> None:
    machines_off = [machine(f"vm{i}", home, power="Off") for i in range(MACHINES)]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": machines_off})
    installed.cluster.kubectl("create", "-f", "-", stdin=text, seconds=120)  # half of what `apply` asks and compares
    first = leader(start("one"))
    machines = f"/apis/berth.dev/v1alpha1/namespaces/{home}/virtualmachines"

    def at_rest() -> bool:
        found = installed.cluster.items(machines)
        return sum(vm.get("status", {}).get("phase") == "Stopped" for vm in found) == MACHINES

    wait("every machine says Stopped", at_rest, 240, every=3)
    assert first.stop() == 0
    begun = time.monotonic()
    second = leader(start("two"))
    leads = time.monotonic()
    wait("it has looked at every machine", lambda: second.reconciles() >= MACHINES, 60, every=0.05)
    quiet, cpu = time.monotonic(), second.cpu_seconds()
    print(f"leading after {leads - begun:.1f} s, quiet {quiet - leads:.1f} s later; {cpu:.1f} s of CPU in all")
    time.sleep(3)  # nothing may follow
    assert second.writes() == 0
    assert second.reconciles() == MACHINES
    assert second.rss_mib() <= 120
    assert second.stop() == 0


def test_a_leader_that_is_told_to_go_hands_over_at_once(start: Start) -> None:
    one = leader(start("one"))
    two = start("two")
    wait("the other stands by", lambda: two.get("/readyz").strip() == "standing by", 40)
    begun = time.monotonic()
    assert one.stop() == 0
    leader(two)
    assert time.monotonic() - begun < 8
    assert two.stop() == 0


@pytest.mark.timeout(180)
def test_a_leader_that_is_killed_is_followed_and_nothing_is_done_twice(installed: Bed, start: Start, home: str) -> None:
    one = leader(start("one"))
    two = start("two")
    installed.cluster.apply(machine("web", home))
    berth = f"/api/v1/namespaces/{home}/pods/berth-web"
    made: Any = wait("its berth", lambda: installed.cluster.get(berth), 20)
    one.process.kill()
    leader(two)
    wait("it was looked at", lambda: two.reconciles() >= 1, 20)
    again = installed.cluster.get(berth)
    assert again is not None
    assert again["metadata"]["uid"] == made["metadata"]["uid"]
    assert two.metric(r'berth_api_writes_total\{kind="Pod".*\}') == 0
    installed.cluster.kubectl("delete", "virtualmachine", "web", "-n", home, "--timeout=60s", seconds=70)
    wait("no berth is left", lambda: installed.cluster.get(berth) is None, 30)


class Both:
    """The contract's two sides: a port, and how a user makes a machine there."""

    def __init__(self, port: ClusterPort, make: Callable[[Object], Object]) -> None:
        self.port = port
        self.make = make


Contract = Callable[[Both, str], Awaitable[None]]


@pytest.mark.parametrize("side", ["memory", "kubernetes"])
async def test_both_clusters_keep_the_same_contract(installed: Bed, home: str, side: str) -> None:
    await keep(contract, installed, home, side)


@pytest.mark.parametrize("side", ["memory", "kubernetes"])
async def test_both_clusters_keep_the_same_contract_for_moves(installed: Bed, home: str, side: str) -> None:
    await keep(moves_contract, installed, home, side)


async def keep(contract: Contract, installed: Bed, home: str, side: str) -> None:
    if side == "memory":
        memory = MemoryCluster(lambda: datetime.now(UTC))

        def remember(obj: Object) -> Object:
            name, spec = obj["metadata"]["name"], obj["spec"]
            make = memory.apply_migration if obj["kind"] == "Migration" else memory.apply
            return make(home, name, spec)

        await contract(Both(memory, remember), home)
        return
    kube = Kube.connect(str(installed.settings.kubeconfig))
    try:

        def make(obj: Object) -> Object:
            installed.cluster.apply(obj)
            plural = f"{obj['kind'].lower()}s"
            where = f"/apis/berth.dev/v1alpha1/namespaces/{home}/{plural}/{obj['metadata']['name']}"
            found = installed.cluster.get(where)
            assert found is not None
            return found

        await contract(Both(Port(kube, "test"), make), home)
    finally:
        await kube.close()


async def moves_contract(both: Both, home: str) -> None:
    port, seen = both.port, read_machine(both.make(machine("web", home)))
    seen = replace(seen, labels={"app": "shop"})
    owner = await port.write_status(seen, {"epoch": 1, "berth": "berth-web"})
    version = owner["metadata"]["resourceVersion"]
    await port.write_status(seen, {"message": "news"}, version)
    with pytest.raises(Conflict):
        await port.write_status(seen, {"epoch": 2}, version)
    with pytest.raises(Conflict):  # also when it would change nothing
        await port.write_status(seen, {"epoch": 1}, version)

    body: Object = {"vm": "web", "target": {"nodeName": "n2"}, "bandwidth": "1G"}
    meta = {"name": "m", "namespace": home}
    obj = both.make({"apiVersion": "berth.dev/v1alpha1", "kind": "Migration", "metadata": meta, "spec": body})
    move = moves.read(obj)
    told = await port.write_migration_status(move, {"phase": "Scheduling", "phases": []})
    assert moves.read(told).underway
    with pytest.raises(Conflict):
        await port.write_migration_status(move, {"phase": "Preparing"})

    common = Common("example.invalid/berth:1")
    first = read_pod(await port.create_pod(berth_pod(seen, 1, common)))
    source = replace(first, node="n1")
    manifest = incoming.pod(World(datetime.now(UTC), seen, common, pod=source), move, source)
    assert manifest is not None
    second = read_pod(await port.create_pod(manifest))
    assert (second.migration, second.came_from, second.epoch, second.gated) == (move.uid, ("n1", 1), 2, True)
    assert (first.gated, first.here, second.here) == (True, False, False)
    with pytest.raises(Conflict):
        await port.create_pod(manifest)  # one of each epoch
    assert read_pod(await port.set_here(home, second.name, second.uid, True)).here
    assert not read_pod(await port.set_here(home, second.name, second.uid, False)).here
    with pytest.raises(NotFound):
        await port.set_here(home, second.name, str(uuid.uuid4()), True)
    with pytest.raises(NotFound):
        await port.set_here(home, "never", second.uid, True)
    assert first.guarded
    assert not read_pod(await port.set_guard(home, first.name, first.uid, False)).guarded
    assert read_pod(await port.set_guard(home, first.name, first.uid, True)).guarded
    with pytest.raises(NotFound):
        await port.set_guard(home, first.name, str(uuid.uuid4()), False)
    for _ in range(2):  # done is done
        await port.create_guard(evacuation.guard(home))
        await port.create_migration(
            evacuation.migration(World(datetime(2026, 1, 1, tzinfo=UTC), seen, common, pod=first))
        )
    assert await port.machine(home, "never") is None
    assert await port.machine(home, "web") is not None
    for pod in (first, second):
        await port.delete_pod(home, pod.name, pod.uid)


async def contract(both: Both, home: str) -> None:
    port, obj = both.port, both.make(machine("web", home))
    seen, version = read_machine(obj), obj["metadata"]["resourceVersion"]
    kept = await port.set_finalizers(seen, ["berth.dev/berth"], version)
    assert kept["metadata"]["finalizers"] == ["berth.dev/berth"]
    with pytest.raises(Conflict):
        await port.set_finalizers(seen, [], version)  # it has changed meanwhile
    told = await port.write_status(seen, {"phase": "Pending", "epoch": 1, "node": "n"})
    assert int(told["metadata"]["resourceVersion"]) > int(version)
    assert "node" not in (await port.write_status(seen, {"node": None}))["status"]
    assert (home, "web") in await port.machine_names()

    create = CreateBerth(berth_pod(seen, 1, Common("example.invalid/berth:1")), 1, "")
    made = read_pod(await port.create_pod(create.manifest))
    assert (made.owner_uid, made.machine_name, made.epoch) == (seen.uid, "web", 1)
    with pytest.raises(Conflict):
        await port.create_pod(create.manifest)
    found = await port.pod(home, made.name)
    assert found is not None
    assert read_pod(found).uid == made.uid
    await port.tell(seen, Tell("Started", "it runs"))
    assert isinstance(await port.pod_events(home, made.name, made.uid), list)
    await port.delete_pod(home, made.name, str(uuid.uuid4()))  # another pod of that name is not ours to delete
    found = await port.pod(home, made.name)
    assert found is not None
    assert read_pod(found).deleted is None
    await port.delete_pod(home, made.name, made.uid)
    async with asyncio.timeout(90):  # a kubelet may have had it already
        for _ in iter(int, 1):
            if await port.pod(home, made.name) is None:
                break
            await asyncio.sleep(0.2)
    assert await port.delete_pod(home, made.name, made.uid) is None
    assert await port.node("no-such-node") is None
    await port.set_finalizers(seen, [], (await port.write_status(seen, {"epoch": 2}))["metadata"]["resourceVersion"])
    gone = read_machine({**obj, "metadata": {**obj["metadata"], "name": "never"}})
    with pytest.raises(NotFound):
        await port.write_status(gone, {"epoch": 1})
