"""The agent's settings, from BERTH_… environment variables (the chart sets them); read once by main.py.

A wrong value ends the agent at once with every wrong variable named.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from berth.errors import InvalidSpec

PREFIX = "BERTH_"
Port = Annotated[int, Field(ge=1, le=65535)]


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


class Settings(BaseModel):
    """Each field ``some_name`` is the variable BERTH_SOME_NAME."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    node_name: str = Field(min_length=1, max_length=253)
    host_ip: Annotated[str, AfterValidator(_address)]  # the API listens on this address only
    agent_port: Port = 8553
    peer_port: Port = 8555  # other nodes' agents call here, for machines that move
    health_port: Port = 8554  # on 127.0.0.1, plain HTTP
    enroll_url: str = Field("https://berth-controller.berth-system.svc/v1/enroll", pattern=r"^https://")
    enroll_server_name: str = ""  # the name in the controller's certificate, where the URL holds an address
    token_file: Path = Path("/var/run/secrets/berth.dev/token")
    ca_file: Path = Path("/etc/berth/ca/ca.crt")
    libvirt_uri: str = "qemu:///system"
    vms_folder: Path = Path("/run/berth/vms")
    overlay_port: Port = 14789  # UDP, between nodes: VXLAN
    segments_namespace: Path = Path("/run/berth/segments")  # a file; the segments' network namespace is mounted on it
    qemu_log_folder: Path = Path("/var/log/libvirt/qemu")
    uid_base: int = Field(1_900_000_000, ge=100_000, le=4_000_000_000)  # guests run under uids from here on
    uid_count: int = Field(65_536, ge=16)
    workers: int = Field(8, ge=1, le=64)  # machines worked on at the same time
    migration_cpus: int | None = Field(None, ge=0)  # that may compress a guest's memory; default: those that are idle
    log_level: str = Field("INFO", pattern=r"^(DEBUG|INFO|WARNING|ERROR)$")
    log_format: str = Field("json", pattern=r"^(json|text)$")


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Settings out of os.environ; InvalidSpec names every variable that is missing or wrong."""
    given = {k.removeprefix(PREFIX).lower(): v for k, v in environment.items() if k.startswith(PREFIX) and v != ""}
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        wrong = [(f"{PREFIX}{str(e['loc'][0]).upper()}", e) for e in error.errors()]
        problem = "; ".join(f"{name}: {e['msg']}" for name, e in wrong)
        given_text = ", ".join(f"{name}={e['input']!r}" for name, e in wrong if e["type"] != "missing")
        raise InvalidSpec("environment", problem, given=given_text or None) from error
