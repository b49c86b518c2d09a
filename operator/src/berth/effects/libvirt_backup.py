"""A guest's disks as they are at one moment, copied by libvirt while the guest runs on: its push backup, onto files
that were made before. Used by agent/taking.py. Each call has a connection of its own: none holds others up.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from berth.domain.element import element
from berth.effects import libvirt_words
from berth.effects.ports_saving import Copying, Held
from berth.errors import HostFault

FREEZE_SECONDS: Final = 5
"""So long qemu-guest-agent has to write out and hold its file systems, or to let go of them."""
_ACTIVATE: Final = json.dumps({"execute": "blockdev-set-active", "arguments": {"active": True}})
_FULL: Final = ("No space left on device", "Disk quota exceeded")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LibvirtBackups:
    """Backups over one libvirtd."""

    uri: str = "qemu:///system"

    def activate(self, uid: str) -> None:
        """QEMU gives its disks away with the memory, as if for another node, and takes them back only with this."""
        with self._domain(uid, "let the guest have its disks again") as domain:
            said = json.loads(libvirt_qemu.qemuMonitorCommand(domain, _ACTIVATE, 0))
        if (error := said.get("error")) is None:
            return
        if error.get("class") == "CommandNotFound":
            text = "QEMU here cannot take disks together with memory: it is older than 10.0. Next: take the snapshot"
            raise HostFault(
                f"{text} without memory, or restart the machine on a newer node", reason="SnapshotUnsupported"
            )
        raise HostFault(f"QEMU does not take the guest's disks back: {error.get('desc')}", reason="SnapshotFailed")

    def begin(self, uid: str, targets: Mapping[str, str]) -> None:
        with self._domain(uid, "begin to copy the guest's disks") as domain:
            flags = libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
            domain.backupBegin(_request(domain.XMLDesc(), targets), None, flags)

    def copying(self, uid: str) -> Copying | None:
        with self._domain(uid, "ask how far the copies are") as domain:
            said = domain.jobStats()
        if said.get("type", 0) == libvirt.VIR_DOMAIN_JOB_NONE:
            return None
        return Copying(said.get("disk_processed", 0), said.get("disk_total", 0))

    def check(self, uid: str) -> None:
        with self._domain(uid, "ask how the copies ended") as domain:
            said = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
        if said.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP and said.get("success"):
            return
        text = said.get(libvirt.VIR_DOMAIN_JOB_ERRMSG) or "libvirt does not tell why"
        raise _failure(f"the guest's disks were not copied to the end: {text}", text)

    def abort(self, uid: str) -> None:
        with self._domain(uid, "end the guest's snapshot", may_be_gone=True) as domain:
            if domain is not None and domain.jobStats().get("type", 0) != libvirt.VIR_DOMAIN_JOB_NONE:
                with contextlib.suppress(libvirt.libvirtError):  # it ended at this moment; the next look tells
                    domain.abortJob()

    def freeze(self, uid: str) -> Held:
        with self._domain(uid, "hold the guest's file systems") as domain:
            if not _agent_listens(domain.XMLDesc()):
                return Held.NO
            return Held.YES if _asked(domain, uid, domain.fsFreeze) is None else Held.PERHAPS

    def thaw(self, uid: str) -> bool:
        with self._domain(uid, "let go of the guest's file systems") as domain:
            error = _asked(domain, uid, domain.fsThaw)
            return error is None or error.get_error_code() != libvirt.VIR_ERR_AGENT_UNRESPONSIVE

    @contextlib.contextmanager
    def _domain(self, uid: str, what: str, *, may_be_gone: bool = False) -> Iterator[Any]:
        """``may_be_gone``: None in place of a domain that is not there."""
        try:
            connection = libvirt.open(self.uri)
            try:
                yield _lookup(connection, uid) if may_be_gone else connection.lookupByUUIDString(uid)
            finally:
                connection.close()
        except libvirt.libvirtError as error:
            if libvirt_words.is_connection(error):
                raise libvirt_words.translate(error, what) from error
            text = (error.get_error_message() or str(error)).strip()
            raise _failure(f"libvirt did not {what}: {text}", text) from error


def _lookup(connection: Any, uid: str) -> Any:
    try:
        return connection.lookupByUUIDString(uid)
    except libvirt.libvirtError as error:
        if libvirt_words.is_gone(error):
            return None
        raise


def _agent_listens(xml: str) -> bool:
    found = ElementTree.fromstring(xml).find("devices/channel/target[@name='org.qemu.guest_agent.0']")
    return found is not None and found.get("state") == "connected"


def _asked(domain: Any, uid: str, call: Callable[[], object]) -> Any:
    """Why the guest's agent did not do it; None when it did."""
    try:
        domain.agentSetResponseTimeout(FREEZE_SECONDS)
        call()
    except libvirt.libvirtError as error:
        if libvirt_words.is_connection(error):
            raise
        _log.info("the guest's agent did not do it", extra={"uid": uid, "error": str(error)})
        return error
    return None


def _failure(message: str, text: str) -> HostFault:
    if any(word in text for word in _FULL):
        return HostFault(f"{message}. Next: free or add space on the volume", reason="VolumeFull")
    return HostFault(message, reason="SnapshotFailed")


def _request(xml: str, targets: Mapping[str, str]) -> str:
    """Of each disk whether it is to be copied, and where to."""
    names = [t.get("dev", "") for t in ElementTree.fromstring(xml).iterfind("devices/disk/target")]
    if missing := sorted(set(targets) - set(names)):
        raise HostFault(f"the guest has no disk {', '.join(missing)}", reason="SnapshotFailed")
    disks = [
        _disk(name, targets[name]) if name in targets else element("disk", name=name, backup="no") for name in names
    ]
    return ElementTree.tostring(element("domainbackup", element("disks", *disks), mode="push"), encoding="unicode")


def _disk(name: str, path: str) -> ElementTree.Element:
    target, driver = element("target", file=path), element("driver", type="qcow2")
    return element("disk", driver, target, name=name, type="file", backup="yes")
