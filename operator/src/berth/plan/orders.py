"""A berth pod and the machine's live fields → the Order for the pod's node. Called by cluster.py once the pod is bound.

What needs a boot comes from the pod's annotation, so that a controller started anew sends the very same Order; what is
Live comes from the spec of now.
"""

from __future__ import annotations

import hashlib
from typing import Final

from berth.api.devices import Disk, DisplayType, Nic
from berth.api.order import (
    BerthRef,
    CloudInitOrder,
    DiskKind,
    DiskOrder,
    Emulation,
    FileOrder,
    KernelOrder,
    MachineOrder,
    NicOrder,
    Order,
    OrderPower,
)
from berth.api.quantity import to_bytes
from berth.api.virtualmachine import Power, VirtualMachineSpec
from berth.plan import berthpod
from berth.plan.world import Cluster, Machine, Pod, frozen_spec

MAC_PREFIX: Final = "52:54:00"


def order(machine: Machine, pod: Pod, cluster: Cluster) -> Order | None:
    """The Order for a bound berth; None when the pod's annotation cannot be read (then the berth is replaced)."""
    frozen = frozen_spec(pod)
    if frozen is None or pod.node is None:
        return None
    live = machine.spec or frozen
    return Order(
        uid=machine.uid,
        namespace=machine.namespace,
        name=machine.name,
        epoch=pod.epoch,
        berth=BerthRef(pod_uid=pod.uid, pod_name=pod.name, node=pod.node),
        power=OrderPower.PAUSED if live.power is Power.PAUSED else OrderPower.RUNNING,
        emulation=Emulation(pod.emulation) if pod.emulation in list(Emulation) else cluster.emulation,
        machine=_hardware(machine, frozen),
        grace_seconds=frozen.shutdown.grace_period_seconds,
    )


def digest(order: Order) -> str:
    """Names an Order's content: two with the same digest ask for the same."""
    return hashlib.sha256(order.model_dump_json().encode()).hexdigest()[:16]


def _hardware(machine: Machine, spec: VirtualMachineSpec) -> MachineOrder:
    return MachineOrder(
        cpus=spec.cpu.count,
        memory_bytes=to_bytes(spec.memory.size),
        kernel=_kernel(spec),
        disks=tuple(_disk(disk) for disk in spec.disks),
        nics=tuple(_nic(machine.uid, nic) for nic in spec.nics),
        cloud_init=_cloud_init(machine, spec),
        hostname=berthpod.hostname(machine.name, spec),
        vnc=spec.display.type is DisplayType.VNC,
        guest_agent=spec.guest_agent,
    )


def _file(folder: str, path: str) -> FileOrder:
    """The path stays as the user wrote it, for the node's words; beneath its root a leading slash means nothing."""
    return FileOrder(folder=folder, path=path)


def _kernel(spec: VirtualMachineSpec) -> KernelOrder | None:
    kernel = spec.boot.kernel
    if kernel is None:
        return None
    folder = f"{berthpod.IMAGES}/{berthpod.KERNEL}"
    initrd = _file(folder, kernel.initrd_path) if kernel.initrd_path else None
    return KernelOrder(kernel=_file(folder, kernel.kernel_path), initrd=initrd, args=kernel.args)


def _disk(disk: Disk) -> DiskOrder:
    kind, source = DiskKind.EMPTY, None
    if disk.container is not None:
        kind, source = DiskKind.OVERLAY, _file(f"{berthpod.IMAGES}/{disk.name}", disk.container.path)
    elif disk.pvc is not None:
        kind, source = DiskKind.FILE, _file(f"{berthpod.CLAIMS}/{disk.name}", disk.pvc.path)
    return DiskOrder(
        name=disk.name,
        kind=kind,
        source=source,
        size_bytes=to_bytes(disk.size) if disk.size else None,
        bus=disk.bus,
        read_only=disk.read_only,
        boot_order=disk.boot_order,
    )


def _nic(uid: str, nic: Nic) -> NicOrder:
    return NicOrder(name=nic.name, mac=nic.mac or stable_mac(uid, nic.name), model=nic.model)


def stable_mac(uid: str, nic: str) -> str:
    """A locally administered address that stays for the machine's life."""
    tail = hashlib.sha256(f"{uid}/{nic}".encode()).digest()[:3]
    return ":".join([MAC_PREFIX, *(f"{byte:02x}" for byte in tail)])


def _cloud_init(machine: Machine, spec: VirtualMachineSpec) -> CloudInitOrder | None:
    given = spec.cloud_init
    if given is None:
        return None
    return CloudInitOrder(
        instance_id=machine.uid,
        hostname=berthpod.hostname(machine.name, spec),
        user_data=given.user_data,
        user_data_file=_file(berthpod.CLOUD_INIT, berthpod.USER_DATA) if given.user_data_from else None,
        network_data=given.network_data,
    )
