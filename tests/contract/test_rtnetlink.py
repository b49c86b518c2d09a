"""Route netlink against the kernel, in a network namespace of its own, seen with `ip` as well."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from berth.effects import namespaces, tbf
from berth.effects.rtnetlink import PERMANENT, LinkInfo, NeighbourInfo, NetlinkError, Route
from tests.contract.lan import new_namespace

T = TypeVar("T")
MAC = "02:00:0a:00:02:01"


@pytest.fixture
def netns() -> Iterator[int]:
    fd = new_namespace()
    ip(fd, "link", "add", "a0", "type", "veth", "peer", "name", "b0")
    yield fd
    os.close(fd)


def ip(netns: int, *words: str) -> Any:
    command = ["nsenter", f"--net=/proc/self/fd/{netns}", "ip", "-json", *words]
    said = subprocess.run(command, pass_fds=[netns], check=True, capture_output=True, text=True).stdout
    return json.loads(said) if said.strip() else None


def inside(netns: int, work: Callable[[Route], T]) -> T:
    def call() -> T:
        with Route() as route:
            return work(route)

    return namespaces.in_network(netns, call)


def link(netns: int, name: str) -> LinkInfo:
    return next(found for found in inside(netns, Route.links) if found.name == name)


def test_links_are_what_ip_says(netns: int) -> None:
    told = {one["ifname"]: (one["ifindex"], one["address"], one["mtu"]) for one in ip(netns, "link")}
    assert {one.name: (one.index, one.mac, one.mtu) for one in inside(netns, Route.links)} == told


def test_a_link_is_set_up(netns: int) -> None:
    index = link(netns, "a0").index
    inside(netns, lambda route: route.set_link(index, mac=MAC, mtu=1400))
    assert not link(netns, "a0").up
    inside(netns, lambda route: route.set_link(index, up=True))
    assert link(netns, "a0") == LinkInfo(index, "a0", MAC, 1400, True)


def test_addresses_come_and_go_and_twice_is_no_error(netns: int) -> None:
    index = link(netns, "a0").index
    for _ in range(2):
        inside(netns, lambda route: route.add_address(index, "10.0.2.1/24"))
    assert inside(netns, lambda route: route.addresses(index)) == ["10.0.2.1/24"]
    assert ip(netns, "-4", "addr", "show", "dev", "a0")[0]["addr_info"][0]["prefixlen"] == 24
    assert inside(netns, lambda route: route.addresses(link(netns, "b0").index)) == []
    inside(netns, lambda route: route.delete_address(index, "10.0.2.1/24"))
    assert inside(netns, lambda route: route.addresses(index)) == []


def test_a_neighbour_is_permanent(netns: int) -> None:
    index = link(netns, "a0").index
    inside(netns, lambda route: route.set_link(index, up=True))
    for mac in ("52:54:00:00:00:01", "52:54:00:00:00:02"):
        inside(netns, lambda route, mac=mac: route.set_neighbour(index, "10.0.2.2", mac))  # type: ignore[misc]
    found = inside(netns, lambda route: route.neighbours(index))
    assert found == [NeighbourInfo("10.0.2.2", "52:54:00:00:00:02", PERMANENT)]


def test_ipv6_addresses_are_used_at_once(netns: int) -> None:
    """Nobody else on the guest's link could have them: the kernel does not look for duplicates first."""
    index = link(netns, "a0").index
    inside(netns, lambda route: route.set_link(index, up=True))
    for _ in range(2):
        inside(netns, lambda route: route.add_address(index, "fd00:10:0:2::1/64"))
    assert "fd00:10:0:2::1/64" in inside(netns, lambda route: route.addresses(index))
    told = [
        found for found in ip(netns, "-6", "addr", "show", "dev", "a0")[0]["addr_info"] if found["local"][:2] == "fd"
    ]
    assert [(found["prefixlen"], found["scope"], "tentative" in found) for found in told] == [(64, "global", False)]
    inside(netns, lambda route: route.delete_address(index, "fd00:10:0:2::1/64"))
    assert "fd00:10:0:2::1/64" not in inside(netns, lambda route: route.addresses(index))


def test_ipv6_neighbours_are_permanent(netns: int) -> None:
    index = link(netns, "a0").index
    inside(netns, lambda route: route.set_link(index, up=True))
    inside(netns, lambda route: route.set_neighbour(index, "fd00:10:0:2::2", MAC))
    found = inside(netns, lambda route: route.neighbours(index))
    assert NeighbourInfo("fd00:10:0:2::2", MAC, PERMANENT) in found


def test_what_a_link_sends_is_ordered_by_one_qdisc(netns: int) -> None:
    index = link(netns, "a0").index
    options = tbf.encode(tbf.Bucket(125_000, 20_000, 100_000))
    inside(netns, lambda route: route.set_root_qdisc(index, 0xBE270000, "tbf", options))
    found = inside(netns, lambda route: route.root_qdisc(index))
    assert found is not None
    assert (found.handle, found.kind) == (0xBE270000, "tbf")
    assert tbf.matches(found.options, tbf.Bucket(125_000, 20_000, 100_000))
    assert inside(netns, lambda route: route.root_qdisc(9999)) is None
    inside(netns, lambda route: route.delete_root_qdisc(index))
    after = inside(netns, lambda route: route.root_qdisc(index))
    assert after is None or after.kind != "tbf"


def test_a_link_moves_and_is_named_anew(netns: int) -> None:
    other = new_namespace()
    index = link(netns, "a0").index
    inside(netns, lambda route: route.move_link(index, other, "vm0"))
    assert {one.name for one in inside(other, Route.links)} >= {"vm0"}
    assert "a0" not in {one.name for one in inside(netns, Route.links)}
    inside(other, lambda route: route.delete_link(link(other, "vm0").index))
    assert "vm0" not in {one.name for one in inside(other, Route.links)}
    os.close(other)


def test_many_links_are_all_listed(netns: int) -> None:
    for number in range(30):
        ip(netns, "link", "add", f"d{number}", "type", "veth", "peer", "name", f"e{number}")
    assert len(inside(netns, Route.links)) == len(ip(netns, "link"))


def test_the_kernel_s_answer_is_raised(netns: int) -> None:
    with pytest.raises(NetlinkError, match="No such device"):
        inside(netns, lambda route: route.set_link(9999, up=True))
    with pytest.raises(NetlinkError, match="Cannot assign requested address"):
        inside(netns, lambda route: route.delete_address(link(netns, "a0").index, "10.9.9.9/24"))
