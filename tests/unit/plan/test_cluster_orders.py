"""A berth and its machine become an Order: frozen where a boot is needed, live where not."""

from __future__ import annotations

from dataclasses import replace

from berth.api.order import DiskKind, Emulation, OrderPower
from berth.plan.ipam import stable_mac
from berth.plan.orders import digest, order
from tests.unit.plan.cluster_worlds import CLUSTER, POD_UID, UID, bound, machine, pod

DISKS = [
    {"name": "root", "container": {"image": "i", "path": "/disk/root.qcow2"}, "size": "10Gi", "bootOrder": 1},
    {"name": "data", "pvc": {"claimName": "c", "path": "sub/disk.img"}, "bus": "sata"},
    {"name": "tmp", "empty": {}, "size": "1Gi"},
]


def test_everything_is_resolved() -> None:
    owner = machine(disks=DISKS, cpu={"count": 3}, memory={"size": "1Gi"}, display={"type": "VNC"})
    made = order(owner, pod(owner, 4, node="n"), CLUSTER)
    assert made is not None
    assert (made.uid, made.epoch, made.berth.node, made.berth.pod_uid) == (UID, 4, "n", POD_UID)
    hardware = made.machine
    assert (hardware.cpus, hardware.memory_bytes, hardware.vnc) == (3, 2**30, True)
    root, data, tmp = hardware.disks
    assert root.kind is DiskKind.OVERLAY
    assert root.source is not None
    assert (root.source.folder, root.source.path) == ("/berth/images/root", "/disk/root.qcow2")
    assert (root.size_bytes, root.boot_order) == (10 * 2**30, 1)
    assert data.kind is DiskKind.FILE
    assert data.source is not None
    assert (data.source.folder, data.source.path) == ("/berth/claims/data", "sub/disk.img")
    assert (tmp.kind, tmp.source, tmp.size_bytes) == (DiskKind.EMPTY, None, 2**30)
    assert hardware.kernel is not None
    assert (hardware.kernel.kernel.folder, hardware.kernel.kernel.path) == ("/berth/images/kernel", "/boot/vmlinuz")
    assert made.emulation is Emulation.ALWAYS


def test_what_needs_a_boot_stays_what_is_live_follows() -> None:
    before = pod(machine(memory={"size": "1Gi"}), node="n")
    made = order(machine(memory={"size": "2Gi"}, power="Paused"), before, CLUSTER)
    assert made is not None
    assert made.machine.memory_bytes == 2**30
    assert made.power is OrderPower.PAUSED


def test_the_emulation_it_was_started_with_stays() -> None:
    made = order(machine(), bound(), replace(CLUSTER, emulation=Emulation.NEVER))
    assert made is not None
    assert made.emulation is Emulation.ALWAYS


def test_a_machine_that_became_invalid_keeps_its_order() -> None:
    broken = machine(memory={"size": "-1"})
    assert broken.spec is None
    assert order(broken, bound(), CLUSTER) == order(machine(), bound(), CLUSTER)


def test_no_order_without_a_node_or_with_a_spoiled_annotation() -> None:
    assert order(machine(), pod(), CLUSTER) is None
    assert order(machine(), bound(machine="{"), CLUSTER) is None


def test_the_same_order_has_the_same_digest() -> None:
    one, two = order(machine(), bound(), CLUSTER), order(machine(power="Paused"), bound(), CLUSTER)
    assert one is not None
    assert two is not None
    assert digest(one) == digest(one.model_copy())
    assert digest(one) != digest(two)


def test_the_mac_stays_for_life_and_can_be_chosen() -> None:
    assert stable_mac(UID, "default") == stable_mac(UID, "default")
    assert stable_mac(UID, "default").startswith("52:54:00:")
    owner = machine(nics=[{"name": "n", "pod": {}, "mac": "02:00:00:00:00:07"}])
    made = order(owner, pod(owner, node="n"), CLUSTER)
    assert made is not None
    assert made.machine.nics[0].mac == "02:00:00:00:00:07"


def test_cloud_init_by_value_and_by_file() -> None:
    owner = machine("web.shop", cloudInit={"userData": "#cloud-config\n", "networkData": "v2"})
    made = order(owner, pod(owner, node="n"), CLUSTER)
    assert made is not None
    assert made.machine.cloud_init is not None
    assert made.machine.cloud_init.hostname == "web"
    assert made.machine.cloud_init.user_data == "#cloud-config\n"
    assert made.machine.cloud_init.instance_id == UID
    owner = machine(cloudInit={"userDataFrom": {"configMap": {"name": "m"}}})
    made = order(owner, pod(owner, node="n"), CLUSTER)
    assert made is not None
    assert made.machine.cloud_init is not None
    assert made.machine.cloud_init.user_data_file is not None
    assert made.machine.cloud_init.user_data_file.folder == "/berth/cloudinit"
    assert "cloud-config" not in repr(made)
