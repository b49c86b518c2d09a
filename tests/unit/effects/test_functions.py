"""PCI functions of a pod: what a device plugin set, and what a process may have made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from berth.effects import functions
from berth.errors import HostFault

RESOURCE = "example.com/fast_net-2"
NAME = b"PCIDEVICE_EXAMPLE_COM_FAST_NET_2"


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    for address, kind in (("0000:03:02.0", "0x020000"), ("0000:03:02.1", "0x020000"), ("0000:00:1f.2", "0x010601")):
        (tmp_path / address).mkdir()
        (tmp_path / address / "class").write_text(f"{kind}\n")
    return tmp_path


def read(environ: bytes, devices: Path) -> dict[str, tuple[str, ...]]:
    return functions.addresses(environ, [RESOURCE, RESOURCE, "example.com/other"], devices)


def test_the_name_is_the_plugins() -> None:
    assert functions.variable(RESOURCE).encode() == NAME


def test_all_addresses_of_a_resource(devices: Path) -> None:
    environ = b"PATH=/bin\0" + NAME + b"_INFO={}\0" + NAME + b"=0000:03:02.1,0000:03:02.0\0HOME=/\0"
    assert read(environ, devices) == {RESOURCE: ("0000:03:02.1", "0000:03:02.0")}


@pytest.mark.parametrize("environ", [b"", b"PATH=/bin\0", NAME + b"=\0", b"X" + NAME + b"=0000:03:02.1\0"])
def test_a_pod_that_was_given_nothing(environ: bytes, devices: Path) -> None:
    assert read(environ, devices) == {}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"0000:00:1f.2", "DeviceInvalid"),  # a disk controller
        (b"../../0000:03:02.1", "DeviceInvalid"),
        (b"0000:03:02.1/..", "DeviceInvalid"),
        (b"\xff" * 300, "DeviceInvalid"),
        (b"0000:04:00.0", "DeviceMissing"),
    ],
)
def test_what_is_no_function_of_a_network_card_is_refused(value: bytes, reason: str, devices: Path) -> None:
    with pytest.raises(HostFault) as raised:
        read(NAME + b"=" + value + b"\0", devices)
    assert raised.value.reason == reason
    assert NAME.decode() in str(raised.value)
