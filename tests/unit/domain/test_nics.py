"""NICs of a domain: what is refused, where they sit, and what is read back from a live one."""

from __future__ import annotations

import pytest

from berth.api.order import NicKind, NicOrder, Order
from berth.domain import build, files, nics, xml
from berth.domain.bootorder import BootOrders
from berth.domain.devices import address
from berth.domain.devices.hostdev import HostFunction
from berth.domain.host import Accelerator, Host
from berth.domain.observed import DomainState, Guest, GuestNic, ObservedDomain
from berth.errors import HostFault
from tests.golden.domain import cases


def rendered(order: Order, host: Host = cases.NET_HOST) -> str:
    taps = {nic.name: f"bt{index}" for index, nic in enumerate(order.machine.nics)}
    return xml.render(build.build(order, files.expected(order.uid, order.machine), taps, host))


def read(text: str) -> Guest:
    return xml.read(ObservedDomain("uid", "any", DomainState.RUNNING, text))


def test_a_function_that_the_pod_was_not_given_names_resource_and_next_step() -> None:
    with pytest.raises(HostFault, match=r"NIC fast: the pod has no PCI function of example.com/fast_net\. Next:") as no:
        rendered(cases.order(nics=(cases.FAST,)), cases.KVM)
    assert no.value.reason == "DeviceMissing"
    three = tuple(cases.FAST.model_copy(update={"name": f"fast-{n}"}) for n in range(3))
    with pytest.raises(HostFault, match="NIC fast-2"):
        rendered(cases.order(nics=three))


def test_what_is_no_pci_address_is_refused() -> None:
    with pytest.raises(HostFault, match="no PCI address"):
        HostFunction("fast", "eth0", "52:54:00:00:00:04", address.nic(0)).to_element()


def test_more_nics_than_slots() -> None:
    many = tuple(NicOrder(name=f"n-{n}", mac=f"52:54:00:00:00:1{n}") for n in range(9))
    with pytest.raises(HostFault, match=r"8 NICs \(given: 9\)"):
        list(nics.devices(cases.order(nics=many).machine, {}, cases.KVM, BootOrders()))


def test_every_nic_has_a_place_of_its_own() -> None:
    places = [address.nic(n) for n in range(8)]
    taken = {
        address.GRAPHICS_SLOT,
        address.SYSTEM_SLOT,
        address.ROOT_PORT_SLOT,
        *(address.disk(n).slot for n in range(25)),
    }
    assert len({place.slot for place in places} - taken) == 8


def test_vhost_is_for_kvm_only() -> None:
    order = cases.order()
    assert 'name="vhost"' in rendered(order, Host(Accelerator.KVM, 1, vhost=True))
    assert 'name="vhost"' not in rendered(order, Host(Accelerator.KVM, 1, vhost=False))
    assert 'name="vhost"' not in rendered(order, Host(Accelerator.TCG, 1, vhost=True))


def test_the_nics_of_a_live_domain() -> None:
    guest = read(rendered(cases.order(nics=(cases.NIC, cases.LAN, cases.FAST))))
    assert guest.nics == (
        GuestNic("default", "ua-nic-default", cases.NIC.mac),
        GuestNic("lan", "ua-nic-lan", cases.LAN.mac, link_up=False, slot=2),
        GuestNic("fast", "ua-nic-fast", cases.FAST.mac),
    )
    assert guest.free_slots == (1, *range(3, 32))


def test_a_guest_of_an_older_berth_has_nics_without_names_and_no_slots() -> None:
    text = rendered(cases.order()).replace('alias name="ua-nic-default"', 'alias name="net0"')
    text = text.replace("pcie-to-pci-bridge", "pci-bridge")
    guest = read(text)
    assert guest.nics == (GuestNic("default", "net0", cases.NIC.mac),)
    assert guest.free_slots == ()


def test_what_somebody_else_plugged_in_is_none_of_ours() -> None:
    text = rendered(cases.order(nics=(cases.NIC,)))
    foreign = '<interface type="user"><mac address="52:54:00:99:99:99"/><alias name="net7"/></interface></devices>'
    assert [nic.name for nic in read(text.replace("</devices>", foreign)).nics] == ["default"]


def test_only_nics_on_segments_come_and_go() -> None:
    assert [kind for kind in NicKind if nics.plugs(cases.NIC.model_copy(update={"kind": kind}))] == [NicKind.SEGMENT]
