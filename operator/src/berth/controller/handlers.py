"""kopf's part: it watches VirtualMachines and rings the doorbell. The only module that knows kopf.

kopf keeps nothing on the objects (no finalizer, no annotation, no Event of its own): a handler for events alone needs
none of it, and none is ever retried. What is to be done is the reconcile's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import kopf

from berth.api.base import GROUP, VERSION
from berth.api.virtualmachine import PLURAL

Doorbell = Callable[[str, dict[str, Any]], None]
"""Told kopf's type of event ("" for the first list, ADDED, MODIFIED, DELETED) and the object."""


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{GROUP}")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"kopf.{GROUP}")
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 0.5
    settings.watching.inactivity_timeout = 120
    settings.networking.error_backoffs = (0.2, 0.5, 1, 2, *[3] * 1000)  # whether to give up is the lease's matter
    return settings


async def watch_machines(doorbell: Doorbell, stop: asyncio.Event, ready: asyncio.Event) -> None:
    """Watch all VirtualMachines of the cluster until told to stop."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(kopf.login_via_client)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def ring(event: kopf.RawEvent, **_: Any) -> None:
        doorbell(event["type"] or "", dict(event["object"]))

    identity: Any = "berth-controller"  # else kopf looks for a user name, and a container's uid may have none
    await kopf.operator(
        registry=registry,
        settings=_settings(),
        identity=identity,
        clusterwide=True,
        standalone=True,
        stop_flag=stop,
        ready_flag=ready,
    )
