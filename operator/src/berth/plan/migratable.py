"""Whether a machine could move to another node while it runs, and why not: told in a condition before anybody asks.

Called by conditions.py, migration.py and berthpod.py. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from berth.api.devices import Disk, Nic
from berth.api.quantity import from_bytes, to_bytes
from berth.api.savedstate import ClaimAccess
from berth.api.virtualmachine import VirtualMachineSpec
from berth.plan.world import Cluster


@dataclass(frozen=True, slots=True)
class Answer:
    able: bool
    reason: str
    message: str


_ABLE: Final = Answer(True, "Movable", "All that it has is there on other nodes, too.")


def of_spec(spec: VirtualMachineSpec) -> Answer:
    """By what the machine is made of. ``spec`` is what the running guest was started from."""
    for nic in spec.nics:
        trouble = _nic(nic)
        if trouble is not None:
            return trouble
    saved = spec.saved_state
    if saved is not None and saved.claim is not None and saved.claim.access_mode is not ClaimAccess.MANY:
        text = "Its claim for saved states can be mounted by one node at a time."
        return Answer(False, "SavedStateClaim", f"{text} Next: savedState.claim.accessMode: ReadWriteMany.")
    claims = [disk.pvc.claim_name for disk in spec.disks if disk.pvc is not None]
    if saved is not None and saved.pvc is not None:
        claims.append(saved.pvc.claim_name)
    shared = _shared(claims)
    if local := copied(spec):
        return Answer(True, "CopiesDisks", f"{_copies(local)} {shared}".strip())
    return Answer(True, "SharedClaims", shared) if shared else _ABLE


def copied(spec: VirtualMachineSpec) -> list[Disk]:
    """The disks that are files of the node and written by the guest: they go along by being copied."""
    return [disk for disk in spec.disks if disk.pvc is None and not disk.read_only]


def answer(spec: VirtualMachineSpec, cluster: Cluster) -> Answer:
    """By its parts, and by what the cluster has."""
    found = of_spec(spec)
    if found.able and len(cluster.nodes) == 1:
        return Answer(False, "NoSecondNode", f"Only node {cluster.nodes[0]} has an agent. Next: add a node.")
    return found


def _shared(claims: list[str]) -> str:
    if not claims:
        return ""
    return f"If several nodes can mount its claims at a time (ReadWriteMany, or read-only): {', '.join(claims)}."


def _copies(disks: list[Disk]) -> str:
    """What is copied, and how much that is at most; an image's size nobody but its node knows."""
    named = ", ".join(f"{disk.name} ({disk.size or 'as large as its image'})" for disk in disks)
    known = sum(to_bytes(disk.size) for disk in disks if disk.size is not None)
    parts = [from_bytes(known)] if known else []
    parts += ["the image"] if any(disk.size is None for disk in disks) else []
    return f"Copied to the other node while it runs: {named}; at most {' and '.join(parts)}."


def _nic(nic: Nic) -> Answer | None:
    if nic.device is not None:
        text = f"Interface {nic.name} is a function of the node's network card. Next: use a Network or the pod network."
        return Answer(False, "HostDevice", text)
    if nic.multus is not None:
        text = f"Interface {nic.name} is the pod's own, by Multus. Next: use a Network, whose addresses move along."
        return Answer(False, "PodInterface", text)
    return None
