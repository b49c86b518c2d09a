"""Whether a machine could move to another node while it runs, and why not: told in a condition before anybody asks.

Called by conditions.py, migration.py and berthpod.py. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from berth.api.devices import Disk, Nic
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
    for disk in spec.disks:
        trouble = _disk(disk)
        if trouble is not None:
            return trouble
    for nic in spec.nics:
        trouble = _nic(nic)
        if trouble is not None:
            return trouble
    claims = [disk.pvc.claim_name for disk in spec.disks if disk.pvc is not None]
    if claims:
        named = ", ".join(claims)
        message = f"If several nodes can mount its claims at a time (ReadWriteMany, or read-only): {named}."
        return Answer(True, "SharedClaims", message)
    return _ABLE


def answer(spec: VirtualMachineSpec, cluster: Cluster) -> Answer:
    """By its parts, and by what the cluster has."""
    found = of_spec(spec)
    if found.able and len(cluster.nodes) == 1:
        return Answer(False, "NoSecondNode", f"Only node {cluster.nodes[0]} has an agent. Next: add a node.")
    return found


def _disk(disk: Disk) -> Answer | None:
    if disk.empty is not None:
        text = f"Disk {disk.name} is a file on the node. Next: put it on a claim that several nodes can mount."
        return Answer(False, "NodeLocalDisk", text)
    if disk.container is not None and not disk.read_only:
        text = f"What is written to disk {disk.name} lies on the node. Next: make it readOnly, or use a claim."
        return Answer(False, "NodeLocalDisk", text)
    return None


def _nic(nic: Nic) -> Answer | None:
    if nic.device is not None:
        text = f"Interface {nic.name} is a function of the node's network card. Next: use a Network or the pod network."
        return Answer(False, "HostDevice", text)
    if nic.multus is not None:
        text = f"Interface {nic.name} is the pod's own, by Multus. Next: use a Network, whose addresses move along."
        return Answer(False, "PodInterface", text)
    return None
