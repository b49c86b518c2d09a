"""The claim that a machine's state is saved on: its name, and the manifest of one that Berth makes. Pure.

Called by berthpod.py and cluster.py. The machine owns a claim that Berth made: the garbage collector removes it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from berth.api.quantity import to_bytes
from berth.api.savedstate import SavedState
from berth.api.virtualmachine import VirtualMachineSpec
from berth.plan.world import VM_UID_LABEL, Machine, Object, owner_reference

MIB: Final = 1024 * 1024
_SUFFIX: Final = "-saved-state"
_LONGEST: Final = 253


def name(machine: str, where: SavedState) -> str:
    """The claim that the berth mounts."""
    if where.pvc is not None:
        return where.pvc.claim_name
    if len(machine) + len(_SUFFIX) <= _LONGEST:
        return machine + _SUFFIX
    return f"{machine[:220].rstrip('-.')}-{hashlib.sha256(machine.encode()).hexdigest()[:10]}{_SUFFIX}"


def size(spec: VirtualMachineSpec) -> str:
    """What memory and the node's own disks take though all of it is in use, and devices, and the file system itself."""
    memory = to_bytes(spec.memory.size)
    local = [disk for disk in spec.disks if disk.pvc is None and not disk.read_only]
    disks = sum(to_bytes(disk.size) for disk in local if disk.size)
    return f"{-(-(memory + max(memory // 4, 256 * MIB) + disks) // MIB)}Mi"


def manifest(machine: Machine) -> Object | None:
    """None when the claim is the user's own."""
    spec = machine.spec
    where = spec.saved_state if spec is not None else None
    if spec is None or where is None or where.claim is None:
        return None
    wanted = where.claim
    storage = {"storageClassName": wanted.storage_class_name} if wanted.storage_class_name else {}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name(machine.name, where),
            "namespace": machine.namespace,
            "labels": {VM_UID_LABEL: machine.uid, "app.kubernetes.io/part-of": "berth"},
            "ownerReferences": [owner_reference(machine)],
        },
        "spec": {
            "accessModes": [wanted.access_mode.value],
            "resources": {"requests": {"storage": wanted.size or size(spec)}},
            **storage,
        },
    }
