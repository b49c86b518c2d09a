"""A machine on an overlay that moves to another node: who hears of it, and when."""

from __future__ import annotations

import os

from berth.api.handover import DoorOrder, Forward
from tests.contract.hostile import GATEWAY_MAC
from tests.contract.lan import run
from tests.contract.segment_lab import Guest, Lab, mac, up


def attach_silently(guest: Guest) -> list[object]:
    guest.node.changes.clear()
    call = guest.node.network.attach
    guest.node.call(lambda: call(guest.uid, guest.berth, [guest.nic], "guest", silent=True))
    return list(guest.node.changes)


def expected(lab: Lab, source: Guest) -> Guest:
    """The target's berth, on the second node: the same machine, its QEMU waits."""
    target = lab.guest(lab.nodes[1], number=source.number)
    pod, fd = target.pod.pid, target.netns
    run(target.node.netns, f"ip link add q0 type veth peer name eth0 netns {pod}; ip link set q0 up")
    run(fd, "ip link set lo up; ip link set eth0 up; ip addr add 10.78.0.5/24 dev eth0")
    taps = target.node.call(lambda: target.node.network.create_taps(target.uid, 0, [target.nic]))
    target._plug(taps["lan"], "enp0", target.nic.mac, offloads=False)
    return target


def forward(source: Guest) -> Forward:
    own = f"10.77.{source.number}.5"
    door = DoorOrder(number=1, node="node1", pod_uid=source.pod.uid, addresses=(own,))
    return Forward(door=door, node="node2", addresses=("10.78.0.5",))


def test_the_target_is_silent_until_it_is_announced_and_the_source_ever_after(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    source, near, far = up(lab, a, a, b)
    source.wire_pod()
    address, own = source.address(), mac(source.nic.mac)
    target = expected(lab, source)

    def ours(frame: bytes) -> bool:
        return frame[6:12] == own

    def others(frame: bytes) -> bool:
        """Its berth advertises itself to it all the time."""
        return frame[6:12] != GATEWAY_MAC

    def says_where(frame: bytes) -> bool:
        """Unasked: a gratuitous ARP, or a neighbour advertisement to all."""
        arp = frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42]
        return ours(frame) and (arp or (frame[:6] == mac("33:33:00:00:00:01") and frame[54:55] == b"\x88"))

    assert far.hears(says_where, lambda: attach_silently(target)) == []
    assert attach_silently(target) == []
    b.start_agent()
    b.tell(source, near, far)
    assert attach_silently(target) == []
    assert target.hears(others, lambda: far.pings(address)) == []
    assert far.pings(address)

    depart = a.network.depart
    a.call(lambda: depart(source.uid, source.berth, [source.nic], forward(source)))
    a.start_agent()
    a.tell(source, near, far)
    a.call(lambda: a.network.depart(source.uid, source.berth, [source.nic], forward(source)))
    assert source.attach() == []  # what was left stays so, whoever serves it
    for guest in (near, far):
        guest.run("ip neigh flush all")
        assert guest.hears(ours, lambda g=guest: g.pings(address, seconds=0.5)) == []  # type: ignore[misc]

    for node in (a, b):
        node.tell(target, near, far, version=2)
    announce = b.network.announce
    for guest in (near, far):
        said = guest.hears(says_where, lambda: b.call(lambda: announce(target.uid, target.berth, [target.nic])))
        assert {frame[12:14] for frame in said} >= {b"\x08\x06", b"\x86\xdd"}
    target.configure()
    for guest in (near, far):
        assert guest.pings(address)
    assert source.hears(lambda frame: True, lambda: near.pings(address)) == []
    assert target.attach() == []


def test_back_on_the_first_node_while_the_berth_that_was_left_is_still_there(lab: Lab) -> None:
    """Both are of one machine: their devices on the node have the same names."""
    a, b = lab.node(), lab.node()
    source, near, far = up(lab, a, a, b)
    source.wire_pod()
    a.call(lambda: a.network.depart(source.uid, source.berth, [source.nic], forward(source)))
    lab.nodes.reverse()  # the next target is on the node that it left
    target = expected(lab, source)
    assert target.node is a
    attach_silently(target)
    assert attach_silently(target) == []
    assert not near.pings(source.address(), seconds=0.3)
    a.call(lambda: a.network.announce(target.uid, target.berth, [target.nic]))
    target.configure()
    for guest in (near, far):
        assert guest.pings(target.address())
    a.call(lambda: a.network.depart(source.uid, source.berth, [source.nic], forward(source)))  # led on once more
    assert target.attach() == []
    for guest in (near, far):
        assert guest.pings(target.address())


def test_a_machine_that_stays_after_all_is_heard_again(lab: Lab) -> None:
    a, b = lab.node(), lab.node()
    source, near, far = up(lab, a, a, b)
    source.wire_pod()
    for _ in range(2):
        a.call(lambda: a.network.depart(source.uid, source.berth, [source.nic], forward(source)))
        assert not near.pings(source.address(), seconds=0.5)
        said = far.hears(
            lambda frame: frame[6:12] == mac(source.nic.mac),
            lambda: a.call(lambda: a.network.stay(source.uid, source.berth, [source.nic])),
        )
        assert said
        for guest in (near, far):
            assert guest.pings(source.address())
        assert source.attach() == []
    assert "away" not in run(source.netns, "ip link")
    assert os.path.exists(f"/proc/{source.pod.pid}")
