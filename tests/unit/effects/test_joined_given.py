"""What a further interface of the pod was given by its own IPAM is the guest's, also for an agent that starts over."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field, replace
from typing import cast

from berth.effects import joined_nic
from berth.effects.rtlinks import Device, Links

NET1 = Device(3, "net1", "02:00:00:00:77:01", 1500, up=True)
GIVEN = (ipaddress.ip_interface("10.78.0.2/24"), ipaddress.ip_interface("fd78::2/64"))


@dataclass
class Kernel:
    """One interface, as far as _given asks for it."""

    addresses: list[str]
    aliases: list[str] = field(default_factory=list)

    def every_address(self) -> dict[int, list[str]]:
        return {NET1.index: self.addresses}

    def set_alias(self, index: int, alias: str) -> None:
        assert index == NET1.index
        self.aliases.append(alias)


def given(kernel: Kernel, alias: str = "") -> tuple[object, ...]:
    return joined_nic._given(cast(Links, kernel), replace(NET1, alias=alias))


def test_addresses_are_noted_before_they_are_taken_off() -> None:
    kernel = Kernel(["10.78.0.2/24", "fd78::2/64", "fe80::1234/64"])
    assert given(kernel) == GIVEN
    assert kernel.aliases == ["berth: 10.78.0.2/24 fd78::2/64"]


def test_they_are_known_when_they_are_gone_and_nothing_is_written_again() -> None:
    kernel = Kernel([])
    assert given(kernel, "berth: 10.78.0.2/24 fd78::2/64") == GIVEN
    assert kernel.aliases == []


def test_half_taken_off_is_still_all() -> None:
    kernel = Kernel(["fd78::2/64"])
    assert given(kernel, "berth: 10.78.0.2/24 fd78::2/64") == GIVEN
    assert kernel.aliases == []


def test_an_interface_without_addresses_gives_none_and_keeps_its_alias() -> None:
    kernel = Kernel([])
    assert given(kernel, "somebody's") == ()
    assert kernel.aliases == []
