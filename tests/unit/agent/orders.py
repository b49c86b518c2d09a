"""Orders as the controller would send them, for the agent's tests."""

from __future__ import annotations

from berth.api.order import (
    BerthRef,
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

NODE = "node-a"


def uid(number: int = 1) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def pod(number: int = 1, epoch: int = 1) -> str:
    return f"aaaaaaaa-0000-4000-8000-{number:06d}{epoch:06d}"


def order(number: int = 1, epoch: int = 1, *, power: OrderPower = OrderPower.RUNNING, generation: int = 0) -> Order:
    return Order(
        uid=uid(number),
        namespace="team",
        name=f"vm-{number}",
        epoch=epoch,
        generation=generation,
        berth=BerthRef(pod_uid=pod(number, epoch), pod_name=f"berth-vm-{number}", node=NODE),
        power=power,
        emulation=Emulation.ALWAYS,
        machine=MachineOrder(
            cpus=1,
            memory_bytes=256 << 20,
            kernel=KernelOrder(kernel=FileOrder(folder="/berth/images/kernel", path="/boot/vmlinuz")),
            disks=(DiskOrder(name="data", kind=DiskKind.EMPTY, size_bytes=1 << 20),),
            nics=(NicOrder(name="default", mac="52:54:00:00:00:01"),),
        ),
    )
