"""NICs of running machines: plugged in, asked to go, cables in and out; in memory and with real QEMU and a guest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from berth.api.devices import NicModel
from berth.api.order import NicKind, NicOrder
from berth.domain import xml
from berth.domain.observed import Guest, GuestNic
from berth.effects import netlink
from berth.effects.hypervisor import Libvirt
from berth.effects.ports import DomainEventKind
from berth.errors import HostFault
from tests.contract import libvirtd, pods
from tests.contract.libvirtd import Bench, QemuBench
from tests.contract.test_hypervisor import UNKNOWN

LAN = NicOrder(name="lan", mac="52:54:00:aa:bb:cc", kind=NicKind.SEGMENT)
ALIAS = "ua-nic-lan"


@pytest.fixture(params=["memory", "qemu"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        made: Bench = libvirtd.memory()
    else:
        libvirtd.Daemon().start()
        made = QemuBench(Libvirt())
    yield made
    made.close()


@pytest.fixture
def qemu() -> Iterator[QemuBench]:
    libvirtd.Daemon().start()
    made = QemuBench(Libvirt())
    yield made
    made.close()


def guest(bench: Bench) -> Guest:
    found = bench.hypervisor.domain(bench.uid)
    assert found is not None
    return xml.read(found)


def plug(bench: Bench, nic: NicOrder = LAN, slot: int = 2) -> None:
    card = bench.card(nic, slot)
    bench.hypervisor.plug_nic(bench.uid, card.alias, xml.text(card.to_element()))


def run(bench: Bench) -> None:
    bench.hypervisor.create_paused(bench.xml())
    bench.hypervisor.resume(bench.uid)
    bench.wait_ready()


def test_a_nic_comes_and_goes_and_each_again_is_no_error(bench: Bench) -> None:
    run(bench)
    [pod] = guest(bench).nics
    assert (pod.name, pod.slot, pod.link_up) == ("default", None, True)
    for _ in range(2):
        plug(bench)
    assert guest(bench).nics == (pod, GuestNic("lan", ALIAS, LAN.mac, link_up=False, slot=2))
    assert 2 not in guest(bench).free_slots
    for up in (True, True, False):
        bench.hypervisor.set_link(bench.uid, ALIAS, up)
        found = guest(bench).nic("lan")
        assert found is not None
        assert found.link_up is up
    for _ in range(2):
        bench.hypervisor.unplug_nic(bench.uid, ALIAS)
    bench.heard(DomainEventKind.DEVICE, ALIAS)
    assert guest(bench).nics == (pod,)
    assert len(guest(bench).free_slots) == 31
    bench.hypervisor.unplug_nic(bench.uid, ALIAS)
    plug(bench)
    assert guest(bench).nic("lan") is not None


def test_what_is_not_there_cannot_be_plugged_into(bench: Bench) -> None:
    with pytest.raises(HostFault) as raised:
        bench.hypervisor.plug_nic(UNKNOWN, ALIAS, xml.text(bench.card(LAN).to_element()))
    assert raised.value.reason == "DomainGone"


def test_a_running_guest_sees_a_nic_come_and_go(qemu: QemuBench) -> None:
    run(qemu)
    plug(qemu, LAN.model_copy(update={"mtu": 1400, "queues": 2}))
    qemu.type("until ip link show dev eth1 2>/dev/null; do sleep 0.2; done", "ip link set eth1 up")
    qemu.shows("eth1: .*mtu 1400")
    qemu.type("cat /sys/class/net/eth1/carrier | sed 's/^/carrier=/'")
    qemu.shows("carrier=0")
    qemu.hypervisor.set_link(qemu.uid, ALIAS, True)
    qemu.type("until grep 1 /sys/class/net/eth1/carrier; do sleep 0.2; done; echo the cable is $((1+1))")
    qemu.shows("the cable is 2")
    qemu.hypervisor.unplug_nic(qemu.uid, ALIAS)
    qemu.type("while ip link show dev eth1 >/dev/null 2>&1; do sleep 0.2; done; echo it is gone: $((1+1))")
    qemu.shows("it is gone: 2")
    qemu.heard(DomainEventKind.DEVICE, ALIAS)
    assert guest(qemu).nic("lan") is None


def test_a_card_without_a_driver_comes_and_goes_too(qemu: QemuBench) -> None:
    run(qemu)
    plug(qemu, LAN.model_copy(update={"model": NicModel.E1000E}))
    place = "/sys/bus/pci/devices/0000:02:02.0"
    qemu.type(f"until cat {place}/vendor 2>/dev/null; do sleep 0.2; done")
    qemu.shows("0x8086")
    qemu.hypervisor.unplug_nic(qemu.uid, ALIAS)
    qemu.type(f"while [ -e {place} ]; do sleep 0.2; done; echo it is gone: $((1+1))")
    qemu.shows("it is gone: 2")
    pods.until(lambda: guest(qemu).nic("lan") is None, 30, "the NIC's end")


def test_a_guest_that_does_not_run_keeps_its_nic(qemu: QemuBench) -> None:
    run(qemu)
    plug(qemu)
    qemu.type("until ip link show dev eth1 2>/dev/null; do sleep 0.2; done")
    qemu.shows("eth1: ")
    qemu.hypervisor.suspend(qemu.uid)
    for _ in range(2):
        qemu.hypervisor.unplug_nic(qemu.uid, ALIAS)
    assert guest(qemu).nic("lan") is not None
    qemu.hypervisor.resume(qemu.uid)
    pods.until(lambda: guest(qemu).nic("lan") is None, 30, "the NIC's end")


def test_a_machine_boots_from_its_network_card(qemu: QemuBench) -> None:
    """Its boot ROM is in the agent's image, and speaks on the serial console."""
    [nic] = qemu.order.machine.nics
    machine = qemu.order.machine.model_copy(
        update={"kernel": None, "nics": (nic.model_copy(update={"boot_order": 1}),)}
    )
    qemu.order = qemu.order.model_copy(update={"machine": machine})
    qemu.hypervisor.create_paused(qemu.xml())
    qemu.hypervisor.resume(qemu.uid)
    qemu.shows("iPXE initialising devices", 60)
    qemu.shows("net0: 52:54:00:12:34:56 using virtio-net", 60)


def test_seven_nics_are_plugged_at_once(qemu: QemuBench) -> None:
    run(qemu)
    for number in range(2, 9):
        nic = LAN.model_copy(update={"name": f"lan-{number}", "mac": f"52:54:00:aa:bb:0{number}"})
        card = qemu.card(nic, number)
        netlink.make_tap(f"{card.tap}{number}")
        text = xml.text(card.to_element()).replace(card.tap, f"{card.tap}{number}")
        qemu.hypervisor.plug_nic(qemu.uid, card.alias, text)
    assert len(guest(qemu).nics) == 8
    qemu.type("until ip link show dev eth7 2>/dev/null; do sleep 0.2; done")
    qemu.shows("eth7: ")
