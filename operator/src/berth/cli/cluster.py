"""What the command line asks of the API server, as plain JSON. The only module here that knows the Kubernetes client,
which is imported when it is first needed: `berth render` starts without it."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from berth.api.base import GROUP, VERSION
from berth.api.migration import PLURAL as MIGRATIONS
from berth.api.snapshot import PLURAL as SNAPSHOTS
from berth.api.virtualmachine import PLURAL
from berth.errors import BerthError, Refused, Unavailable

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

Json = dict[str, Any]
SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster and namespace: kubectl's three options, already resolved."""

    namespace: str
    context: str | None
    kubeconfig: Path | None

    def kubectl(self, *words: str) -> list[str]:
        """The same choice as words for kubectl."""
        chosen = ["--context", self.context] if self.context else []
        chosen += ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        return ["kubectl", *chosen, "--namespace", self.namespace, *words]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server, as the user."""

    access: Access
    client: ApiClient

    def machine(self, name: str) -> Json:
        try:
            return self.call("GET", f"{self._machines()}/{name}")
        except NotThere as error:
            where = f"in namespace {self.access.namespace}"
            raise NotThere(f"there is no VirtualMachine {name!r} {where}; `berth list -A` shows all") from error

    def machines(self, everywhere: bool = False) -> list[Json]:
        path = f"/apis/{GROUP}/{VERSION}/{PLURAL}" if everywhere else self._machines()
        try:
            return list(self.call("GET", path)["items"])
        except NotThere as error:
            raise NotThere("this cluster does not know VirtualMachines; install Berth's chart first") from error

    def patch(self, name: str, body: Json) -> Json:
        return self.call("PATCH", f"{self._machines()}/{name}", body=body)

    def migrations(self) -> list[Json]:
        try:
            return list(self.call("GET", self._migrations())["items"])
        except NotThere:  # the chart of before
            return []

    def migration(self, name: str) -> Json:
        return self.call("GET", f"{self._migrations()}/{name}")

    def create_migration(self, body: Json) -> Json:
        return self.call("POST", self._migrations(), body=body, content="application/json")

    def patch_migration(self, name: str, body: Json) -> Json:
        return self.call("PATCH", f"{self._migrations()}/{name}", body=body)

    def snapshots(self) -> list[Json]:
        try:
            return list(self.call("GET", self._snapshots())["items"])
        except NotThere:  # the chart of before
            return []

    def snapshot(self, name: str) -> Json:
        try:
            return self.call("GET", f"{self._snapshots()}/{name}")
        except NotThere as error:
            where = f"in namespace {self.access.namespace}"
            raise NotThere(f"there is no Snapshot {name!r} {where}; `berth snapshots` shows all") from error

    def create_snapshot(self, body: Json) -> Json:
        return self.call("POST", self._snapshots(), body=body, content="application/json")

    def pod(self, name: str) -> Json | None:
        try:
            return self.call("GET", f"/api/v1/namespaces/{self.access.namespace}/pods/{name}")
        except NotThere:
            return None

    def delete_pod(self, name: str, grace: int) -> None:
        try:
            path = f"/api/v1/namespaces/{self.access.namespace}/pods/{name}?gracePeriodSeconds={grace}"
            self.call("DELETE", path)
        except NotThere:
            return

    def events(self, *names: str) -> list[Json]:
        """The Events about these objects, oldest first."""
        found: list[Json] = []
        for name in names:
            selector = f"involvedObject.name%3D{name}"
            path = f"/api/v1/namespaces/{self.access.namespace}/events?fieldSelector={selector}"
            found += self.call("GET", path)["items"]
        return sorted(found, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))

    def call(
        self, method: str, path: str, body: Json | None = None, content: str = "application/merge-patch+json"
    ) -> Json:
        """One request; errors are told in the user's terms. The client's pool knows the certificates, this the words:
        the generated methods differ from one release of the client to the next."""
        from urllib3.exceptions import HTTPError

        configuration = self.client.configuration
        headers = {"Accept": "application/json", "Content-Type": content}
        headers |= {a["key"]: a["value"] for a in configuration.auth_settings().values() if a["in"] == "header"}
        data = None if body is None else json.dumps(body)
        try:
            answer = self.client.rest_client.pool_manager.request(
                method, f"{configuration.host}{path}", body=data, headers=headers, timeout=SECONDS, retries=False
            )
        except HTTPError as error:
            raise Unavailable(f"the API server at {configuration.host} does not answer: {error}") from error
        if answer.status >= 300:
            raise _told(answer.status, answer.data.decode(errors="replace"), method, path)
        found: Json = json.loads(answer.data)
        return found

    def _machines(self) -> str:
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.access.namespace}/{PLURAL}"

    def _migrations(self) -> str:
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.access.namespace}/{MIGRATIONS}"

    def _snapshots(self) -> str:
        return f"/apis/{GROUP}/{VERSION}/namespaces/{self.access.namespace}/{SNAPSHOTS}"


class NotThere(Refused):
    """The API server knows no such object."""

    reason = "NotFound"


def connect(namespace: str | None, context: str | None, kubeconfig: Path | None) -> Cluster:
    """A client for the cluster that kubectl would ask with these options."""
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    warnings.filterwarnings("ignore", "Unverified HTTPS request")  # the kubeconfig says so, as kubectl does in silence
    configuration = client.Configuration()
    file = str(kubeconfig) if kubeconfig else None
    try:
        config.load_kube_config(file, context=context, client_configuration=configuration)
        chosen = namespace or _namespace(file, context)
    except (ConfigException, OSError) as error:
        raise BerthError(
            f"no cluster to ask: {str(error).rstrip(chr(46))}. Give --kubeconfig, or set KUBECONFIG."
        ) from error
    return Cluster(Access(chosen, context, kubeconfig), client.ApiClient(configuration))


def _namespace(file: str | None, context: str | None) -> str:
    from kubernetes import config

    contexts, active = config.list_kube_config_contexts(file)
    wanted = next((c for c in contexts if c["name"] == context), active)
    return str(wanted["context"].get("namespace") or "default")


def _told(status: int, body: str, method: str, path: str) -> BerthError:
    message = _message(body)
    if status == 404:
        return NotThere(message or f"{path} is not there")
    if status in (401, 403):
        return Refused(f"the API server does not let you: {message}. Ask for the role berth-edit or berth-view.")
    return Refused(f"the API server refuses {method} {path}: {message}")


def _message(body: str) -> str:
    try:
        return str(json.loads(body).get("message", body))
    except (ValueError, AttributeError):
        return body
