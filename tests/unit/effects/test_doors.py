"""The ways between berths, as values: which tunnels, which rules, which connections."""

from __future__ import annotations

import ipaddress

import pytest

from berth.api.handover import DoorOrder, Flow, Forward
from berth.effects import conntrack, door_rules, doors
from berth.effects.memory_doors import Moves
from berth.effects.rtwords import attribute
from berth.errors import HostFault

A = DoorOrder(number=1, node="a", pod_uid="pod-a", addresses=("10.0.1.5", "fd00:1::5"))
B = DoorOrder(number=2, node="b", pod_uid="pod-b", addresses=("10.0.2.9",))
UPLINK = doors.Uplink(1450, ("10.0.3.7", "fd00:3::7"))
GUESTS = (ipaddress.IPv4Address("10.0.2.2"), ipaddress.IPv6Address("fd00:10:0:2::2"))


def test_each_door_has_a_tunnel_and_the_last_is_where_the_guest_came_from() -> None:
    found = doors.to_doors([A, B], UPLINK)
    assert [(t.name, t.remote, t.local, t.note) for t in found.values()] == [
        ("door1", "10.0.1.5", "10.0.3.7", "door"),
        ("door2", "10.0.2.9", "10.0.3.7", "last"),
    ]
    assert {t.mtu for t in found.values()} == {1450}
    assert len({t.vni for t in found.values()}) == 2
    assert doors.to_doors([], UPLINK) == {}


def test_both_ends_of_a_tunnel_fit() -> None:
    """What the door makes of its Forward, and the target of its DoorOrder."""
    there = doors.away(Forward(door=A, node="c", addresses=UPLINK.addresses), doors.Uplink(1450, A.addresses))
    here = doors.to_door(A, UPLINK, last=True)
    assert (there.vni, there.local, there.remote) == (here.vni, here.remote, here.local)
    assert doors.other_mac(there) == here.mac
    assert doors.other_mac(here) == there.mac
    assert there.vni & 0xFF == 1


def test_families() -> None:
    six = DoorOrder(number=3, node="d", pod_uid="pod-d", addresses=("fd00:4::5",))
    tunnel = doors.to_door(six, UPLINK, last=True)
    assert (tunnel.remote, tunnel.mtu) == ("fd00:4::5", 1380)
    with pytest.raises(HostFault) as caught:
        doors.to_door(six, doors.Uplink(1450, ("10.0.3.7",)), last=True)
    assert caught.value.reason == "DoorUnreachable"
    assert "fd00:4::5" in str(caught.value)


def test_a_door_hears_the_machine_s_other_pods_and_nobody_else() -> None:
    forward = Forward(
        door=A, node="c", addresses=("10.0.3.7",), others=("10.0.1.5", "10.0.2.9", "10.0.3.7", "fd00:9::1")
    )
    tunnel = doors.away(forward, doors.Uplink(1450, A.addresses))
    assert doors.callers(tunnel) == ["10.0.3.7", "10.0.2.9"]
    script = door_rules.build([tunnel], 1450).ruleset.script
    assert 'iifname "eth0" ip saddr 10.0.3.7 udp dport 14790 notrack' in script
    assert 'oifname "eth0" ip daddr 10.0.2.9 udp dport 14790 drop' in script
    assert "10.0.1.5" not in script
    assert "fd00:9::1" not in script


def test_only_the_last_door_keeps_the_marks_that_others_gave() -> None:
    script = door_rules.build(list(doors.to_doors([A, B], UPLINK).values()), 1450).ruleset.script
    assert 'iifname "door1" ct mark set 0xbe01' in script
    assert 'iifname "door2" ct mark 0 ct mark set 0xbe02' in script
    assert "tcp option maxseg size set 1360" in script
    assert "tcp option maxseg size set 1340" in script


def test_a_connection_is_told_once_that_its_packets_are_too_big() -> None:
    tunnels = [*doors.to_doors([B], UPLINK).values()]
    tunnels.append(doors.away(Forward(door=A, node="c", addresses=("10.0.9.9",)), UPLINK))
    script = door_rules.build(tunnels, 1450).ruleset.script
    ends = "ip saddr . tcp sport . ip daddr . tcp dport"
    told = f"meta length > 1400 {ends} != @hinted add @hinted {{ {ends} }} meta mark set"
    assert f'iifname "vm0" meta mark 0xbe02 {told} 0xbf02' in script
    assert f'iifname "eth0" fib daddr type local {told} 0xbf00' in script


