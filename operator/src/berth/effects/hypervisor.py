"""The Hypervisor port on libvirt: the agent's hands on its node's guests. Every call blocks; see ports.py.

libvirt's errors become ours here, once, with their cause chained. Nothing is decided here: that is plan/'s.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import libvirt

from berth.api.order import NicReport
from berth.api.virtualmachine import GuestInfo
from berth.domain import metadata
from berth.domain.host import EMULATOR, MACHINE
from berth.domain.observed import ObservedDomain
from berth.effects import (
    libvirt_abilities,
    libvirt_events,
    libvirt_guest,
    libvirt_migrate,
    libvirt_nics,
    libvirt_save,
    libvirt_words,
)
from berth.effects.libvirt_link import Link
from berth.effects.ports import Abilities, DomainEvent, DomainEventKind, HypervisorVersions
from berth.effects.ports_moving import TransferStats, Way
from berth.errors import HostFault

_FULL: Final = ("No space left on device", "Disk quota exceeded")
AGENT_SECONDS: Final = 2
"""How long qemu-guest-agent has for an answer: a guest can keep it back for ever."""


class Libvirt:
    """Hypervisor over one libvirtd. The live XML is kept: only what is done here changes it, and a device that goes."""

    start_flags = libvirt.VIR_DOMAIN_START_PAUSED
    button_flags = libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN

    def __init__(self, uri: str = "qemu:///system") -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._xml: dict[tuple[str, int], str] = {}
        self._turn = 0  # what was asked for before a change is not kept after it
        self._on_event: Callable[[DomainEvent], None] | None = None
        self._on_connection: Callable[[bool, str], None] | None = None
        self._link = Link(uri, self._subscribe, self._notify, _warm_up)

    def versions(self) -> HypervisorVersions:
        with self._asking("ask for versions") as connection:
            return HypervisorVersions(_version(connection.getLibVersion()), _version(connection.getVersion()))

    def abilities(self) -> Abilities:
        with self._asking("ask what QEMU can be") as connection:
            return libvirt_abilities.ask(connection)

    def domains(self) -> list[ObservedDomain]:
        with self._asking("list the domains") as connection:
            active = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            self._forget_others({(domain.UUIDString(), domain.ID()) for domain in active})
            return [observed for domain in active if (observed := self._observe(domain)) is not None]

    def domain(self, uid: str) -> ObservedDomain | None:
        with self._asking(f"look at domain {uid}") as connection:
            domain = _lookup(connection, uid)
            return None if domain is None else self._observe(domain)

    def create_paused(self, xml: str) -> None:
        with self._asking("start QEMU") as connection:
            try:
                connection.createXML(xml, self.start_flags)
            except libvirt.libvirtError as error:
                if not _exists(connection, xml, error):
                    raise

    def resume(self, uid: str) -> None:
        with self._asking(f"resume domain {uid}") as connection:
            domain = connection.lookupByUUIDString(uid)
            _unless_already(domain, domain.resume, libvirt.VIR_DOMAIN_RUNNING)

    def suspend(self, uid: str) -> None:
        with self._asking(f"suspend domain {uid}") as connection:
            domain = connection.lookupByUUIDString(uid)
            _unless_already(domain, domain.suspend, libvirt.VIR_DOMAIN_PAUSED)

    def press_power_button(self, uid: str) -> None:
        with self._asking(f"press the power button of domain {uid}") as connection, _gone_is_fine():
            connection.lookupByUUIDString(uid).shutdownFlags(self.button_flags)

    def destroy(self, uid: str) -> None:
        with self._asking(f"destroy domain {uid}") as connection, _gone_is_fine():
            connection.lookupByUUIDString(uid).destroy()

    def set_metadata(self, uid: str, order_json: str) -> None:
        with self._asking(f"record the order of domain {uid}") as connection:
            domain = connection.lookupByUUIDString(uid)
            kind, live = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
            text = metadata.to_text(order_json)
            try:
                domain.setMetadata(kind, text, metadata.PREFIX, metadata.NAMESPACE, live)
            finally:
                self._changed(uid)

    def plug_nic(self, uid: str, alias: str, xml: str) -> None:
        with self._asking(f"plug {alias} into domain {uid}") as connection:
            try:
                libvirt_nics.plug(connection.lookupByUUIDString(uid), alias, xml)
            finally:
                self._changed(uid)

    def unplug_nic(self, uid: str, alias: str) -> None:
        with self._asking(f"unplug {alias} from domain {uid}") as connection:
            try:
                libvirt_nics.unplug(connection.lookupByUUIDString(uid), alias)
            finally:
                self._changed(uid)

    def set_link(self, uid: str, alias: str, up: bool) -> None:
        with self._asking(f"set the link of {alias} in domain {uid}") as connection:
            try:
                libvirt_nics.set_link(connection.lookupByUUIDString(uid), alias, up=up)
            finally:
                self._changed(uid)

    def guest_info(self, uid: str) -> GuestInfo:
        said = self._ask_guest(uid, libvirt.VIR_DOMAIN_GUEST_INFO_OS | libvirt.VIR_DOMAIN_GUEST_INFO_HOSTNAME)
        return libvirt_guest.info(said) if said is not None else GuestInfo()

    def guest_nics(self, uid: str) -> tuple[NicReport, ...]:
        said = self._ask_guest(uid, libvirt.VIR_DOMAIN_GUEST_INFO_INTERFACES)
        return libvirt_guest.nics(said) if said is not None else ()

    def migrate(self, uid: str, way: Way) -> None:
        """On a connection of its own: libvirtd serves few calls of one connection at a time, and this one is long."""
        try:
            libvirt_migrate.send(self._uri, uid, way)
        except libvirt.libvirtError as error:  # a connection that failed may be that to the other node's libvirt
            text = (error.get_error_message() or str(error)).strip()
            raise HostFault(f"libvirt did not send the guest away: {text}", reason="MigrationFailed") from error

    def disk_bytes(self, uid: str, target: str) -> int:
        with self._asking(f"ask for the size of disk {target} of domain {uid}") as connection:
            return libvirt_migrate.disk_bytes(connection.lookupByUUIDString(uid), target)

    def transfer(self, uid: str) -> TransferStats | None:
        with self._asking(f"ask how far domain {uid} is") as connection:
            try:
                return libvirt_migrate.stats(connection.lookupByUUIDString(uid))
            except libvirt.libvirtError as error:
                if libvirt_words.is_gone(error) or error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                    return None
                raise

    def allow_pause(self, uid: str, milliseconds: int) -> None:
        with self._asking(f"let domain {uid} stand still for longer") as connection, _gone_is_fine():
            if self.transfer(uid) is not None:
                connection.lookupByUUIDString(uid).migrateSetMaxDowntime(milliseconds)

    def abort_migration(self, uid: str) -> None:
        with self._asking(f"stop sending domain {uid}") as connection, _gone_is_fine():
            if self.transfer(uid) is not None:
                connection.lookupByUUIDString(uid).abortJob()

    def save(self, uid: str, path: str) -> None:
        with _long("save the guest's state", "SaveFailed"):
            libvirt_save.save(self._uri, uid, path)

    def restore(self, path: str, xml: str) -> None:
        with _long("restore the guest's state", "RestoreFailed"):
            libvirt_save.restore(self._uri, path, xml)

    def set_clock(self, uid: str, seconds: float) -> None:
        with self._asking(f"set the clock of domain {uid}") as connection:
            domain = connection.lookupByUUIDString(uid)
            domain.agentSetResponseTimeout(AGENT_SECONDS)
            libvirt_save.set_clock(domain, seconds)

    def listen(self, on_event: Callable[[DomainEvent], None], on_connection: Callable[[bool, str], None]) -> None:
        with self._lock:
            self._on_event, self._on_connection = on_event, on_connection
            connected = self._link.connected
        if connected:
            on_connection(True, "")

    def close(self) -> None:
        self._link.close()

    def _ask_guest(self, uid: str, wanted: int) -> dict[str, object] | None:
        """None when there is no agent or no guest, or an agent too old: all that is known is that nothing is."""
        with self._asking(f"ask the agent in domain {uid}") as connection:
            try:
                domain = connection.lookupByUUIDString(uid)
                domain.agentSetResponseTimeout(AGENT_SECONDS)
                said: dict[str, object] = domain.guestInfo(wanted)
            except libvirt.libvirtError as error:
                if libvirt_words.is_connection(error):
                    raise
                return None
        return said

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[Any]:
        """The one place where libvirt's errors become ours."""
        connection = self._link.work()
        try:
            yield connection
        except libvirt.libvirtError as error:
            translated = libvirt_words.translate(error, what)
            if libvirt_words.is_connection(error):
                self._link.lost(str(translated))
            raise translated from error

    def _observe(self, domain: Any) -> ObservedDomain | None:
        """The domain as it is now; None when it went meanwhile, and when it is none of ours."""
        try:
            state, detail = libvirt_words.state(*domain.state())
            key = (domain.UUIDString(), domain.ID())
            with self._lock:
                xml, turn = self._xml.get(key), self._turn
            if xml is None:
                xml = domain.XMLDesc()
                with self._lock:
                    if turn == self._turn:
                        self._xml[key] = xml
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        return ObservedDomain(key[0], domain.name(), state, xml, detail) if metadata.NAMESPACE in xml else None

    def _forget_others(self, keep: set[tuple[str, int]]) -> None:
        with self._lock:
            self._xml = {key: xml for key, xml in self._xml.items() if key in keep}

    def _changed(self, uid: str) -> None:
        with self._lock:
            self._turn += 1
            self._xml = {key: xml for key, xml in self._xml.items() if key[0] != uid}

    def _subscribe(self, connection: Any) -> None:
        libvirt_events.subscribe(connection, self._take)

    def _take(self, event: DomainEvent) -> None:
        if event.kind is DomainEventKind.DEVICE:
            self._changed(event.uid)
        if self._on_event is not None:
            self._on_event(event)

    def _notify(self, up: bool, message: str) -> None:
        with self._lock:
            if not up:
                self._xml.clear()
            on_connection = self._on_connection
        if on_connection is not None:
            on_connection(up, message)


