"""What tests and benchmarks say to the cluster: kubectl as a user would, plain JSON reads, waits with a deadline."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from kubernetes import client, config

from testbed.guests import TINY_ARGS

Json = dict[str, Any]
T = TypeVar("T")
ROOT = Path(__file__).parents[1]
VMS = "/apis/berth.dev/v1alpha1/namespaces/{ns}/virtualmachines"
SYSTEM = "berth-system"


class NotInTime(AssertionError):
    """A condition did not come true before its deadline; the message carries what was last seen."""


def wait(what: str, probe: Callable[[], T], seconds: float, every: float = 0.2) -> T:
    """Ask ``probe`` until it answers with something true, and return that; NotInTime with the last answer otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise NotInTime(f"{what}: not within {seconds:.0f} s; last seen: {answer!r}")
        time.sleep(every)


@dataclass(frozen=True)
class Cluster:
    """One cluster, reached as its administrator."""

    kubeconfig: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def run(self, *command: str, stdin: str | None = None, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command with this cluster's KUBECONFIG; the exit code is the caller's to judge."""
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=seconds, env=self.environment, check=False
        )

    def kubectl(self, *words: str, stdin: str | None = None, seconds: float = 60) -> str:
        """kubectl that must succeed."""
        done = self.run("kubectl", *words, stdin=stdin, seconds=seconds)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def berth(self, *words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """The project's own command line."""
        return self.run(sys.executable, "-m", "berth.cli", *words, seconds=seconds)

    def testbed(self, *words: str, seconds: float = 120) -> str:
        """The tool that runs the cluster: to break its parts."""
        done = subprocess.run(
            [sys.executable, "-m", "testbed", *words],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, f"testbed {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def on_node(self, node: str, *command: str, seconds: float = 60) -> str:
        """Run a command in a node's namespaces."""
        return self.testbed("node-exec", node, "--", *command, seconds=seconds)

    def signal(self, node: str, signal: str, *match: str) -> None:
        """Signal the node's processes that match, in pkill's words; nodes are told apart by their network."""
        inside = 'exec pkill --ns $$ --nslist net "$@"'
        self.on_node(node, "sh", "-c", inside, "sh", f"-{signal}", *match)

    def api(self) -> client.ApiClient:
        configuration = client.Configuration()
        config.load_kube_config(str(self.kubeconfig), client_configuration=configuration)
        return client.ApiClient(configuration)

    def get(self, path: str) -> Json | None:
        """An object or list by its API path; None when there is none."""
        status, text = self._ask(path)
        if status == 404:
            return None
        assert status == 200, f"GET {path}: {status}: {text[:500]}"
        return dict(json.loads(text))

    def log(self, namespace: str, pod: str) -> str:
        """As `kubectl logs` has it, at a tenth of the cost: tests ask again and again. Empty while there is none."""
        status, text = self._ask(f"/api/v1/namespaces/{namespace}/pods/{pod}/log")
        return text if status == 200 else ""

    def _ask(self, path: str) -> tuple[int, str]:
        api = _api(self)
        request = api.param_serialize("GET", path, header_params={"Accept": "*/*"}, auth_settings=["BearerToken"])
        answer = api.call_api(*request)
        return answer.status, answer.read().decode(errors="replace")

    def items(self, path: str) -> list[Json]:
        answer = self.get(path)
        return [] if answer is None else list(answer["items"])

    def apply(self, *manifests: Json, namespace: str | None = None) -> str:
        text = "---\n".join(yaml.safe_dump(m) for m in manifests)
        return self.kubectl("apply", *(["-n", namespace] if namespace else []), "-f", "-", stdin=text)

    def agent_pod(self, node: str) -> Json:
        pods = self.items(f"/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io/component%3Dagent")
        found = [p for p in pods if p["spec"].get("nodeName") == node and "deletionTimestamp" not in p["metadata"]]
        assert found, f"no agent pod on {node}"
        return found[0]


_clients: dict[Path, client.ApiClient] = {}


def _api(cluster: Cluster) -> client.ApiClient:
    if cluster.kubeconfig not in _clients:
        _clients[cluster.kubeconfig] = cluster.api()
    return _clients[cluster.kubeconfig]


def tiny(name: str, *, args: str = "", **spec: Any) -> Json:
    """The tiny guest as a manifest; ``spec`` is merged over it."""
    kernel = {
        "image": "ghcr.io/berth-dev/guest-tiny:dev",
        "initrdPath": "/boot/initrd",
        "args": f"{TINY_ARGS} {args}".strip(),
    }
    base: Json = {"memory": {"size": "128Mi"}, "boot": {"kernel": kernel}, "shutdown": {"gracePeriodSeconds": 20}}
    return {
        "apiVersion": "berth.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {**base, **spec},
    }


def away_from(node: str) -> Json:
    """A placement on any other node."""
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node]}]}
    required = {"nodeSelectorTerms": [term]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


@dataclass(frozen=True)
class Machine:
    """One VirtualMachine under test."""

    cluster: Cluster
    namespace: str
    name: str

    @property
    def path(self) -> str:
        return f"{VMS.format(ns=self.namespace)}/{self.name}"

    def object(self) -> Json | None:
        return self.cluster.get(self.path)

    def status(self) -> Json:
        found = self.object()
        return {} if found is None else dict(found.get("status") or {})

    def phase(self) -> str:
        return str(self.status().get("phase", ""))

    def condition(self, kind: str) -> Json:
        return next((c for c in self.status().get("conditions", []) if c["type"] == kind), {})

    def wait_phase(self, phase: str, seconds: float = 40) -> Json:
        """Wait for a phase and return the status that showed it."""

        def probe() -> Json | None:
            status = self.status()
            return status if status.get("phase") == phase else None

        try:
            return wait(f"{self.name} is {phase}", lambda: probe() or {}, seconds)
        except NotInTime as error:
            raise NotInTime(f"{error}; status: {json.dumps(self.status(), indent=1)}; {self.log()[-2000:]}") from None

    def wait_condition(self, kind: str, status: str, reason: str | None = None, seconds: float = 10) -> Json:
        """Wait until the machine itself says it: a condition with this status (and reason)."""

        def probe() -> Json:
            c = self.condition(kind)
            return c if c.get("status") == status and reason in (None, c.get("reason")) else {}

        try:
            return wait(f"{self.name}: {kind}={status} {reason or ''}", probe, seconds)
        except NotInTime as error:
            raise NotInTime(f"{error}; status: {json.dumps(self.status(), indent=1)}") from None

    def wait_up(self, seconds: float = 60) -> Json:
        """Wait until the guest's own user space has answered on its console and its address."""
        status = self.wait_phase("Running", seconds)
        wait(f"{self.name}'s first line", lambda: "berth-guest: ip" in self.log(), seconds)
        return status

    def berth(self) -> Json | None:
        name = self.status().get("berth")
        return self.cluster.get(f"/api/v1/namespaces/{self.namespace}/pods/{name}") if name else None

    def berth_does(self, command: str, *words: str, seconds: int = 90) -> str:
        """A command of `berth` about this machine, carried out to its end; what it says."""
        wait_for = ("-n", self.namespace, "--wait", "--timeout", str(seconds))
        done = self.cluster.berth(command, self.name, *words, *wait_for)
        if done.returncode != 0:
            raise AssertionError(f"berth {command} {self.name}: {done.stdout}{done.stderr}")
        return done.stdout

    def log(self) -> str:
        """The guest's serial console, as `kubectl logs` shows it."""
        name = self.status().get("berth")
        return self.cluster.log(self.namespace, name) if name else ""

    def patch(self, spec: Json) -> None:
        body = json.dumps({"spec": spec})
        self.cluster.kubectl("patch", "vm", self.name, "-n", self.namespace, "--type=merge", "-p", body)

    def attach(self) -> AbstractContextManager[Terminal]:
        """`kubectl attach -it` to the serial console."""
        pod = str(self.status()["berth"])
        return terminal(self.cluster, "kubectl", "attach", "-it", "-n", self.namespace, pod)

    def delete(self, *words: str) -> None:
        self.cluster.kubectl("delete", "vm", self.name, "-n", self.namespace, *words, seconds=120)

    def http(self, path: str = "/") -> str:
        """Ask the guest's web server by its pod IP, from another pod."""
        return in_client(self.cluster, "wget", "-T", "5", "-qO-", f"http://{self.status()['ip']}{path}")

    def shell(self, command: str, seconds: float = 30) -> str:
        """Run one line in the guest's shell, through the pod network; returns its output and insists on success."""
        send = f"nc -w {seconds:.0f} {self.status()['ip']} 7002"
        words = ("exec", "-i", "-n", CLIENT[0], CLIENT[1], "--", "sh", "-c", send)
        output = self.cluster.kubectl(*words, stdin=f"{command}\n", seconds=seconds + 30)
        text, _, code = output.rpartition("exit ")
        assert code.strip() == "0", f"{self.name}: {command}: {output}"
        return text

    def ips(self) -> list[str]:
        """The addresses of the berth's pod, IPv4 first."""
        return [entry["ip"] for entry in (self.berth() or {})["status"]["podIPs"]]

    def boot_id(self) -> str:
        """The guest kernel's boot id: it changes exactly when the guest was booted anew."""
        return next(line.split()[-1] for line in self.http().splitlines() if line.startswith("boot_id"))

    def events(self) -> list[Json]:
        selector = f"involvedObject.name%3D{self.name}"
        return self.cluster.items(f"/api/v1/namespaces/{self.namespace}/events?fieldSelector={selector}")


CLIENT = ("berth-e2e", "client")


@contextmanager
def terminal(cluster: Cluster, *command: str) -> Iterator[Terminal]:
    """A command on a terminal of its own, as a person has it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=cluster.environment)
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        yield Terminal(ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@dataclass
class Terminal:
    """What the screen has shown so far, and a keyboard."""

    descriptor: int
    screen: str = ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def shows(self, text: str) -> bool:
        try:
            while chunk := os.read(self.descriptor, 65536):
                self.screen += chunk.decode(errors="replace")
        except OSError:
            pass  # nothing more has come, or the command has ended
        return text in self.screen

    def ask(self, line: str, answer: str, seconds: float = 30) -> None:
        """Type a line again and again until the answer shows: the first may come before the other side listens."""

        def probe() -> bool:
            if self.shows(answer):
                return True
            self.type(f"{line}\r")
            return self.shows(answer)

        try:
            wait(f"{answer!r} on the terminal", probe, seconds, every=1)
        except NotInTime as error:
            raise NotInTime(f"{error}; the screen: {self.screen[-2000:]}") from None


def in_client(cluster: Cluster, *command: str, seconds: float = 60) -> str:
    """Run a command in the tests' own pod."""
    return cluster.kubectl("exec", "-n", CLIENT[0], CLIENT[1], "--", *command, seconds=seconds)


@contextmanager
def stream(machine: Machine, address: str | None = None) -> Iterator[Stream]:
    """A TCP stream from the guest's counter on port 7000, read inside the client pod for as long as the block lasts.

    Through the machine's pod IP, or through another address that leads there.

    The reader runs in the pod on its own: it must not depend on the API server or kubelet that a test restarts.
    """

    def in_pod(script: str) -> str | None:
        words = ("exec", "-n", CLIENT[0], CLIENT[1], "--", "sh", "-c", script)
        done = machine.cluster.run("kubectl", *words)
        return done.stdout if done.returncode == 0 else None

    with _stream(in_pod, address or machine.status()["ip"]) as numbers:
        yield numbers


@contextmanager
def stream_between(reader: Machine, address: str) -> Iterator[Stream]:
    """The same, read inside another guest: from whatever address the first has that the reader reaches."""

    def in_guest(script: str) -> str | None:
        try:
            return reader.shell(script)
        except (AssertionError, subprocess.TimeoutExpired):
            return None

    with _stream(in_guest, address) as numbers:
        yield numbers


Shell = Callable[[str], str | None]
"""Runs a script somewhere and returns its output; None when it could not be run or failed."""


@contextmanager
def _stream(shell: Shell, address: str) -> Iterator[Stream]:
    file = f"/tmp/stream-{uuid.uuid4().hex[:8]}"
    # Its input never ends: some kinds of nc tell the other side at once when there is nothing to send.
    reader = f"nc {address} 7000 <>{file}.in & echo $! >{file}.pid; wait; echo ended"
    assert shell(f"mkfifo {file}.in && ({reader}) >{file} 2>&1 </dev/null & echo started"), f"no reader of {address}"
    stop = f"kill $(cat {file}.pid); rm -f {file} {file}.*; echo stopped"
    try:
        yield Stream(lambda: shell(f"cat {file}"))
    finally:
        wait("the reader is stopped", lambda: shell(stop), 60)


@dataclass(frozen=True)
class Stream:
    """The numbers that came so far; the guest sends 1, 2, 3 … on each connection."""

    read: Callable[[], str | None]

    def newest(self) -> int:
        """The newest number, 0 while none can be read. Fails when the stream ended or a number is missing."""
        text = self.read()
        if text is None:
            return 0  # the way to the reader is what a test broke just now; the stream itself is read again afterwards
        lines = text.split("\n")[:-1]
        assert "ended" not in lines, f"the stream ended after {lines[-3:]}"
        numbers = [int(line.split()[0]) for line in lines]
        assert numbers == list(range(1, len(numbers) + 1)), "numbers are missing or doubled"
        return len(numbers)

    def goes_on(self, seconds: float = 20) -> None:
        """At least ten more numbers come than had come when the way to the reader was last open."""
        start = wait("the stream is read", self.newest, seconds)
        wait("the stream goes on", lambda: self.newest() >= start + 10, seconds)
