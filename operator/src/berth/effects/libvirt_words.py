"""libvirt's numbers → the words of our ports: states, reasons, events, errors. Used by hypervisor.py and its like."""

from __future__ import annotations

from typing import Any, Final

import libvirt

from berth.domain.observed import DomainState
from berth.effects.ports import DomainEvent, DomainEventKind
from berth.errors import BerthError, HostFault, HypervisorDown

_STATES: Final = {
    libvirt.VIR_DOMAIN_NOSTATE: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.SHUTTING_DOWN,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.CRASHED,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUTOFF,
}
_PAUSED: Final = (
    "unknown", "user", "migration", "save", "dump", "ioerror", "watchdog", "from snapshot", "shutting down", "snapshot",
    "crashed", "starting up", "post-copy", "post-copy failed", "api error",
)  # fmt: skip
_KINDS: Final = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: (DomainEventKind.STARTED, ("booted", "migrated", "restored", "from snapshot")),
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: (DomainEventKind.SUSPENDED, ("paused", "migrated", "ioerror", "watchdog")),
    libvirt.VIR_DOMAIN_EVENT_RESUMED: (DomainEventKind.RESUMED, ("unpaused", "migrated", "from snapshot")),
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: (DomainEventKind.SHUTDOWN, ("finished", "guest", "host")),
    libvirt.VIR_DOMAIN_EVENT_STOPPED: (
        DomainEventKind.STOPPED,
        ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot"),
    ),
    libvirt.VIR_DOMAIN_EVENT_CRASHED: (DomainEventKind.CRASHED, ("panicked", "crashloaded")),
}
_CONNECTION_CODES: Final = frozenset(
    {libvirt.VIR_ERR_RPC, libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_AUTH_FAILED}
)
_REFUSED_CODES: Final = frozenset(
    {libvirt.VIR_ERR_XML_ERROR, libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_XML_INVALID_SCHEMA,
     libvirt.VIR_ERR_XML_DETAIL, libvirt.VIR_ERR_NO_SUPPORT}
)  # fmt: skip
_GONE_CODES: Final = frozenset({libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID})


def state(number: int, reason: int) -> tuple[DomainState, str]:
    """The state, and for a pause the reason; a number newer than this table counts as running: it is there."""
    word = _PAUSED[reason] if number == libvirt.VIR_DOMAIN_PAUSED and 0 <= reason < len(_PAUSED) else ""
    return _STATES.get(number, DomainState.RUNNING), word


def lifecycle(uid: str, number: int, detail: int) -> DomainEvent | None:
    """A lifecycle event in our words; None for those that transient domains of Berth's do not have."""
    if number not in _KINDS:
        return None
    kind, words = _KINDS[number]
    return DomainEvent(uid, kind, words[detail] if 0 <= detail < len(words) else str(detail))


def is_gone(error: Any) -> bool:
    """Whether the domain, or what QEMU was for it, is not there any more."""
    return error.get_error_code() in _GONE_CODES


def is_connection(error: Any) -> bool:
    """Whether it was not the question that failed but the connection to libvirtd."""
    code, domain = error.get_error_code(), error.get_error_domain()
    return code in _CONNECTION_CODES or (domain == libvirt.VIR_FROM_RPC and code != libvirt.VIR_ERR_NO_SUPPORT)


def translate(error: Any, what: str) -> BerthError:
    """libvirt's error → one of ours; ``what`` says what was tried. The caller chains the cause."""
    text = (error.get_error_message() or str(error)).strip()
    if is_connection(error):
        return HypervisorDown(f"{what}: libvirtd does not answer: {text}; it is tried again by itself")
    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
        return HostFault(f"{what}: the domain is not there any more: {text}", reason="DomainGone")
    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
        return HostFault(f"{what}: not possible in its present state: {text}", reason="WrongState")
    if error.get_error_code() in _REFUSED_CODES:
        return HostFault(f"{what}: this node's libvirt refuses the machine: {text}", reason="DomainRefused")
    if "Cannot allocate memory" in text or error.get_error_code() == libvirt.VIR_ERR_NO_MEMORY:
        return HostFault(f"{what}: the node has not enough memory for it: {text}", reason="OutOfMemory")
    return HostFault(f"{what}: {text}", reason="HypervisorError")
