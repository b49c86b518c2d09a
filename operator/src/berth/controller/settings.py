"""The controller's settings, from BERTH_… environment variables (the chart sets them); read once by main.py.

A wrong value ends the controller at once with every wrong variable named.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from berth.api.order import Emulation
from berth.errors import InvalidSpec
from berth.plan.cpu_baseline import FLOOR, FLOORS
from berth.plan.hosts import Host
from berth.plan.moves import Limits
from berth.plan.world import Cluster

PREFIX: Final = "BERTH_"
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseModel):
    """Each field ``some_name`` is the variable BERTH_SOME_NAME."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    namespace: str = Field("berth-system", min_length=1, max_length=63)
    pod_name: str = Field(default_factory=socket.gethostname)  # names this replica in the Lease and in Events
    service_name: str = "berth-controller"
    agent_service_account: str = "berth-agent"
    agent_selector: str = "app.kubernetes.io/name=berth,app.kubernetes.io/component=agent"
    image: str = Field("ghcr.io/berth-dev/berth:0.1.0", min_length=1)  # of the berth pods
    image_pull_policy: str = Field("IfNotPresent", pattern=r"^(Always|IfNotPresent|Never)$")
    emulation: Emulation = Emulation.NEVER
    label_nodes: bool = True
    agent_port: Port = 8553
    enroll_port: Port = 8443
    health_port: Port = 8080
    migrations_per_node: int = Field(2, ge=1, le=1000)
    migrations_per_cluster: int = Field(5, ge=1, le=10000)
    cpu_floor: str = Field(FLOOR, pattern=rf"^({'|'.join(FLOORS)})$")  # nodes that lack of it are left out
    door_seconds: int = Field(3600, ge=0, le=604800)  # so long a berth that its guest left may be a door
    lease_name: str = "berth-controller"
    lease_seconds: int = Field(12, ge=3, le=300)  # so long after a leader's last word another may take over
    workers: int = Field(16, ge=1, le=256)  # machines worked on at the same time
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")
    log_format: str = Field("json", pattern=r"^(json|text)$")

    @property
    def server_names(self) -> tuple[str, ...]:
        """What the enrolment server is called: the first is what agents verify."""
        host = f"{self.service_name}.{self.namespace}.svc"
        return host, self.service_name, f"{host}.cluster.local"

    def cluster(
        self,
        kvm: tuple[tuple[str, bool, str], ...] = (),
        nodes: tuple[str, ...] = (),
        cordoned: frozenset[str] = frozenset(),
        hosts: tuple[Host, ...] = (),
        settled: bool = True,
    ) -> Cluster:
        """The part that plans read."""
        known = (kvm, nodes, cordoned, self.door_seconds, hosts, settled, self.cpu_floor)
        return Cluster(self.image, self.image_pull_policy, self.emulation, *known)

    @property
    def limits(self) -> Limits:
        """How many machines may move at a time."""
        return Limits(self.migrations_per_node, self.migrations_per_cluster)


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Settings out of os.environ; InvalidSpec names every variable that is wrong."""
    given = {k.removeprefix(PREFIX).lower(): v for k, v in environment.items() if k.startswith(PREFIX) and v != ""}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        wrong = [(f"{PREFIX}{str(e['loc'][0]).upper()}", e) for e in error.errors()]
        problem = "; ".join(f"{name}: {e['msg']}" for name, e in wrong)
        given_text = ", ".join(f"{name}={e['input']!r}" for name, e in wrong if e["type"] != "missing")
        raise InvalidSpec("environment", problem, given=given_text or None) from error
