"""A stand-in for the API server: enough of it for the command line, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Json = dict[str, Any]
VMS = "/apis/berth.dev/v1alpha1/namespaces/lab/virtualmachines"
MIGRATIONS = "/apis/berth.dev/v1alpha1/namespaces/lab/migrations"
SNAPSHOTS = "/apis/berth.dev/v1alpha1/namespaces/lab/snapshots"


LISTS = ("/migrations", "/snapshots", "/virtualmachines", "/events", "/services", "/networkpolicies", "/pods")


@dataclass
class Server:
    """``objects`` by path; ``on_patch`` may change them as a controller would."""

    objects: dict[str, Json] = field(default_factory=dict)
    patches: list[Json] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    on_patch: Callable[[Server], None] = lambda server: None
    on_look: Callable[[Server], None] = lambda server: None
    kubeconfig: Path = Path()

    def put(self, name: str, spec: Json | None = None, status: Json | None = None, generation: int = 1) -> Json:
        meta = {"name": name, "namespace": "lab", "generation": generation, "creationTimestamp": "2026-01-01T00:00:00Z"}
        vm: Json = {"metadata": meta, "spec": {"power": "On", "cpu": {"count": 1}, **(spec or {})}}
        if status is not None:
            vm["status"] = status
        self.objects[f"{VMS}/{name}"] = vm
        return vm

    def answer(self, method: str, path: str, body: Json | None) -> tuple[int, Json]:
        where = urlsplit(path).path
        if method == "POST" and body is not None:
            if f"{where}/{body['metadata']['name']}" in self.objects:
                return 409, {"message": f"{body['metadata']['name']!r} already exists"}
            self.objects[f"{where}/{body['metadata']['name']}"] = body
            return 201, body
        if method == "GET" and where.startswith((f"{MIGRATIONS}/", f"{SNAPSHOTS}/")):
            self.on_look(self)
        if where.endswith(LISTS):
            return 200, {"items": [o for p, o in self.objects.items() if p.startswith(f"{where}/")]}
        if where not in self.objects:
            return 404, {"message": f"{where} not found"}
        if method == "PATCH" and body is not None:
            self.patches.append(body)
            self.objects[where]["spec"].update(body.get("spec", {}))
            annotations = body.get("metadata", {}).get("annotations", {})
            self.objects[where]["metadata"].setdefault("annotations", {}).update(annotations)
            self.on_patch(self)
        if method == "DELETE":
            self.deleted.append(path)
        return 200, self.objects[where]


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            code, answer = server.answer(self.command, self.path, json.loads(self.rfile.read(size)) if size else None)
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _any

        def log_message(self, format: str, *args: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # Its default is to look every half second whether it is to end, and each test waits for that.
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    server.kubeconfig = folder / "kubeconfig"
    server.kubeconfig.write_text(_kubeconfig(f"http://127.0.0.1:{http.server_port}"))
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def _kubeconfig(address: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "lab"}}],
            "current-context": "x",
        }
    )
