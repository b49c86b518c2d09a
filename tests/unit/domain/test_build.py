"""What a domain refuses, what it is called, and what is read back from one."""

from __future__ import annotations

import pytest

from berth.api.devices import DiskBus
from berth.api.order import DiskKind, DiskOrder, Emulation, NicOrder
from berth.domain import build, files, metadata, xml
from berth.domain.bootorder import BootOrders, boot_orders
from berth.domain.devices import address
from berth.domain.files import MediaFiles
from berth.domain.host import Accelerator, Host, choose_accelerator
from berth.domain.observed import DomainState, ObservedDomain
from berth.errors import HostFault, InvalidSpec
from tests.golden.domain import cases


def disk(name: str, boot_order: int | None = None) -> DiskOrder:
    return DiskOrder(name=name, kind=DiskKind.EMPTY, size_bytes=1, boot_order=boot_order)


def nic(name: str, boot_order: int | None = None) -> NicOrder:
    return cases.NIC.model_copy(update={"name": name, "boot_order": boot_order})


@pytest.mark.parametrize("bad", ["\x00", "\n", "\x1b[31m", "\ud800", "\ufffe"])
def test_arguments_that_no_machine_can_be_given(bad: str) -> None:
    kernel = cases.KERNEL.model_construct(**{**dict(cases.KERNEL), "args": f"console=ttyS0 {bad} quiet"})
    broken = cases.order().machine.model_copy(update={"kernel": kernel})
    order = cases.order().model_copy(update={"machine": broken})
    with pytest.raises(InvalidSpec) as raised:
        build.build(order, files.expected(order.uid, broken), {"default": "bt0"}, cases.TCG)
    assert raised.value.path == "spec.boot.kernel.args"
    assert "character 15" in str(raised.value)


def test_a_uid_that_is_none() -> None:
    order = cases.order().model_copy(update={"uid": "web"})
    with pytest.raises(InvalidSpec, match="no UUID"):
        build.build(order, files.expected("web", order.machine), {"default": "bt0"}, cases.TCG)


def test_a_file_that_was_not_prepared_is_named() -> None:
    order = cases.order(disks=(cases.ROOT,))
    with pytest.raises(HostFault, match="disk root"):
        build.build(order, MediaFiles((), "/console"), {"default": "bt0"}, cases.TCG)
    order = cases.order(kernel=cases.KERNEL)
    with pytest.raises(HostFault, match="kernel"):
        build.build(order, MediaFiles((), "/console"), {"default": "bt0"}, cases.TCG)


@pytest.mark.parametrize(
    ("disks", "nics", "orders"),
    [
        ([disk("a"), disk("b")], [], {"a": 1, "b": 2}),
        ([disk("a"), disk("b", 1)], [], {"b": 1, "a": 2}),
        ([disk("a", 9), disk("b", 3), disk("c")], [], {"b": 1, "a": 2, "c": 3}),
        ([disk("a", 1), disk("b", 1)], [], {"a": 1, "b": 2}),
        ([disk("a")], [nic("n")], {"a": 1}),
        ([disk("a"), disk("b", 2)], [nic("n", 1), nic("m", 3)], {"n": 1, "b": 2, "m": 3, "a": 4}),
    ],
)
def test_boot_orders_are_complete_and_unique(
    disks: list[DiskOrder], nics: list[NicOrder], orders: dict[str, int]
) -> None:
    machine = cases.order().machine.model_copy(update={"disks": tuple(disks), "nics": tuple(nics)})
    found = boot_orders(machine)
    assert {**found.disks, **found.nics} == orders
    assert boot_orders(machine.model_copy(update={"kernel": cases.KERNEL})) == BootOrders()


def test_names_are_readable_and_never_clash() -> None:
    order = cases.order()
    assert build.domain_name(order) == "default_web_6f5ffeef"
    again = order.model_copy(update={"uid": "7" + order.uid[1:]})
    assert build.domain_name(again) != build.domain_name(order)
    long = order.model_copy(update={"namespace": "n" * 63, "name": "v" * 253})
    assert len(build.domain_name(long)) < 100


def test_disks_keep_their_places() -> None:
    places = [address.disk(n) for n in range(25)]
    assert len({(p.slot, p.function) for p in places}) == 25
    assert all(address.DISK_SLOT <= p.slot <= 30 for p in places)


def test_a_read_only_sata_disk_is_a_cdrom() -> None:
    order = cases.order(disks=(cases.DATA.model_copy(update={"read_only": True, "bus": DiskBus.SATA}),))
    assert 'device="cdrom"' in build.preview(order)


def test_the_preview_needs_no_node() -> None:
    for _, order, _ in cases.cases():
        assert order.uid in build.preview(order)
    emulated = cases.order().model_copy(update={"emulation": Emulation.ALWAYS})
    assert 'type="qemu"' in build.preview(emulated)
    assert 'type="kvm"' in build.preview(cases.order())


@pytest.mark.parametrize(
    ("emulation", "kvm", "chosen"),
    [
        (Emulation.NEVER, True, Accelerator.KVM),
        (Emulation.NEVER, False, None),
        (Emulation.AUTO, True, Accelerator.KVM),
        (Emulation.AUTO, False, Accelerator.TCG),
        (Emulation.ALWAYS, True, Accelerator.TCG),
        (Emulation.ALWAYS, False, Accelerator.TCG),
    ],
)
def test_the_accelerator(emulation: Emulation, kvm: bool, chosen: Accelerator | None) -> None:
    assert choose_accelerator(emulation, kvm_usable=kvm) is chosen


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domain",
        "<domain type='xen'/>",
        "<domain type='kvm'/>",
        "<domain type='kvm'><seclabel model='dac'><label>root:root</label></seclabel></domain>",
        "<domain type='kvm'><seclabel model='dac'><label>+1:+1</label></seclabel></domain>",
        f"<domain type='kvm'><metadata><b:order xmlns:b='{metadata.NAMESPACE}'>{{}}</b:order></metadata>"
        "<seclabel model='dac'><label>+1:+1</label></seclabel></domain>",
    ],
)
def test_a_domain_that_is_not_ours_is_a_fault_and_no_crash(text: str) -> None:
    with pytest.raises(HostFault) as raised:
        xml.read(ObservedDomain("uid", "other", DomainState.RUNNING, text))
    assert raised.value.reason in ("MetadataMissing", "MetadataUnreadable")


def test_an_order_of_a_newer_berth_is_still_read() -> None:
    order = cases.order()
    text = metadata.to_json(order).replace('"epoch"', '"invented": {"later": true}, "epoch"')
    domain = xml.render(build.build(order, files.expected(order.uid, order.machine), {"default": "bt0"}, cases.TCG))
    newer = domain.replace(metadata.to_json(order), text)
    assert newer != domain
    assert xml.read(ObservedDomain(order.uid, "any", DomainState.RUNNING, newer)).order == order


def test_the_guest_uid_comes_back() -> None:
    order = cases.order()
    host = Host(Accelerator.TCG, guest_uid=1_900_012_345)
    domain = xml.render(build.build(order, files.expected(order.uid, order.machine), {"default": "bt0"}, host))
    assert xml.read(ObservedDomain(order.uid, "any", DomainState.PAUSED, domain)).guest_uid == 1_900_012_345
