"""Two hundred lives of NICs leave nothing behind, and neither does an agent that dies in the middle of one."""

from __future__ import annotations

import os
import random

import pytest

from berth.api.order import NicKind, NicOrder, SegmentKind, SegmentOrder
from tests.contract import pods
from tests.contract.lan import run
from tests.contract.segment_lab import OVERLAY, Guest, Lab, Node

LIVES = 200  # two NICs at a time
RED = OVERLAY.model_copy(update={"uid": "7c1b3c0e-1c55-4d9e-9a3b-222222222222", "name": "lab/red", "vni": 200})
BRIDGE = SegmentOrder(
    uid="7c1b3c0e-1c55-4d9e-9a3b-333333333333", name="lab/lan", kind=SegmentKind.BRIDGE, device="br-lab"
)


def on(node: Node) -> dict[str, list[str]]:
    """All that there is on a node: names of devices, rules, routes, addresses, neighbours, forwarding entries."""
    shown = {
        "devices": "ip -o link show | cut -d: -f2",
        "addresses": "ip -o addr show | cut -d' ' -f2-7",
        "routes": "ip route show table all; ip -6 route show table all",
        "neighbours": "ip neigh show nud permanent",
        "entries": "bridge fdb show | grep -E 'permanent|dst' || true",  # what is learned is forgotten by itself
        "rules": "nft -n list ruleset",
        "shaping": "tc qdisc show",
    }
    return {what: sorted(node.run(s).splitlines()) for what, s in shown.items()} | {
        f"segments' {what}": sorted(node.in_space(s).splitlines()) for what, s in shown.items()
    }


def inside(guest: Guest) -> list[str]:
    """What is in a berth. That it forwards between its devices stays, and with it anycast addresses of its own."""
    shown = "ip -o link | cut -d: -f2; ip route show table all; ip neigh show nud permanent; nft list ruleset; tc qdisc"
    return [line for line in run(guest.netns, shown).splitlines() if not line.startswith("anycast")]


@pytest.mark.timeout(400)
def test_two_hundred_lives_leave_nothing_behind(lab: Lab) -> None:
    chance = random.Random(4)
    nodes = [lab.node(), lab.node()]
    for node in nodes:
        node.run("ip link add br-lab address 02:00:00:00:00:0b type bridge")
        node.run("echo 1 >/proc/sys/net/ipv6/conf/br-lab/disable_ipv6; ip link set br-lab up")
    guests = [lab.guest(node).wire_pod() for node in nodes for _ in range(2)]
    resident = [lab.guest(node, RED).start() for node in nodes]
    for node in nodes:
        node.tell(*resident, order=RED)
        node.call(node.network.tidy)
        pods.until(lambda n=node: not n.run("ip -6 -o addr show tentative").strip(), what="its addresses being its own")
    before, berths_before = [on(node) for node in nodes], [inside(guest) for guest in guests]
    threads, descriptors = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    for life in range(LIVES // len(guests) // 2):
        for guest in guests:
            orders = chance.sample([OVERLAY.model_copy(update={"nat": bool(life % 2)}), RED, BRIDGE], 2)
            nics = [nic_of(guest, at, order, life) for at, order in enumerate(orders)]
            network, uid, berth = guest.node.network, guest.uid, guest.berth

            def live(nics: list[NicOrder] = nics, network=network, uid=uid, berth=berth) -> None:  # type: ignore[no-untyped-def]
                network.create_taps(uid, 0, nics)
                network.attach(uid, berth, nics, "guest")
                network.attach(uid, berth, nics[:1], "guest")

            guest.node.call(live)
        for node in nodes:
            node.tell(*guests, *resident, version=2 * life + 2)
        for guest in guests:
            guest.node.call(lambda g=guest: g.node.network.attach(g.uid, g.berth, [], "guest"))
            guest.node.call(lambda g=guest: g.node.network.detach(g.uid))
    for node in nodes:
        node.call(node.network.tidy)
    for node, was in zip(nodes, before, strict=True):
        now = on(node)
        for what, rows in was.items():
            assert now[what] == rows, what
    for guest, rows in zip(guests, berths_before, strict=True):
        assert inside(guest) == rows
    assert len(os.listdir("/proc/self/task")) <= threads + 2  # the nodes' DHCP
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 4


def nic_of(guest: Guest, at: int, order: SegmentOrder, life: int) -> NicOrder:
    return guest.nic.model_copy(
        update={
            "name": f"nic{at}-{life % 3}",
            "segment": order,
            "gateways": ("10.9.0.1", "fd00:9::1") if order.nat else (),
            "anti_spoofing": bool(life % 5),
        }
    )


def test_a_pod_that_dies_takes_everything_along(lab: Lab) -> None:
    node = lab.node()
    guest = lab.guest(node)
    node.call(lambda: node.network.create_taps(guest.uid, 0, [guest.nic]))
    guest.attach()
    assert len(node.in_space("ip -o link").splitlines()) == 4
    guest.pod.stop()
    node.network.dhcp.keep(guest.uid, set())
    node.start_agent()  # one that knows nothing of it
    pods.until(
        lambda: node.call(node.network.tidy) or len(node.in_space("ip -o link").splitlines()) == 1, what="the end"
    )


@pytest.mark.timeout(400)
def test_an_agent_killed_at_any_point_is_followed_by_one_that_mends_it(lab: Lab) -> None:
    """Each time it dies one change later, until one gets to the end."""
    node = lab.node()
    guest = lab.guest(node).wire_pod()
    nat = OVERLAY.model_copy(update={"nat": True})
    guest.nic = guest.nic.model_copy(update={"segment": nat, "gateways": ("10.9.0.1", "fd00:9::1")})
    guest.others = (NicOrder(name="net1", mac="52:54:00:09:01:01", kind=NicKind.SEGMENT, segment=RED),)
    kills = 0
    node.call(lambda: node.network.create_taps(guest.uid, 0, [guest.nic, *guest.others]))
    while attach_and_die_after(guest, kills):
        kills += 1
    assert kills > 20
    assert guest.attach() == []
    guest.stop()
    assert len(node.in_space("ip -o link").splitlines()) == 1


class Killed(BaseException):
    """Nobody catches it, and nobody tidies up for it: the kernel is left as by SIGKILL."""


def attach_and_die_after(guest: Guest, changes: int) -> bool:
    """From nothing on the way; whether it died before it had done everything. The next agent mends it."""
    nics, node = [guest.nic, *guest.others], guest.node
    node.call(lambda: node.network.attach(guest.uid, guest.berth, [], "guest"))
    node.call(lambda: node.network.create_taps(guest.uid, 0, nics))
    left = [changes]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    node.network.on_change = count
    died = False
    try:
        node.call(lambda: node.network.attach(guest.uid, guest.berth, nics, "guest"))
    except Killed:
        died = True
    node.network.dhcp.keep(guest.uid, set())  # its sockets die with it
    node.start_agent()
    guest.attach()
    assert guest.attach() == [], changes
    return died
