"""A berth pod and the machine's live fields → the Order for the pod's node. Called by cluster.py once the pod is bound.

What needs a boot comes from the pod's annotation, so that a controller started anew sends the very same Order; what is
Live comes from the spec of now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from berth.api.devices import Disk, DisplayType, Limit, LinkState, Nic
from berth.api.kept import StateOrder
from berth.api.order import (
    BerthRef,
    CloudInitOrder,
    DiskKind,
    DiskOrder,
    FileOrder,
    KernelOrder,
    LimitOrder,
    MachineOrder,
    NicKind,
    NicOrder,
    Order,
    OrderPower,
)
from berth.api.quantity import to_bytes
from berth.api.virtualmachine import Power, VirtualMachineSpec
from berth.plan import berthpod, hardware, networks, revert_request, suspendable
from berth.plan.segment import Segment, SegmentKey
from berth.plan.world import Cluster, Machine, Pod, frozen_spec


def order(
    machine: Machine, pod: Pod, cluster: Cluster, segments: Mapping[SegmentKey, Segment] | None = None
) -> Order | None:
    """The Order for a bound berth; None when the pod's annotation cannot be read (then the berth is replaced), and
    while an interface has no lease on its Network."""
    segments = segments or {}
    frozen = frozen_spec(pod)
    if frozen is None or pod.node is None:
        return None
    live = machine.spec or frozen
    nics = [_nic(machine, nic, pod, segments) for nic in networks.effective(frozen, machine.spec)]
    if None in nics:
        return None
    return Order(
        uid=machine.uid,
        namespace=machine.namespace,
        name=machine.name,
        epoch=pod.epoch,
        berth=BerthRef(pod_uid=pod.uid, pod_name=pod.name, node=pod.node),
        power=OrderPower.PAUSED if live.power is Power.PAUSED else OrderPower.RUNNING,
        emulation=cluster.emulation_of(pod),
        machine=_hardware(machine, frozen, tuple(nic for nic in nics if nic is not None)).model_copy(
            update=_resolved(pod, cluster)
        ),
        grace_seconds=frozen.shutdown.grace_period_seconds,
        state=_state(machine, frozen, pod),
    )


def _state(machine: Machine, frozen: VirtualMachineSpec, pod: Pod) -> StateOrder | None:
    """Its volume; whether to save now, and what to begin with: the Snapshot that the berth was made for, else the state
    of an earlier start that the status names."""
    if frozen.saved_state is None:
        return None
    known = machine.status.saved_state if machine.status is not None else None
    revert = revert_request.order(pod)
    begins = known if known is not None and known.epoch < pod.epoch and revert is None else None
    return StateOrder(
        folder=berthpod.SAVED,
        save=suspendable.wanted(machine.spec) and suspendable.of_spec(frozen).able,
        restore=begins.epoch if begins is not None else None,
        sure=begins.sure if begins is not None else True,
        revert=revert,
    )


def digest(order: Order) -> str:
    """Names an Order's content: two with the same digest ask for the same."""
    return hashlib.sha256(order.model_dump_json().encode()).hexdigest()[:16]


def _resolved(pod: Pod, cluster: Cluster) -> dict[str, object]:
    """What the berth was planned with, as far as it is for its node."""
    found = hardware.from_text(pod.hardware)
    if found is None:
        return {}
    cpu = hardware.pick(found, cluster.kind(pod.node), cluster.emulation_of(pod))
    return {"machine_type": found.machine_type, "cpu": cpu}


def _hardware(machine: Machine, spec: VirtualMachineSpec, nics: tuple[NicOrder, ...]) -> MachineOrder:
    return MachineOrder(
        cpus=spec.cpu.count,
        memory_bytes=to_bytes(spec.memory.size),
        kernel=_kernel(spec),
        disks=tuple(_disk(disk) for disk in spec.disks),
        nics=nics,
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


def _nic(machine: Machine, nic: Nic, pod: Pod, segments: Mapping[SegmentKey, Segment]) -> NicOrder | None:
    """One interface; None while it has no lease on its Network."""
    given = NicOrder(
        name=nic.name,
        mac=networks.mac_of(machine.uid, nic),
        model=nic.model,
        mtu=nic.mtu,
        queues=nic.queues,
        boot_order=nic.boot_order,
        link_up=nic.link is LinkState.UP,
        anti_spoofing=nic.anti_spoofing,
        inbound=_limit(nic.bandwidth.inbound),
        outbound=_limit(nic.bandwidth.outbound),
    )
    key = networks.key_of(nic, machine.namespace)
    if key is not None:
        segment = given.model_copy(update={"kind": NicKind.SEGMENT})
        return networks.on_segment(segment, nic, machine.uid, segments.get(key))
    if nic.multus is not None:
        interface = berthpod.attachment(frozen_nics(pod), nic.name)
        return given.model_copy(update={"kind": NicKind.ATTACHMENT, "interface": interface})
    if nic.device is not None:
        return given.model_copy(update={"kind": NicKind.DEVICE, "resource": nic.device.resource})
    return given


def frozen_nics(pod: Pod) -> Sequence[Nic]:
    frozen = frozen_spec(pod)
    return frozen.nics if frozen is not None else ()


def _limit(limit: Limit | None) -> LimitOrder | None:
    """Without a burst given: what 50 ms at the rate amount to, at least eight full packets."""
    if limit is None:
        return None
    rate = to_bytes(limit.rate)
    burst = to_bytes(limit.burst) if limit.burst else max(rate // 8 // 20, 8 * 1500)
    return LimitOrder(bits_per_second=rate, burst_bytes=burst)


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
