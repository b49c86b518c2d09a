"""libvirt's domain events → DomainEvent, on libvirt's event thread. Used by hypervisor.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt

from berth.effects import libvirt_words
from berth.effects.ports import DomainEvent, DomainEventKind

Take = Callable[[DomainEvent], None]


def subscribe(connection: Any, take: Take) -> None:
    """Register for all that Berth listens to; ``take`` must not block and must not call libvirt."""

    def lifecycle(_connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        found = libvirt_words.lifecycle(domain.UUIDString(), event, detail)
        if found is not None:
            take(found)

    def reboot(_connection: Any, domain: Any, _opaque: object) -> None:
        take(DomainEvent(domain.UUIDString(), DomainEventKind.REBOOTED))

    def agent(_connection: Any, domain: Any, state: int, _reason: int, _opaque: object) -> None:
        connected = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED
        take(DomainEvent(domain.UUIDString(), DomainEventKind.AGENT, "connected" if connected else "disconnected"))

    def device(_connection: Any, domain: Any, alias: str, _opaque: object) -> None:
        take(DomainEvent(domain.UUIDString(), DomainEventKind.DEVICE, alias))

    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
    for kind, callback in (
        (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reboot),
        (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, agent),
        (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, device),
        (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, device),
    ):
        connection.domainEventRegisterAny(None, kind, callback, None)
