"""Kubernetes' own shapes where a VirtualMachine carries them, passed on to the berth pod."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from berth.api.base import Lenient, Model, NextBoot, Rule, exactly_one

Opaque = dict[str, Any]
"""An object whose schema is Kubernetes' own: kept as it is (crd.py marks it x-kubernetes-preserve-unknown-fields)."""


class ObjectMeta(Lenient):
    """The part of metadata that Berth reads."""

    name: str = Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    namespace: str = "default"
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Placement(Model):
    """Where the machine may run, in the words of a pod's spec."""

    node_selector: Annotated[dict[str, str], NextBoot] = Field(
        default_factory=dict, max_length=64, description="Labels the node must have."
    )
    affinity: Annotated[Opaque, NextBoot] = Field(
        default_factory=dict, description="Nodes and machines to be near to or away from, as in a pod's spec."
    )
    tolerations: Annotated[list[Opaque], NextBoot] = Field(
        default_factory=list, max_length=64, description="Taints of nodes that are borne, as in a pod's spec."
    )
    topology_spread_constraints: Annotated[list[Opaque], NextBoot] = Field(
        default_factory=list, max_length=32, description="How alike machines are spread, as in a pod's spec."
    )
    priority_class_name: Annotated[str | None, NextBoot] = Field(
        None, max_length=253, description="The PriorityClass of its berth pod: who is evicted first."
    )


class HttpGet(Model):
    """An HTTP GET that must answer 200–399."""

    path: str = Field("/", max_length=1024, description="The path asked for.")
    port: int = Field(ge=1, le=65535, description="The guest's port.")
    scheme: str = Field("HTTP", pattern="^(HTTP|HTTPS)$", description="HTTP or HTTPS.")
    host: str | None = Field(None, max_length=253, description="Host to connect to. Default: the pod IP.")
    http_headers: list[HttpHeader] = Field(default_factory=list, max_length=32, description="Headers to send.")


class HttpHeader(Model):
    """A header that a probe sends."""

    name: str = Field(max_length=256, description="The header's name.")
    value: str = Field(max_length=4096, description="The header's value.")


class TcpSocket(Model):
    """A TCP port that must accept a connection."""

    port: int = Field(ge=1, le=65535, description="The guest's port.")
    host: str | None = Field(None, max_length=253, description="Host to connect to. Default: the pod IP.")


class Probe(Model):
    """A check of the guest by kubelet; exactly one of httpGet, tcpSocket."""

    model_config = ConfigDict(protected_namespaces=())

    http_get: HttpGet | None = Field(None, description="Ask a web server in the guest.")
    tcp_socket: TcpSocket | None = Field(None, description="Connect to a port of the guest.")
    initial_delay_seconds: int = Field(0, ge=0, le=86400, description="Wait this long before the first try.")
    period_seconds: int = Field(10, ge=1, le=86400, description="Try this often.")
    timeout_seconds: int = Field(1, ge=1, le=3600, description="A try that takes longer has failed.")
    success_threshold: int = Field(1, ge=1, le=1000, description="So many successes in a row make it good.")
    failure_threshold: int = Field(3, ge=1, le=10000, description="So many failures in a row make it bad.")

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("httpGet", "tcpSocket"),)


HttpGet.model_rebuild()