@pytest.mark.parametrize(("mark", "door"), [(0, 0), (0xBE01, 1), (0xBEFF, 255), (1, 0), (0xBF01, 0)])
def test_marks(mark: int, door: int) -> None:
    assert doors.door_of(mark) == door
    assert not door or doors.mark(door) == mark


@pytest.mark.parametrize("outgoing", [False, True])
@pytest.mark.parametrize(
    ("protocol", "guest", "peer"),
    [(6, "10.0.2.2", "192.0.2.1"), (17, "fd00:10:0:2::2", "2001:db8::1"), (1, "10.0.2.2", "192.0.2.1"),
     (58, "fd00:10:0:2::2", "2001:db8::1")],
)  # fmt: skip
def test_what_one_kernel_is_told_is_what_the_other_knew(protocol: int, guest: str, peer: str, outgoing: bool) -> None:
    echo = protocol in (1, 58)
    flow = Flow(door=1, protocol=protocol, guest=guest, guest_port=77, peer=peer, peer_port=0 if echo else 4000,
                outgoing=outgoing, state=3 if protocol == 6 else 0, status=6, seconds=100)  # fmt: skip
    read = conntrack._connection(conntrack._told(flow, doors.mark(1)))
    assert read is not None
    assert doors.door_of(read.mark) == 1
    assert read.flow(GUESTS, 1) == flow


def test_behind_its_pod_s_address_the_guest_is_known_by_its_own() -> None:
    """Its side of a translated connection is what counts, whoever began."""
    guest, peer, pod = (ipaddress.IPv4Address(a) for a in ("10.0.2.2", "192.0.2.1", "10.0.1.5"))
    inward = conntrack.Connection(
        conntrack.Ends(peer, pod, 6, 4000, 80), conntrack.Ends(guest, peer, 6, 80, 4000), 0, 14, 60, 3
    )
    outward = conntrack.Connection(
        conntrack.Ends(guest, peer, 17, 5000, 53), conntrack.Ends(peer, pod, 17, 53, 31000), 0, 2, 60
    )
    found = [one.flow(GUESTS, 9) for one in (inward, outward)]
    assert [(f.guest_port, f.peer_port, f.outgoing, f.door) for f in found if f] == [
        (80, 4000, False, 9),
        (5000, 53, True, 9),
    ]
    assert inward.flow([ipaddress.IPv4Address("10.0.2.3")], 9) is None


@pytest.mark.parametrize(("protocol", "state", "still"), [(6, 3, True), (6, 7, False), (6, 8, False), (17, 0, True)])
def test_what_is_open(protocol: int, state: int, still: bool) -> None:
    flow = Flow(door=1, protocol=protocol, guest="10.0.2.2", guest_port=1, peer="192.0.2.1", peer_port=2, state=state)
    assert conntrack.is_open(flow) is still


def test_a_protocol_that_no_other_kernel_is_told_of() -> None:
    assert conntrack._connection(bytes(4) + attribute(1, b"") + attribute(2, b"")) is None


def test_in_memory_a_door_that_closes_takes_its_own() -> None:
    moves, flow = Moves(), Flow(door=0, protocol=6, guest="10.0.2.2", guest_port=80, peer="192.0.2.1", peer_port=9)
    moves.flows["pod-a"] = (flow,)
    assert moves.connections("pod-a") == 1
    told = moves.depart("pod-a", Forward(door=A, node="b", addresses=B.addresses))
    assert [one.door for one in told] == [1]
    moves.attach("pod-b", [A], silent=True)
    moves.arrive("pod-b", told)
    moves.arrive("pod-b", told)
    assert (len(moves.flows["pod-b"]), moves.connections("pod-b"), moves.silent) == (1, 0, {"pod-b"})
    moves.attach("pod-b", [], silent=False)
    assert (moves.flows["pod-b"], moves.silent) == ((), set())
