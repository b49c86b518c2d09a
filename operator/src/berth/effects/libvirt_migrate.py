"""Sending a guest away with libvirt: its flags and parameters, how far it is. Used by hypervisor.py."""

from __future__ import annotations

from typing import Any, Final

import libvirt

from berth.effects.ports_moving import TransferStats, Way
from berth.plan.method import THROTTLE_STEP

_FLAGS: Final = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PAUSED  # the copy stays stopped until the two agents have agreed
    | libvirt.VIR_MIGRATE_AUTO_CONVERGE  # of any method: it cannot be added later, and a calm guest never notices
)
_COPIES: Final = libvirt.VIR_MIGRATE_NON_SHARED_DISK
"""All that a disk shows, whatever the other node's image is. In the background, and not with libvirt's synchronous
writes: a mirror of QEMU's that fails or is cancelled frees its bitmap before it waits for those that are under way, and
a guest whose move had been cancelled so died a moment later, of a heap that was written into."""
_VOUCHED: Final = libvirt.VIR_MIGRATE_UNSAFE
"""libvirt knows few file systems for shared. What is on a claim is so by its word, or the other node would not have it;
QEMU writes out and forgets what it has cached when it hands over."""
_MIB: Final = 1 << 20


def send(uri: str, uid: str, way: Way) -> None:
    """Blocks until libvirt has an answer, or none will come."""
    connection = libvirt.open(uri)
    try:
        _send(connection.lookupByUUIDString(uid), way)
    finally:
        connection.close()


def _send(domain: Any, way: Way) -> None:
    method, flags = way.method, _FLAGS
    parameters: dict[str, object] = {
        libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{way.memory_socket}",
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: way.xml,
        libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL: method.throttle,
        libvirt.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT: THROTTLE_STEP,
    }
    if way.bytes_per_second is not None:
        parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = max(way.bytes_per_second // _MIB, 1)
    if way.disks:
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(way.disks)
        parameters[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS_DETECT_ZEROES] = list(way.disks)  # a sparse one stays so
        parameters[libvirt.VIR_MIGRATE_PARAM_DISKS_URI] = f"unix://{way.disks_socket}"
    flags |= (_COPIES if way.disks else 0) | (_VOUCHED if way.shares else 0)
    if method.channels:
        flags |= libvirt.VIR_MIGRATE_PARALLEL | libvirt.VIR_MIGRATE_COMPRESSED
        parameters[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = method.channels
        parameters[libvirt.VIR_MIGRATE_PARAM_COMPRESSION] = "zstd"
    domain.migrateSetMaxDowntime(method.downtime_ms)
    domain.migrateToURI3(f"qemu+unix:///system?socket={way.libvirt_socket}", parameters, flags)


def disk_bytes(domain: Any, target: str) -> int:
    """How large the guest sees the disk."""
    capacity: int = domain.blockInfo(target)[0]
    return capacity


def stats(domain: Any) -> TransferStats | None:
    """None while nothing is sent."""
    said: dict[str, int] = domain.jobStats()
    if said.get("type", 0) == libvirt.VIR_DOMAIN_JOB_NONE or "memory_total" not in said:
        return None
    return TransferStats(
        total=said.get("data_total", 0),
        remaining=said.get("data_remaining", 0),
        sent=said.get("data_processed", 0),
        bytes_per_second=said.get("memory_bps", 0),
        dirty_bytes_per_second=said.get("memory_dirty_rate", 0) * said.get("memory_page_size", 4096),
        rounds=said.get("memory_iteration", 0),
        throttle=said.get(libvirt.VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE, 0),
    )
