"""Watches policies, pods and namespaces and keeps each node's nftables as rules.py says. Run by `testbed up`.

    python -m testbed.policy HEALTH_PORT FAMILIES NODE…

FAMILIES are ip, ip6 or both with a comma between: another engine may enforce the other family.
When it ends, the rules stay: a cluster that lost its engine must not become an open one.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed import errors, settings
from testbed.cluster import api
from testbed.policy import rules

PATHS = {
    "policies": "/apis/networking.k8s.io/v1/networkpolicies",
    "pods": "/api/v1/pods",
    "namespaces": "/api/v1/namespaces",
}
GATHER_SECONDS = 0.05  # many changes come together
RETRY_SECONDS = 1.0
LOOK_SECONDS = 2.0  # how soon a node that was made anew is noticed


class Watched:
    """The newest objects of every kind; `changed` is set with each change."""

    def __init__(self, families: Sequence[str] = ("ip", "ip6")) -> None:
        self.families = families
        self.changed = threading.Event()
        self.known: dict[str, dict[str, Mapping[str, Any]]] = {}

    def complete(self) -> bool:
        return set(self.known) == set(PATHS)

    def world(self) -> rules.World:
        found = rules.World(**{kind: list(self.known[kind].values()) for kind in PATHS})
        return rules.of_families(found, self.families)

    def follow(self, client: api.Client, kind: str) -> None:
        """List, then watch, for ever; whatever breaks begins again with the list."""
        while True:
            try:
                listed = client.get(PATHS[kind])
                self.known[kind] = {item["metadata"]["uid"]: item for item in listed["items"]}
                self.changed.set()
                for event in client.watch(PATHS[kind], listed["metadata"]["resourceVersion"]):
                    self._take(kind, event)
            except errors.TestbedError as error:
                print(f"{kind}: {error}", flush=True)
                time.sleep(RETRY_SECONDS)

    def _take(self, kind: str, event: Mapping[str, Any]) -> None:
        if event["type"] == "ERROR":
            raise errors.NotReady(str(event["object"].get("message")))
        uid = event["object"]["metadata"]["uid"]
        objects = dict(self.known[kind])
        if event["type"] == "DELETED":
            objects.pop(uid, None)
        else:
            objects[uid] = event["object"]
        self.known[kind] = objects  # a new one: the other thread may be reading the old one
        self.changed.set()


class Nodes:
    """What was loaded where. A node that was made anew has another namespace file and nothing of ours."""

    def __init__(self, names: list[str], load: Callable[[str, str], bool]) -> None:
        self.names, self.load = names, load
        self.loaded: dict[str, tuple[int, str]] = {}

    def settle(self, world: rules.World) -> bool:
        """Load what differs; False when a node did not take it."""
        good = True
        for name in self.names:
            identity = _identity(name)
            wanted = (identity, rules.ruleset(world, name))
            if identity and self.loaded.get(name) != wanted:
                if self.load(name, wanted[1]):
                    self.loaded[name] = wanted
                else:
                    good = False
        return good


def _identity(node: str) -> int:
    try:
        return os.stat(Path("/run/netns") / node).st_ino
    except FileNotFoundError:
        return 0


def load(node: str, text: str) -> bool:
    command = ["nsenter", f"--net=/run/netns/{node}", "nft", "-f", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{node}: {done.stderr}\n{text}", flush=True)
    return done.returncode == 0


def serve_health(port: int) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main(words: list[str]) -> None:
    """Healthy from the moment the first rules are loaded."""
    port, families, *names = words
    client, watched, nodes = api.connect(settings.load()), Watched(families.split(",")), Nodes(names, load)
    for kind in PATHS:
        threading.Thread(target=watched.follow, args=(client, kind), daemon=True).start()
    healthy = False
    while True:
        if watched.changed.wait(LOOK_SECONDS):
            time.sleep(GATHER_SECONDS)
        watched.changed.clear()
        if not watched.complete():
            continue
        if not nodes.settle(watched.world()):
            time.sleep(RETRY_SECONDS)
            watched.changed.set()
        elif not healthy:
            healthy = True
            threading.Thread(target=serve_health, args=(int(port),), daemon=True).start()
