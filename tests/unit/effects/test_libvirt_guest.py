"""What a guest says of itself, cut to what may be shown: a hostile one can say anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berth.api.order import NicReport
from berth.effects import libvirt_guest

SAID: dict[str, object] = {
    "if.count": 3,
    "if.0.name": "lo",
    "if.0.hwaddr": "00:00:00:00:00:00",
    "if.0.addr.count": 1,
    "if.0.addr.0.addr": "127.0.0.1",
    "if.1.name": "eth1",
    "if.1.hwaddr": "52:54:00:AA:BB:CC",
    "if.1.addr.count": 3,
    "if.1.addr.0.type": "ipv6",
    "if.1.addr.0.addr": "FE80::1",
    "if.1.addr.0.prefix": 64,
    "if.1.addr.1.addr": "10.9.0.4",
    "if.1.addr.2.addr": "10.9.0.4",
    "if.2.name": "eth0",
    "if.2.hwaddr": "52:54:00:12:34:56",
}
KEYS = st.sampled_from([*SAID, "if.1.addr.9.addr", "if.7.hwaddr", "hostname", "os.name"])
VALUES = st.none() | st.integers() | st.booleans() | st.text(max_size=600) | st.lists(st.integers(), max_size=2)


def test_interfaces_in_an_order_of_our_own_without_loopback() -> None:
    assert libvirt_guest.nics(SAID) == (
        NicReport(mac="52:54:00:12:34:56", name="eth0"),
        NicReport(mac="52:54:00:aa:bb:cc", name="eth1", addresses=("10.9.0.4", "fe80::1")),
    )


@pytest.mark.parametrize(
    "bad", ["", "10.0.0.256", "fe80::1%eth0", "127.0.0.1", "::1", "10.0.0.1\n", "a" * 10_000, 7, None]
)
def test_what_is_no_address_is_left_out(bad: object) -> None:
    [_, nic] = libvirt_guest.nics(SAID | {"if.1.addr.1.addr": bad, "if.1.addr.2.addr": bad})
    assert nic.addresses == ("fe80::1",)


@pytest.mark.parametrize("bad", ["", "52:54:00:aa:bb", "52-54-00-aa-bb-cc", "zz:54:00:aa:bb:cc", 7, None])
def test_what_has_no_mac_address_is_no_interface(bad: object) -> None:
    assert len(libvirt_guest.nics(SAID | {"if.1.hwaddr": bad})) == 1


def test_a_guest_cannot_say_too_much() -> None:
    said: dict[str, object] = {"if.count": 1 << 40}
    for i in range(100):
        said |= {f"if.{i}.name": f"\x1b[31m{'n' * 600}", f"if.{i}.hwaddr": f"52:54:00:00:00:{i:02x}"}
        said[f"if.{i}.addr.count"] = 1 << 40
        said |= {f"if.{i}.addr.{j}.addr": f"10.0.{i}.{j}" for j in range(100)}
    found = libvirt_guest.nics(said)
    assert len(found) == libvirt_guest.MOST_NICS
    assert all(len(nic.addresses) == libvirt_guest.MOST_ADDRESSES for nic in found)
    assert all(len(nic.name) == libvirt_guest.NAME_CHARS and nic.name.isprintable() for nic in found)


@given(st.dictionaries(KEYS, VALUES, max_size=20))
def test_anything_can_be_said(said: dict[str, object]) -> None:
    for nic in libvirt_guest.nics({**SAID, **said}):
        assert len(nic.mac) == 17
        assert all(len(address) < 46 for address in nic.addresses)
    told = libvirt_guest.info(said)
    assert told.agent_connected
    assert all(text is None or text.isprintable() for text in (told.hostname, told.os))