def _warm_up(connection: Any) -> None:
    """libvirt asks QEMU what it can do when that is first needed, for seconds: not in the first guest's start."""
    connection.getDomainCapabilities(EMULATOR, "x86_64", MACHINE, None, 0)


@contextlib.contextmanager
def _long(what: str, reason: str) -> Iterator[None]:
    """On a connection of its own: libvirtd serves few calls of one connection at a time."""
    try:
        yield
    except libvirt.libvirtError as error:
        text = (error.get_error_message() or str(error)).strip()
        if any(word in text for word in _FULL):
            text, reason = f"{text}. Next: free or add space on the volume", "VolumeFull"
        raise HostFault(f"libvirt did not {what}: {text}", reason=reason) from error


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        if not libvirt_words.is_gone(error):
            raise


def _unless_already(domain: Any, change: Callable[[], object], state: int) -> None:
    """libvirt calls it an error to ask for the state that is."""
    try:
        change()
    except libvirt.libvirtError:
        if domain.state()[0] != state:
            raise


def _lookup(connection: Any, uid: str) -> Any:
    try:
        return connection.lookupByUUIDString(uid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _exists(connection: Any, xml: str, error: Any) -> bool:
    """Whether starting failed because this very machine is here already: then there is nothing to do."""
    if libvirt_words.is_connection(error):
        return False
    uid = xml.partition("<uuid>")[2].partition("</uuid>")[0]
    return bool(uid) and _lookup(connection, uid) is not None


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
