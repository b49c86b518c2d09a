"""Every domain that Berth can write is one that libvirt takes: its schema, its rules, and its QEMU command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berth.api.devices import DiskBus, NicModel
from berth.api.order import CloudInitOrder, DiskKind, DiskOrder, KernelOrder, MachineOrder, NicKind, NicOrder, Order
from berth.domain import arriving, build, files, xml
from berth.domain.host import Accelerator, Host
from tests.contract import libvirtd
from tests.golden.domain import cases as golden

NAMES = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")
FUNCTIONS = {golden.VFS: tuple(f"0000:03:02.{n}" for n in range(8))}
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff"), max_size=2000)


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    libvirtd.Daemon().start()
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    opened = libvirt.open("qemu:///system")
    yield opened
    opened.close()


def check(connection: Any, order: Order, host: Host) -> None:
    taps = {nic.name: f"bt{index}" for index, nic in enumerate(order.machine.nics)}
    text = xml.render(build.build(order, files.expected(order.uid, order.machine), taps, host))
    defined = connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    arriving.check(defined.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE), text)
    defined.undefine()
    assert "-uuid" in connection.domainXMLToNative("qemu-argv", _without_functions(text))


def _without_functions(text: str) -> str:
    """libvirt 11.3 crashes when it is asked for the command line of a PCI function that is not being started."""
    root = ElementTree.fromstring(text)
    devices = root.find("devices")
    assert devices is not None
    for interface in devices.findall("interface[@type='hostdev']"):
        devices.remove(interface)
    return ElementTree.tostring(root, encoding="unicode")


@pytest.mark.parametrize(("order", "host"), [pytest.param(o, h, id=name) for name, o, h in golden.cases()])
def test_golden_domains(connection: Any, order: Order, host: Host) -> None:
    check(connection, order, host)


@st.composite
def disks(draw: st.DrawFn) -> tuple[DiskOrder, ...]:
    names = draw(st.lists(NAMES, unique=True, max_size=24))
    return tuple(
        DiskOrder(
            name=name,
            kind=draw(st.sampled_from(DiskKind)),
            bus=draw(st.sampled_from(DiskBus)),
            read_only=draw(st.booleans()),
            boot_order=draw(st.none() | st.integers(1, 64)),
        )
        for name in names
    )


@st.composite
def nics(draw: st.DrawFn) -> tuple[NicOrder, ...]:
    names = draw(st.lists(NAMES, unique=True, max_size=8))
    models = {name: draw(st.sampled_from(NicModel)) for name in names}
    return tuple(
        NicOrder(
            name=name,
            mac=f"52:54:00:12:34:5{index}",
            model=models[name],
            kind=draw(st.sampled_from(NicKind)),
            mtu=draw(st.none() | st.integers(576, 65535)),
            queues=draw(st.integers(1, 16)) if models[name] is NicModel.VIRTIO else 1,
            boot_order=draw(st.none() | st.integers(1, 64)),
            link_up=draw(st.booleans()),
            resource=golden.VFS,
        )
        for index, name in enumerate(names)
    )


@st.composite
def orders(draw: st.DrawFn) -> Order:
    kernel = KernelOrder(kernel=golden.KERNEL.kernel, initrd=draw(st.none() | st.just(golden.KERNEL.initrd)))
    machine = MachineOrder(
        cpus=draw(st.integers(1, 255)),
        memory_bytes=draw(st.integers(1, 1 << 40)),
        kernel=draw(st.none() | st.just(kernel.model_copy(update={"args": draw(TEXT)}))),
        disks=draw(disks()),
        nics=draw(nics()),
        cloud_init=draw(st.none() | st.builds(CloudInitOrder, instance_id=TEXT, hostname=NAMES, user_data=TEXT)),
        vnc=draw(st.booleans()),
        guest_agent=draw(st.booleans()),
    )
    names = {"namespace": draw(NAMES), "name": draw(NAMES), "epoch": draw(st.integers(0, 1 << 31))}
    return golden.order().model_copy(update={"machine": machine} | names)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=orders(), accelerator=st.sampled_from(Accelerator), vhost=st.booleans())
def test_any_order(connection: Any, order: Order, accelerator: Accelerator, vhost: bool) -> None:
    check(connection, order, Host(accelerator, guest_uid=1_900_000_001, vhost=vhost, functions=FUNCTIONS))
