"""The machines that the golden domains show: name → (order, host). Together they exercise every field of an Order."""

from __future__ import annotations

from collections.abc import Iterator

from berth.api.devices import DiskBus, NicModel
from berth.api.hardware import CpuMode, CpuOrder
from berth.api.order import (
    BerthRef,
    CloudInitOrder,
    DiskKind,
    DiskOrder,
    Emulation,
    FileOrder,
    KernelOrder,
    MachineOrder,
    NicKind,
    NicOrder,
    Order,
    OrderPower,
    SegmentKind,
    SegmentOrder,
)
from berth.domain.host import Accelerator, Host

TCG = Host(Accelerator.TCG, guest_uid=1_900_000_001)
KVM = Host(Accelerator.KVM, guest_uid=1_900_000_002)
VFS = "example.com/fast_net"
NET_HOST = Host(Accelerator.KVM, guest_uid=1_900_000_003, vhost=True, functions={VFS: ("0000:03:02.1", "0000:03:02.4")})
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
SEGMENT = SegmentOrder(uid="5d6c", name="default/lan", kind=SegmentKind.OVERLAY, vni=77)
LAN = NicOrder(
    name="lan", mac="52:54:00:00:00:02", kind=NicKind.SEGMENT, segment=SEGMENT, mtu=1450, queues=4, link_up=False
)
STORAGE = NicOrder(
    name="storage", mac="52:54:00:00:00:03", kind=NicKind.ATTACHMENT, interface="net1", model=NicModel.E1000E
)
FAST = NicOrder(name="fast", mac="52:54:00:00:00:04", kind=NicKind.DEVICE, resource=VFS)
FASTER = FAST.model_copy(update={"name": "faster", "mac": "52:54:00:00:00:05", "boot_order": 3})
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
    yield "every-nic", order(disks=(ROOT,), nics=(NIC, LAN, STORAGE, FAST, FASTER)), NET_HOST
    lans = tuple(LAN.model_copy(update={"name": f"lan-{n}", "mac": f"52:54:00:00:01:0{n}"}) for n in range(8))
    yield "most-nics", order(disks=(ROOT,), nics=lans), KVM
    netboot = NIC.model_copy(update={"boot_order": 1})
    last = ROOT.model_copy(update={"boot_order": 2})
    yield "network-boot", order(disks=(last, SCRATCH), nics=(netboot, LAN.model_copy(update={"boot_order": 2}))), TCG
    again = {"epoch": 7, "generation": 3, "power": OrderPower.PAUSED, "grace_seconds": 5, "emulation": Emulation.AUTO}
    cpu = CpuOrder(model="Nehalem", require=("aes", "avx"), disable=("lahf_lm",))
    yield "named-cpu", order(disks=(ROOT,), cpu=cpu, machine_type="pc-q35-9.2").model_copy(update=emulated), TCG
    yield "emulated-host-cpu", order(disks=(ROOT,), cpu=CpuOrder(mode=CpuMode.MAXIMUM)), TCG
    yield "recorded", order(disks=(ROOT,)).model_copy(update=again), KVM
    yield "long-name", order(disks=(ROOT,)).model_copy(update={"namespace": "n" * 63, "name": "v" * 253}), KVM
