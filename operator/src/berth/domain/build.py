"""Order, files, taps and host → the desired domain. Called by the agent for CreatePaused and by `berth render`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Final

from berth.api.devices import DiskBus
from berth.api.order import MachineOrder, Order
from berth.domain import metadata, nics, xml
from berth.domain.bootorder import BootOrders, boot_orders
from berth.domain.devices import Device, address
from berth.domain.devices.channel import GuestAgent, VirtioSerial
from berth.domain.devices.console import Console
from berth.domain.devices.controller import NoUsb
from berth.domain.devices.disk import SEED_SERIAL, Disk
from berth.domain.devices.graphics import Tablet, Video, Vnc
from berth.domain.devices.memballoon import MemBalloon
from berth.domain.devices.panic import Panic
from berth.domain.devices.rng import Rng
from berth.domain.element import checked
from berth.domain.files import DiskFile, MediaFiles, expected
from berth.domain.host import Accelerator, Host, choose_accelerator
from berth.domain.model import DirectBoot, Domain
from berth.errors import HostFault, InvalidSpec

NAME_LENGTH: Final = 80
"""libvirt makes file names of a domain's name; the rest of a long one is cut, the uid after it keeps it unique."""


def build(order: Order, media: MediaFiles, taps: Mapping[str, str], host: Host) -> Domain:
    """The machine in libvirt's terms."""
    machine = order.machine
    return Domain(
        name=domain_name(order),
        uuid=_uuid(order.uid),
        order_json=metadata.to_json(order),
        accelerator=host.accelerator,
        machine=machine.machine_type or host.machine,
        emulator=host.emulator,
        guest_uid=host.guest_uid,
        cpus=machine.cpus,
        cpu=machine.cpu,
        memory_bytes=machine.memory_bytes,
        boot=_boot(machine, media),
        firmware_on_serial=not machine.vnc and machine.kernel is None,
        devices=tuple(_devices(machine, media, taps, host)),
    )


def preview(order: Order, *, kvm: bool = True) -> str:
    """The XML that an agent would make of this order, with the paths and names it would choose: for `berth render`."""
    accelerator = choose_accelerator(order.emulation, kvm_usable=kvm) or Accelerator.KVM
    taps = {nic.name: f"bt{index}" for index, nic in enumerate(order.machine.nics)}
    host = Host(accelerator, guest_uid=1_900_000_000, functions=_any_functions(order.machine))
    return xml.render(build(order, expected(order.uid, order.machine), taps, host))


def domain_name(order: Order) -> str:
    """Readable in every list of libvirt's, and unique on a node."""
    return f"{order.namespace}_{order.name}"[:NAME_LENGTH] + f"_{order.uid[:8]}"


def _any_functions(machine: MachineOrder) -> dict[str, tuple[str, ...]]:
    """Addresses that no host has, as many as are ordered."""
    return {nic.resource: tuple(f"ffff:ff:{n:02x}.0" for n in range(len(machine.nics))) for nic in machine.nics}


def _uuid(uid: str) -> str:
    try:
        return str(uuid.UUID(uid))
    except ValueError as error:
        raise InvalidSpec("uid", "the order's uid is no UUID, as the API server makes them", given=uid) from error


def _boot(machine: MachineOrder, media: MediaFiles) -> DirectBoot | None:
    if machine.kernel is None:
        return None
    if media.kernel is None:
        raise HostFault("the order has a kernel, and no file was prepared for it", reason="KernelMissing")
    return DirectBoot(media.kernel, media.initrd, checked("spec.boot.kernel.args", machine.kernel.args))


def _devices(machine: MachineOrder, media: MediaFiles, taps: Mapping[str, str], host: Host) -> Iterator[Device]:
    boots = boot_orders(machine)
    yield NoUsb()
    yield from _disks(machine, media, boots)
    yield from nics.devices(machine, taps, host, boots)
    yield Console(media.console_socket)
    yield MemBalloon(address.system(0))
    yield Rng(address.system(1))
    if machine.guest_agent:
        yield VirtioSerial(address.system(2))
        yield GuestAgent()
    yield from _graphics(machine, media)
    yield Panic()


def _disks(machine: MachineOrder, media: MediaFiles, boots: BootOrders) -> Iterator[Disk]:
    files = {file.name: file for file in media.disks}
    counts = dict.fromkeys(DiskBus, 0)
    for disk in machine.disks:
        if disk.name not in files:
            raise HostFault(f"disk {disk.name}: no file was prepared for it", reason="ImageFileMissing")
        yield _disk(files[disk.name], disk.bus, counts[disk.bus], disk.name, disk.read_only, boots.disks.get(disk.name))
        counts[disk.bus] += 1
    if media.seed is not None:
        seed = DiskFile(SEED_SERIAL, media.seed, "raw")
        yield _disk(seed, DiskBus.VIRTIO, counts[DiskBus.VIRTIO], SEED_SERIAL, True, None)


def _disk(file: DiskFile, bus: DiskBus, index: int, serial: str, read_only: bool, boot: int | None) -> Disk:
    place = address.disk(index) if bus is DiskBus.VIRTIO else None
    return Disk(file, bus, index, serial, read_only, boot, place)


def _graphics(machine: MachineOrder, media: MediaFiles) -> Iterator[Device]:
    if not machine.vnc or media.vnc_socket is None:
        yield Video(None)
        return
    yield Vnc(media.vnc_socket)
    yield Video(address.PciAddress(address.GRAPHICS_SLOT))
    yield Tablet(address.system(3))
