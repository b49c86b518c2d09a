"""The machines that the golden domains show: name → (order, host). Together they exercise every field of an Order."""

from __future__ import annotations

from collections.abc import Iterator

from berth.api.devices import DiskBus, NicModel
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
from berth.domain.host import Accelerator, Host

TCG = Host(Accelerator.TCG, guest_uid=1_900_000_001)
KVM = Host(Accelerator.KVM, guest_uid=1_900_000_002)
NIC = NicOrder(name="default", mac="52:54:00:12:34:56")
ROOT = DiskOrder(
    name="root", kind=DiskKind.OVERLAY, source=FileOrder(folder="/berth/images/root", path="/disk/disk.qcow2")
)
DATA = DiskOrder(
    name="data",
    kind=DiskKind.FILE,
    source=FileOrder(folder="/berth/claims/data", path="disk.img"),
    size_bytes=10 << 30,
    bus=DiskBus.SATA,
    boot_order=1,
)
SCRATCH = DiskOrder(name="scratch", kind=DiskKind.EMPTY, size_bytes=1 << 30)
CDROM = DiskOrder(name="installer", kind=DiskKind.OVERLAY, source=ROOT.source, read_only=True, bus=DiskBus.SATA)
FROZEN = DiskOrder(name="frozen", kind=DiskKind.OVERLAY, source=ROOT.source, read_only=True)
KERNEL = KernelOrder(
    kernel=FileOrder(folder="/berth/images/kernel", path="/boot/vmlinuz"),
    initrd=FileOrder(folder="/berth/images/kernel", path="/boot/initrd"),
    args='console=ttyS0 quiet "quoted <arg> & more"',
)
SEED = CloudInitOrder(
    instance_id="i-1",
    hostname="web",
    user_data="#cloud-config\npassword: secret\n",
    user_data_file=FileOrder(folder="/berth/cloudinit", path="userdata"),
    network_data="version: 2\n",
)


def order(**machine: object) -> Order:
    return Order(
        uid="6f5ffeef-839c-4c00-8437-8da47dfe23fa",
        namespace="default",
        name="web",
        epoch=1,
        berth=BerthRef(pod_uid="0e6b7c1e-5d7e-4a63-9d3c-1f0c5d7a9b11", pod_name="berth-web", node="node-a"),
        machine=MachineOrder.model_validate({"cpus": 1, "memory_bytes": 512 << 20, "nics": (NIC,)} | machine),
    )


def cases() -> Iterator[tuple[str, Order, Host]]:
    emulated = {"emulation": Emulation.ALWAYS}
    yield "smallest", order(kernel=KERNEL.model_copy(update={"initrd": None, "args": ""}), guest_agent=False), KVM
    yield "direct-boot-emulated", order(kernel=KERNEL, cpus=2).model_copy(update=emulated), TCG
    yield "every-disk", order(disks=(ROOT, DATA, SCRATCH, FROZEN, CDROM)), KVM
    many = tuple(SCRATCH.model_copy(update={"name": f"disk-{n}"}) for n in range(24))
    yield "most-disks", order(disks=many, cloud_init=SEED), KVM
    yield "cloud-init", order(disks=(ROOT,), cloud_init=SEED, memory_bytes=3 << 30), KVM
    yield "graphics", order(disks=(ROOT,), vnc=True), KVM
    yield "other-card", order(disks=(ROOT,), nics=(NicOrder(name="lan", mac=NIC.mac, model=NicModel.E1000E),)), KVM
    yield "no-network", order(disks=(ROOT,), nics=()), KVM
    again = {"epoch": 7, "generation": 3, "power": OrderPower.PAUSED, "grace_seconds": 5, "emulation": Emulation.AUTO}
    yield "recorded", order(disks=(ROOT,)).model_copy(update=again), KVM
    yield "long-name", order(disks=(ROOT,)).model_copy(update={"namespace": "n" * 63, "name": "v" * 253}), KVM
