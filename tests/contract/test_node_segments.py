"""Segments over real bridges, VXLAN and nftables: two nodes, guests on both, each joined through its own berth."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berth.effects import wiring
from berth.effects.berths import NodeBerths
from tests.contract import pods
from tests.contract.segment_lab import Guest, Lab


@pytest.fixture
def lab(start_pod: Callable[..., pods.FakePod], berths: NodeBerths, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(start_pod, berths, tmp_path)
    yield made
    made.close()


def test_guests_on_one_node_and_on_two(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    guests = [lab.guest(node).start() for node in (a, a, b)]
    for node in (a, b):
        node.tell(*guests)
    for guest in guests:
        guest.configure()
    for one in guests:
        for other in guests:
            if one is not other:
                for address in other.nic.addresses:
                    assert one.pings(address.partition("/")[0]), (one.number, address)
